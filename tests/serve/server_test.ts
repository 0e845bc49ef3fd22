// The server over HTTP: what it answers. Answers are compared with the library's own.
import "../pooled_gpu.ts";
import assert from "node:assert/strict";
import { renderChat } from "../../lib/text/chat_template.ts";
import { createChat } from "../../lib/generate/chat.ts";
import { generate } from "../../lib/generate/generate.ts";
import { generateText } from "../../lib/generate/text.ts";
import { tokenLogprobs } from "../../lib/eval/logprobs.ts";
import { eventsOf, NAME, serveDemo, serveTalker } from "./helpers/server.ts";

/** One of the demo's held-out questions: it answers "in Essen" and ends. */
const PROMPT =
  "Answer the question.\nStory: Max saw eighteen stars. Rosa took the daisy. Paul met the cricket. John went to Essen. Where is John?\n";
const COMPLETIONS = "/v1/completions";
const CHAT = "/v1/chat/completions";

Deno.test("completions are the library's own text, whole, in a stream, for strings and for tokens", async () => {
  await using served = await serveDemo();
  const { post, model } = served, { tokenizer } = model;
  const ids = tokenizer?.encode(PROMPT) ?? [];
  const penalties = { repetition_penalty: 1.1, frequency_penalty: 0.5, presence_penalty: -0.2 };
  const settings = { temperature: 0.8, top_p: 0.9, top_k: 20, ...penalties, seed: 7, max_tokens: 12 };
  let text = "";
  const { temperature, top_p: topP, top_k: topK, repetition_penalty: repetitionPenalty, seed } = settings;
  const { frequency_penalty: frequencyPenalty, presence_penalty: presencePenalty } = settings;
  const options = { temperature, topP, topK, repetitionPenalty, frequencyPenalty, presencePenalty, seed };
  for await (const piece of generateText(model, PROMPT, { maxTokens: 12, ...options })) text += piece;
  assert.notEqual(text, "");
  const fields = { model: NAME, ...settings };
  const both = await (await post(COMPLETIONS, { ...fields, prompt: [PROMPT, PROMPT] })).json();
  assert.deepEqual(both.choices.map((choice: { text: string }) => choice.text), [text, text]);
  assert.deepEqual(both.choices.map((choice: { index: number }) => choice.index), [0, 1]);
  assert.equal(both.usage.prompt_tokens, 2 * ids.length);
  const whole = await (await post(COMPLETIONS, { ...fields, prompt: ids })).json();
  assert.equal(whole.choices[0].text, text);
  assert.equal(whole.object, "text_completion");
  assert.equal(whole.usage.total_tokens, ids.length + whole.usage.completion_tokens);

  const response = await post(COMPLETIONS, {
    ...fields,
    prompt: [ids, ids],
    stream: true,
    stream_options: { include_usage: true },
    logprobs: 0,
    echo: true,
  });
  assert.match(response.headers.get("content-type") ?? "", /^text\/event-stream/);
  const events: string[] = [];
  for await (const event of eventsOf(response)) events.push(event);
  assert.equal(events.pop(), "[DONE]");
  const chunks = events.map((event) => JSON.parse(event));
  const last = chunks.pop();
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.completion_tokens, 2 * whole.usage.completion_tokens);
  for (const index of [0, 1]) {
    const own = chunks.flatMap(({ choices }) => choices).filter((choice) => choice.index === index);
    assert.equal(own.map((choice) => choice.text).join(""), PROMPT + text);
    assert.equal(own.at(-1).finish_reason, whole.choices[0].finish_reason);
    assert.ok(own.slice(0, -1).every((choice) => choice.finish_reason === null));
    const tokens = own.flatMap(({ logprobs }) => logprobs.tokens);
    assert.ok(tokens.join("").startsWith(PROMPT + text), "the tokens make up the text");
  }
});

