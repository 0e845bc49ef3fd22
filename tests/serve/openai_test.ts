// OpenAI's own client from npm against the server: what a user's program sees. Answers themselves are compared in server_test.ts.
import assert from "node:assert/strict";
import OpenAI from "npm:openai@^7.57.0";
import { NAME, type Served, serveDemo, until } from "./helpers/server.ts";

const QUESTION =
  "Answer the question.\nStory: Max saw eighteen stars. Rosa took the daisy. Paul met the cricket. John went to Essen. Where is John?\n";

function clientOf({ server }: Served, options: { readonly apiKey?: string } = {}): OpenAI {
  return new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0, ...options });
}

Deno.test("the openai client lists models, completes, and reads log-probabilities", async () => {
  await using served = await serveDemo();
  const client = clientOf(served);
  const models = await client.models.list();
  assert.deepEqual(models.data.map(({ id }) => id), [NAME]);
  assert.equal((await client.models.retrieve(NAME)).id, NAME);
  const answer = await client.completions.create({
    model: NAME,
    prompt: QUESTION,
    max_tokens: 8,
    temperature: 0,
    logprobs: 2,
    echo: true,
  });
  const [choice] = answer.choices;
  assert.equal(choice?.text, `${QUESTION}in Essen`);
  assert.equal(choice?.finish_reason, "stop");
  assert.equal(choice?.logprobs?.tokens?.length, choice?.logprobs?.token_logprobs?.length);
  assert.ok((answer.usage?.completion_tokens ?? 0) > 0);
});

Deno.test("the openai client streams completions and chats, with usage at the end", async () => {
  await using served = await serveDemo();
  const client = clientOf(served);
  let text = "";
  const completion = await client.completions.create({
    model: NAME,
    prompt: QUESTION,
    max_tokens: 8,
    temperature: 0,
    stream: true,
  });
  for await (const { choices } of completion) text += choices[0]?.text ?? "";
  assert.equal(text, "in Essen");

  const messages = [{ role: "system", content: "Be brief." }, { role: "user", content: "Where is John?" }] as const;
  const settings = { model: NAME, messages: [...messages], temperature: 0, max_tokens: 6 };
  const whole = await client.chat.completions.create(settings);
  const stream = await client.chat.completions.create({
    ...settings,
    stream: true,
    stream_options: { include_usage: true },
  });
  let content = "", total = 0;
  for await (const { choices, usage } of stream) {
    content += choices[0]?.delta.content ?? "";
    total = usage?.total_tokens ?? total;
  }
  assert.equal(content, whole.choices[0]?.message.content);
  assert.equal(total, whole.usage?.total_tokens);
});

Deno.test("the openai client gets several answers to a chat, whole and streamed, each as of its own seed", async () => {
  await using served = await serveDemo();
  const client = clientOf(served);
  const settings = {
    model: NAME,
    messages: [{ role: "user" as const, content: "Where is John?" }],
    temperature: 1,
    max_tokens: 6,
  };
  const { choices, usage } = await client.chat.completions.create({ ...settings, n: 3, seed: 7 });
  assert.deepEqual(choices.map(({ index }) => index), [0, 1, 2]);
  for (const { index, message } of choices) {
    const alone = await client.chat.completions.create({ ...settings, seed: 7 + index });
    assert.equal(message.content, alone.choices[0]?.message.content);
    assert.equal(usage?.prompt_tokens, alone.usage?.prompt_tokens);
  }
  const streamed = ["", "", ""], roles: string[] = [];
  for await (const chunk of await client.chat.completions.create({ ...settings, n: 3, seed: 7, stream: true })) {
    for (const { index, delta } of chunk.choices) {
      streamed[index] += delta.content ?? "";
      if (delta.role) roles[index] = delta.role;
    }
  }
  assert.deepEqual(streamed, choices.map(({ message }) => message.content));
  assert.deepEqual(roles, ["assistant", "assistant", "assistant"]);
});

Deno.test("the openai client sends an answer back as it got it, and is answered again", async () => {
  await using served = await serveDemo();
  const client = clientOf(served), question = { role: "user", content: "Where is John?" } as const;
  const settings = { model: NAME, temperature: 0, max_tokens: 6 };
  const first = await client.chat.completions.create({ ...settings, messages: [question] });
  const answer = first.choices[0]?.message;
  assert.ok(answer);
  const second = await client.chat.completions.create({ ...settings, messages: [question, answer, question] });
  assert.equal(second.choices[0]?.message.role, "assistant");
  assert.ok((second.usage?.prompt_tokens ?? 0) > (first.usage?.prompt_tokens ?? 0));
});

Deno.test("the openai client that aborts mid-stream frees the GPU for the next request", async () => {
  await using served = await serveDemo({ endless: true });
  const client = clientOf(served);
  const stream = await client.chat.completions.create({
    model: NAME,
    messages: [{ role: "user", content: "x" }],
    max_tokens: 400,
    seed: 1,
    stream: true,
  });
  for await (const _ of stream) {
    stream.controller.abort();
    break;
  }
  await until(async () => !(await (await fetch(`${served.server.url}/health`)).json()).busy);
  const next = await client.completions.create({ model: NAME, prompt: "Tom", max_tokens: 2 });
  assert.equal(next.usage?.completion_tokens, 2);
});

Deno.test("the openai client knows the server's errors by their classes", async () => {
  await using served = await serveDemo({ apiKey: "secret" });
  const client = clientOf(served, { apiKey: "secret" });
  const request = { model: NAME, prompt: "Tom", max_tokens: 1 };
  await assert.rejects(clientOf(served).completions.create(request), OpenAI.AuthenticationError);
  await assert.rejects(client.completions.create({ ...request, model: "gpt-4" }), OpenAI.NotFoundError);
  await assert.rejects(client.completions.create({ ...request, max_tokens: 600 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.code, "context_length_exceeded");
    return true;
  });
  assert.equal((await client.completions.create(request)).choices.length, 1);
});
