// The server over HTTP: what it answers and what it refuses. Answers are compared with the library's own.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/errors.ts";
import { renderChat } from "../../lib/io/chat_template.ts";
import { generate } from "../../lib/run/generate.ts";
import { generateText } from "../../lib/run/generate_text.ts";
import { tokenLogprobs } from "../../lib/run/logprobs.ts";
import { loadModelFrom } from "../../lib/run/model.ts";
import { serveModel } from "../../lib/serve/serve.ts";
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
  const settings = { temperature: 0.8, top_p: 0.9, top_k: 20, repetition_penalty: 1.1, seed: 7, max_tokens: 12 };
  let text = "";
  const { temperature, top_p: topP, top_k: topK, repetition_penalty: repetitionPenalty, seed } = settings;
  for await (
    const piece of generateText(model, PROMPT, { maxTokens: 12, temperature, topP, topK, repetitionPenalty, seed })
  ) text += piece;
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
  assert.equal((await get("/health", "DELETE"))[0], 405);
});

Deno.test("every request that cannot be answered gets a status, the field at fault, and a code, and the next one works", async () => {
  await using served = await serveDemo({ limits: { bodyBytes: 20_000, tokens: 300 } });
  const { post, server } = served;
  const base = { model: NAME, prompt: "Tom", max_tokens: 1 },
    asked = { role: "user", content: "x" },
    chat = { model: NAME, messages: [asked] };
  const cases: readonly (readonly [string, unknown, number, string | null, RegExp])[] = [
    [COMPLETIONS, "{", 400, null, /not JSON/],
    [COMPLETIONS, "[]", 400, null, /JSON object/],
    [COMPLETIONS, { ...base, model: "gpt-4" }, 404, "model", /'gpt-4'.*'tiny'/],
    [COMPLETIONS, { prompt: "x" }, 400, "model", /name a model/],
    [COMPLETIONS, { model: NAME }, 400, "prompt", /must be a string, token ids/],
    [COMPLETIONS, { ...base, prompt: [] }, 400, "prompt", /none empty/],
    [COMPLETIONS, { ...base, prompt: "" }, 400, "prompt", /empty/],
    [COMPLETIONS, { ...base, prompt: [[1], [768]] }, 400, "prompt", /below 768; 768/],
    [COMPLETIONS, { ...base, prompt: [1.5] }, 400, "prompt", /token ids/],
    [COMPLETIONS, { ...base, max_tokens: -1 }, 400, "max_tokens", /at least 0/],
    [COMPLETIONS, { ...base, max_tokens: 512 }, 400, "prompt", /512 tokens.*max_tokens is 512/],
    [COMPLETIONS, { ...base, prompt: Array(513).fill(5) }, 400, "prompt", /513/],
    [COMPLETIONS, { ...base, prompt: [[5], [5], [5]], max_tokens: 100 }, 400, null, /300 tokens a request.*303/],
    [COMPLETIONS, { ...base, temperature: 3 }, 400, "temperature", /at most 2/],
    [COMPLETIONS, { ...base, top_p: 0 }, 400, "top_p", /above 0/],
    [COMPLETIONS, { ...base, seed: -1 }, 400, "seed", /at least 0/],
    [COMPLETIONS, { ...base, stop: ["a", ""] }, 400, "stop", /empty/],
    [COMPLETIONS, { ...base, n: 2 }, 400, "n", /only 1/],
    [COMPLETIONS, { ...base, stream_options: { include_usage: true } }, 400, "stream_options", /stream: true/],
    [COMPLETIONS, { ...base, logprobs: 21 }, 400, "logprobs", /at most 20/],
    [COMPLETIONS, { ...base, logit_bias: { 5: 1 } }, 400, "logit_bias.5", /not supported/],
    [COMPLETIONS, { ...base, frequency_penalty: 1 }, 400, "frequency_penalty", /only 0/],
    [COMPLETIONS, { ...base, min_p: 1 }, 400, "min_p", /knows no parameter 'min_p'/],
    [COMPLETIONS, { ...base, prompt: "x".repeat(19_000) }, 400, "prompt", /19000 characters/],
    [COMPLETIONS, { ...base, prompt: "x".repeat(20_000) }, 413, null, /20000 bytes/],
    [CHAT, { model: NAME, messages: [] }, 400, "messages", /empty/],
    [CHAT, { ...chat, messages: [{ role: "tool", content: "x" }] }, 400, "messages.0.role", /must be system/],
    [CHAT, { ...chat, messages: [{ ...asked, refusal: "no" }] }, 400, "messages.0.refusal", /not supported/],
    [CHAT, { ...chat, messages: [{ ...asked, tool_calls: [{}] }] }, 400, "messages.0.tool_calls.0", /tools/],
    [CHAT, { ...chat, messages: [{ ...asked, audio: { id: "x" } }] }, 400, "messages.0.audio", /not supported/],
    [CHAT, { ...chat, messages: [{ ...asked, annotations: [{}] }] }, 400, "messages.0.annotations.0", /not supported/],
    [CHAT, { ...chat, messages: [{ ...asked, weight: 0 }] }, 400, "messages.0.weight", /knows no parameter/],
    [CHAT, { ...chat, messages: [{ ...asked, content: null }] }, 400, "messages.0.content", /must be a string/],
    [CHAT, { ...chat, max_tokens: 1, max_completion_tokens: 2 }, 400, "max_tokens", /differ/],
    [CHAT, { ...chat, top_logprobs: 2 }, 400, "top_logprobs", /logprobs: true/],
    [CHAT, { ...chat, tools: [{ type: "function" }] }, 400, "tools.0", /tools are not supported/],
    [CHAT, { ...chat, stream: "yes" }, 400, "stream", /true or false/],
  ];
  for (const [path, fields, status, param, message] of cases) {
    const response = await post(path, fields), { error } = await response.json();
    const what = JSON.stringify(fields).slice(0, 80);
    assert.equal(response.status, status, `${what}: ${error.message}`);
    assert.match(error.message, message, what);
    assert.equal(error.param, param, what);
    assert.deepEqual(Object.keys(error), ["message", "type", "param", "code"]);
    assert.equal(error.type, "invalid_request_error");
  }
  const form = await fetch(`${server.url}${COMPLETIONS}`, { method: "POST", body: JSON.stringify(base) });
  assert.equal(form.status, 415, "a web page may send text anywhere");
  await form.body?.cancel();
  // Without content-length the bytes are counted as they come.
  const parts = ReadableStream.from(Array.from({ length: 250 }, () => new TextEncoder().encode(" ".repeat(100))));
  const chunked = await fetch(`${server.url}${COMPLETIONS}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: parts,
  });
  assert.equal(chunked.status, 413);
  await chunked.body?.cancel();
  const response = await post(COMPLETIONS, base);
  assert.equal(response.status, 200);
  await response.body?.cancel();
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

Deno.test("a model without chat template answers completions, and says what a chat needs", async () => {
  await using served = await serveDemo({ template: false });
  const response = await served.post(CHAT, { model: NAME, messages: [{ role: "user", content: "x" }] });
  assert.equal(response.status, 400);
  assert.match((await response.json()).error.message, /no chat template.*\/v1\/completions/);
});

Deno.test("a server with a key answers only those who have it, but anyone may ask for its health", async () => {
  await using served = await serveDemo({ apiKey: "open-sesame" });
  const { post, server: { url } } = served;
  const fields = { model: NAME, prompt: "Tom", max_tokens: 1 };
  for (const headers of [{}, { authorization: "Bearer wrong" }, { authorization: "open-sesame" }]) {
    const response = await post(COMPLETIONS, fields, { headers }), { error } = await response.json();
    assert.equal(response.status, 401);
    assert.equal(error.code, "invalid_api_key");
    assert.doesNotMatch(error.message, /sesame/);
  }
  const response = await post(COMPLETIONS, fields, { headers: { authorization: "Bearer open-sesame" } });
  assert.equal(response.status, 200);
  await response.body?.cancel();
  assert.equal((await (await fetch(`${url}/health`)).json()).status, "ok");
  const models = await fetch(`${url}/v1/models`);
  assert.equal(models.status, 401);
  await models.body?.cancel();
});

Deno.test("a busy port, a model without tokenizer and options out of range are refused", async () => {
  await using served = await serveDemo();
  const { model, server } = served;
  const refused = (code: string, text: RegExp) => (error: unknown) =>
    error instanceof CompressoError && error.code === code && text.test(error.message);
  assert.throws(
    () => serveModel(model, { port: server.port }),
    refused("usage", /another program has it.*0 takes any/),
  );
  assert.throws(
    () => serveModel(model, { port: 0, host: "nowhere.invalid" }),
    refused("usage", /cannot listen at nowhere/),
  );
  assert.throws(() => serveModel(model, { port: 65536 }), refused("usage", /65535/));
  assert.throws(() => serveModel(model, { port: 0, apiKey: "a b" }), refused("usage", /printable ASCII/));
  assert.throws(() => serveModel(model, { port: 0, name: "" }), refused("usage", /name/));
  assert.throws(() => serveModel(model, { port: 0, limits: { queue: -1 } }), refused("usage", /queue/));
  assert.throws(() => serveModel(model, { port: 0, limits: { seconds: 0 } }), refused("usage", /seconds/));
  using mute = await loadModelFrom(model.source, { device: model.device });
  assert.throws(() => serveModel(mute, { port: 0 }), refused("input", /needs a tokenizer/));
});