Deno.test("echo with logprobs gives every token of the prompt and exactly one behind it, as scoring clients need", async () => {
  await using served = await serveDemo();
  const { post, model } = served, { tokenizer } = model;
  const context = tokenizer?.encode(PROMPT) ?? [], answer = tokenizer?.encode("in Essen") ?? [];
  const end = model.spec.eosIds[0] ?? -1;
  // The last is an answer behind which the model ends the text: the end must be listed too, or a client would drop a token of its own.
  const prompts = [[...context, ...answer], [5, 9, 33], [...context, ...answer, end], [7]];
  const expected = await tokenLogprobs(model, prompts, { top: 1 });
  const body = await (await post(COMPLETIONS, {
    model: NAME,
    prompt: prompts,
    temperature: 0,
    max_tokens: 1,
    logprobs: 1,
    seed: 1234,
    echo: true,
  })).json();
  assert.equal(body.choices.length, prompts.length);
  let ended = 0;
  for (const [index, ids] of prompts.entries()) {
    const { logprobs, text, finish_reason } = body.choices[index], places = expected[index] ?? [];
    const { tokens, token_logprobs, top_logprobs, text_offset } = logprobs;
    for (const list of [tokens, token_logprobs, top_logprobs, text_offset]) assert.equal(list.length, ids.length + 1);
    assert.equal(token_logprobs[0], null);
    assert.equal(top_logprobs[0], null);
    for (let place = 1; place < ids.length; place++) {
      assert.equal(token_logprobs[place], places[place]?.logprob);
      const best = Math.max(...Object.values<number>(top_logprobs[place]));
      assert.equal(best, places[place]?.top[0]?.logprob);
      const isBest = ids[place] === places[place]?.top[0]?.id;
      assert.equal(token_logprobs[place] === best, isBest, "greedy tokens are told by equal numbers");
    }
    const next = places.at(-1)?.top[0];
    assert.equal(token_logprobs.at(-1), next?.logprob);
    const isEnd = next?.id === end;
    if (isEnd) ended++;
    assert.equal(finish_reason, isEnd ? "stop" : "length");
    text_offset.forEach((offset: number, place: number) => {
      const token = tokens[place];
      if (place < ids.length) assert.equal([...text].slice(offset, offset + [...token].length).join(""), token);
    });
    assert.equal(text, tokenizer?.decode(ids) + (isEnd ? "" : tokens.at(-1)));
  }
  assert.ok(ended > 0, "one of the texts ends");

  const without = await (await post(COMPLETIONS, {
    model: NAME,
    prompt: prompts[0],
    max_tokens: 0,
    logprobs: 1,
    echo: true,
  })).json();
  assert.equal(without.choices[0].logprobs.tokens.length, prompts[0]?.length);
  assert.deepEqual(without.choices[0].logprobs.token_logprobs, body.choices[0].logprobs.token_logprobs.slice(0, -1));
  assert.equal(without.usage.completion_tokens, 0);
});

Deno.test("logprobs of generated tokens are the model's own, whichever way they are made", async () => {
  await using served = await serveDemo({ endless: true });
  const { post, model } = served;
  const ids = [5, 9, 33, 7];
  const fields = { model: NAME, prompt: ids, max_tokens: 6, logprobs: 3, temperature: 1.5, seed: 3 };
  const { choices: [{ logprobs, text }] } = await (await post(COMPLETIONS, fields)).json();
  assert.equal(logprobs.tokens.join(""), text);
  const written = logprobs.tokens.map((token: string) => model.tokenizer?.encode(token) ?? []).flat();
  assert.equal(written.length, 6, "with this seed each token's text is that token again");
  const [places] = await tokenLogprobs(model, [[...ids, ...written]], { top: 3 });
  logprobs.token_logprobs.forEach((logprob: number, index: number) => {
    // The decoding pass sums in another order than the batched one.
    assert.ok(Math.abs(logprob - (places?.[ids.length + index]?.logprob ?? NaN)) < 1e-3);
    const best = Math.max(...Object.values<number>(logprobs.top_logprobs[index]));
    assert.ok(Math.abs(best - (places?.[ids.length + index]?.top[0]?.logprob ?? NaN)) < 1e-3);
  });
});

Deno.test("a stop string ends a completion before it, and is no part of the tokens", async () => {
  await using served = await serveDemo({ endless: true });
  const { post } = served;
  const fields = { model: NAME, prompt: PROMPT, max_tokens: 24, temperature: 0 };
  const { choices: [{ text }] } = await (await post(COMPLETIONS, fields)).json();
  const stop = text.slice(9, 12);
  const { choices: [cut], usage } = await (await post(COMPLETIONS, { ...fields, stop, logprobs: 1 })).json();
  assert.equal(cut.text, text.slice(0, text.indexOf(stop)));
  assert.equal(cut.finish_reason, "stop");
  assert.ok(usage.completion_tokens < 24);
  assert.ok(cut.logprobs.text_offset.every((offset: number) => offset < cut.text.length));
});

Deno.test("a chat ends at the tokenizer's own end token, where neither template nor model names one", async () => {
  await using served = await serveDemo({ endless: true });
  const messages = [{ role: "user", content: "Story: Tom went to Rome. Where is Tom?" }];
  const fields = { model: NAME, messages, temperature: 0, max_completion_tokens: 200 };
  const { choices: [{ finish_reason }], usage } = await (await served.post(CHAT, fields)).json();
  assert.equal(finish_reason, "stop", `${usage.completion_tokens} tokens`);
});

Deno.test("chats go through the template, whole and in a stream", async () => {
  await using served = await serveDemo();
  const { post, model } = served;
  const text = `user: Where does Tom live?\nassistant: `;
  let expected = "";
  for await (const piece of generateText(model, text, { maxTokens: 10 })) expected += piece;
  const messages = [{
    role: "user",
    content: [{ type: "text", text: "Where does " }, { type: "text", text: "Tom live?" }],
  }];
  const fields = { model: NAME, messages, temperature: 0, max_completion_tokens: 10 };
  const whole = await (await post(CHAT, { ...fields, logprobs: true, top_logprobs: 2 })).json();
  const [{ message, logprobs }] = whole.choices;
  assert.deepEqual(message, { role: "assistant", content: expected, refusal: null });
  assert.equal(whole.usage.prompt_tokens, model.tokenizer?.encode(text).length);
  assert.ok(logprobs.content.map(({ token }: { token: string }) => token).join("").startsWith(expected));
  for (const { logprob, top_logprobs } of logprobs.content) {
    assert.equal(top_logprobs.length, 2);
    assert.equal(logprob, top_logprobs[0].logprob, "greedy takes the likeliest");
  }
  const events: string[] = [];
  for await (const event of eventsOf(await post(CHAT, { ...fields, stream: true }))) events.push(event);
  assert.equal(events.pop(), "[DONE]");
  const deltas = events.map((event) => JSON.parse(event).choices[0]);
  assert.deepEqual(deltas[0].delta, { role: "assistant", content: "" });
  assert.equal(deltas.map(({ delta }) => delta.content ?? "").join(""), expected);
  assert.equal(deltas.at(-1).finish_reason, whole.choices[0].finish_reason);
});

Deno.test("a server with a prompt puts it before every chat and before no completion", async () => {
  await using served = await serveDemo({ prompt: "Tom went to Rome." });
  const { post, model } = served, count = (text: string): number | undefined => model.tokenizer?.encode(text).length;
  const used = async (path: string, fields: Readonly<Record<string, unknown>>): Promise<number> =>
    (await (await post(path, { model: NAME, max_tokens: 1, ...fields })).json()).usage.prompt_tokens;
  const messages = [{ role: "user", content: "Where?" }];
  const whole = "system: Tom went to Rome.\nuser: Where?\nassistant: ";
  assert.equal(await used(CHAT, { messages }), count(whole));
  assert.equal(await used("/v1/completions", { prompt: "Where?" }), count("Where?"));
  // The role "developer" of OpenAI's newer models is the system turn of others.
  const told = { role: "developer", content: "Be brief." };
  const instructed = "system: Tom went to Rome.\n\nBe brief.\nuser: Where?\nassistant: ";
  assert.notEqual(count(instructed), count(instructed.replace("system", "developer")));
  assert.equal(await used(CHAT, { messages: [told, ...messages] }), count(instructed));
});

Deno.test("a model without chat template chats in its own style, as createChat does", async () => {
  const prompt = "Answer the question.";
  await using served = await serveDemo({ template: false, prompt });
  const { post, model } = served, questions = ["Story: Tom went to Rome. Where is Tom?", "Where?"];
  const messages: { readonly role: string; readonly content: string }[] = [];
  const answers: unknown[] = [];
  for (const content of questions) {
    messages.push({ role: "user", content });
    const fields = { model: NAME, messages, temperature: 0, max_tokens: 8 };
    const { choices: [{ message }], usage } = await (await post(CHAT, fields)).json();
    messages.push(message);
    answers.push([message.content, usage.prompt_tokens]);
  }
  using chat = createChat(model, { system: prompt, maxTokens: 8 });
  for (const [index, content] of questions.entries()) {
    const pieces = chat.ask(content);
    let next = await pieces.next();
    while (!next.done) next = await pieces.next();
    assert.notEqual(next.value.text, "");
    assert.deepEqual(answers[index], [next.value.text, next.value.promptTokens]);
  }
  const long = { model: NAME, messages: Array.from({ length: 600 }, () => ({ role: "user", content: "x" })) };
  const refused = await post(CHAT, long);
  assert.equal(refused.status, 400);
  await refused.body?.cancel();
});

Deno.test("an answer goes back as history, with every field that a client may write and none that asks for something", async () => {
  await using served = await serveDemo();
  const { post } = served, fields = { model: NAME, temperature: 0, max_tokens: 6 };
  const question = { role: "user", content: "Where does Tom live?", name: "Ann" };
  const { choices: [{ message }] } = await (await post(CHAT, { ...fields, messages: [question] })).json();
  assert.deepEqual(Object.keys(message), ["role", "content", "refusal"]);
  const { role, content } = message, absent = { function_call: null, audio: null, name: null };
  const contents: string[] = [];
  for (
    const answer of [
      { role, content },
      message,
      { ...message, ...absent, tool_calls: null, annotations: null },
      { ...message, tool_calls: [], annotations: [] },
    ]
  ) {
    const response = await post(CHAT, { ...fields, messages: [question, answer, question] });
    const body = await response.json();
    assert.equal(response.status, 200, body.error?.message);
    contents.push(body.choices[0].message.content);
  }
  assert.deepEqual(contents.slice(1), contents.slice(0, -1));
});

Deno.test("a completion keeps the space between prompt and answer, and its offsets count it; a chat's answer begins without", async () => {
  await using served = await serveTalker("sentencepiece");
  const { post, model } = served, { tokenizer } = model;
  assert.ok(tokenizer);
  const texts = ["The river", "A stone", "def f():\n", "winter", "garden of", "carries", "The", "near a", "where", "x"];
  const fields = { model: NAME, prompt: texts, temperature: 0, logprobs: 0 };
  for (const settings of [{ max_tokens: 1, echo: true }, { max_tokens: 4, echo: true }, { max_tokens: 4 }]) {
    let spaces = 0;
    const { choices } = await (await post(COMPLETIONS, { ...fields, ...settings })).json();
    for (const [index, prompt] of texts.entries()) {
      const ids = [...tokenizer.leading, ...tokenizer.encode(prompt)], { text, logprobs } = choices[index];
      const own = await Array.fromAsync(generate(model, ids, { maxTokens: settings.max_tokens }));
      const whole = tokenizer.decode([...ids, ...own], { skipSpecial: true });
      if (whole.includes("\uFFFD") || own.some(tokenizer.isSpecial)) continue;
      assert.equal(text, settings.echo ? whole : whole.slice(prompt.length));
      if (whole.startsWith(" ", prompt.length)) spaces++;
      const { tokens, text_offset } = logprobs, first = tokens.length - own.length;
      tokens.slice(first).forEach((token: string, at: number) => {
        const offset: number = text_offset[first + at];
        assert.equal([...text].slice(offset, offset + [...token].length).join(""), token);
      });
    }
    assert.ok(spaces > 0, "some continuations begin with a space");
  }
  let stripped = 0;
  const messages = [{ role: "user", content: "Where?" } as const];
  const ids = tokenizer.encode(renderChat(tokenizer, messages, { addGenerationPrompt: true }));
  for (let seed = 1; seed <= 12; seed++) {
    const chat = { model: NAME, messages, temperature: 1.5, seed, max_tokens: 4 };
    const { choices: [{ message }] } = await (await post(CHAT, chat)).json();
    const own = await Array.fromAsync(generate(model, ids, { temperature: 1.5, seed, maxTokens: 4 }));
    const alone: string = tokenizer.decode(own, { skipSpecial: true });
    if (alone.includes("\uFFFD")) continue;
    assert.equal(message.content, alone);
    if (tokenizer.idToToken(own[0] ?? -1)?.startsWith("▁")) stripped++;
  }
  assert.ok(stripped > 0, "some answers have a space before them");
});

Deno.test("models and health are there, other addresses and methods are not", async () => {
  await using served = await serveDemo();
  const { server: { url } } = served;
  const get = async (path: string, method = "GET"): Promise<[number, unknown]> => {
    const response = await fetch(`${url}${path}`, { method });
    return [response.status, await response.json()];
  };
  const [, { data }] = await get("/v1/models") as [number, { data: { id: string; object: string }[] }];
  assert.deepEqual(data.map(({ id, object }) => [id, object]), [[NAME, "model"]]);
  assert.equal((await get(`/v1/models/${NAME}`))[0], 200);
  assert.deepEqual(await get("/health"), [200, { status: "ok", model: NAME, busy: false, waiting: 0 }]);
  assert.equal((await get("/v1/models/other"))[0], 404);
  assert.equal((await get("/v1/models/%ff"))[0], 400);
  assert.equal((await get("/v2/models"))[0], 404);
  assert.equal((await get(COMPLETIONS))[0], 405);
  const refused = await fetch(`${url}${COMPLETIONS}`);
  await refused.body?.cancel();
  assert.equal(refused.headers.get("allow"), "POST");
  assert.equal((await get("/health", "DELETE"))[0], 405);
});

Deno.test("a log that fails costs no answer", async () => {
  const onRequest = (): never => {
    throw new Error("the disk is full");
  };
  await using served = await serveDemo({ onRequest });
  const body = { model: NAME, prompt: PROMPT, max_tokens: 3 };
  const response = await served.post(COMPLETIONS, body);
  assert.equal(response.status, 200);
  assert.equal(typeof (await response.json()).choices[0].text, "string");
  const streamed = await served.post(COMPLETIONS, { ...body, stream: true });
  assert.match(await streamed.text(), /\[DONE\]\s*$/);
  const unknown = await served.post("/v1/nothing", {});
  assert.equal(unknown.status, 404);
  assert.equal(typeof (await unknown.json()).error.message, "string");
});

Deno.test("several clients at once, several prompts and several answers get the texts that each gets alone", async () => {
  await using served = await serveDemo();
  const { post } = served;
  const ask = async (fields: Record<string, unknown>): Promise<{ text: string; index: number }[]> => {
    const response = await post(COMPLETIONS, { model: NAME, max_tokens: 12, ...fields });
    assert.equal(response.status, 200);
    return (await response.json()).choices;
  };
  const prompts = ["Tom went", "The cat", "One day", "She had a", "Once", "He", "In the", "A dog", "They", "It was"];
  const requests = prompts.map((prompt, index) => ({
    prompt,
    max_tokens: 4 + index,
    seed: index,
    temperature: index % 2,
    ...(index === 3 ? { logprobs: 2 } : {}),
  }));
  const alone = [];
  for (const request of requests) alone.push(await ask(request));
  assert.deepEqual(await Promise.all(requests.map(ask)), alone);

  // Three answers have the seeds from the one given on; two prompts stand one after the other.
  const all = await ask({ prompt: prompts.slice(0, 2), n: 3, seed: 5, temperature: 1 });
  assert.deepEqual(all.map(({ index }) => index), [0, 1, 2, 3, 4, 5]);
  for (const [index, { text }] of all.entries()) {
    const [own] = await ask({ prompt: prompts[Math.floor(index / 3)], seed: 5 + index % 3, temperature: 1 });
    assert.equal(text, own?.text);
  }
  const usage = async (n: number): Promise<number> => {
    const response = await post(COMPLETIONS, { model: NAME, prompt: "Tom went", max_tokens: 2, n });
    return (await response.json()).usage.prompt_tokens;
  };
  assert.equal(await usage(3), await usage(1));
});
