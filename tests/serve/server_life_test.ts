// The server and time: clients that go, a full queue, answers that take too long, and its own end.
import "../pooled_gpu.ts";
import assert from "node:assert/strict";
import type { RequestRecord } from "../../lib/serve/handler.ts";
import { serveModel } from "../../lib/serve/serve.ts";
import { rejects } from "../refuses.ts";
import { eventsOf, NAME, serveDemo, until } from "./helpers/server.ts";

const COMPLETIONS = "/v1/completions";
const SHORT = "Tom went";
/** A text that is as long as the context allows, drawn token by token. */
const LONG = { model: NAME, prompt: SHORT, max_tokens: 480, temperature: 1, seed: 1 };

Deno.test("a client that goes stops its work, streamed or not, however long its body, and the next in line begins", async () => {
  const records: RequestRecord[] = [];
  await using served = await serveDemo({ endless: true, onRequest: (record) => void records.push(record) });
  const { post, server: { url } } = served;
  const isIdle = async (): Promise<boolean> => !(await (await fetch(`${url}/health`)).json()).busy;
  for (
    const [stream, user] of [[true, ""], [false, ""], [true, "x".repeat(5000)], [false, "x".repeat(5000)]] as const
  ) {
    records.length = 0;
    const leave = new AbortController();
    const pending = post(COMPLETIONS, { ...LONG, stream, user }, { signal: leave.signal });
    if (stream) {
      const events = eventsOf(await pending);
      assert.equal((await events.next()).done, false);
      leave.abort();
      await assert.rejects(drain(events));
    } else {
      await until(async () => !await isIdle());
      leave.abort();
      await assert.rejects(pending);
    }
    await until(isIdle);
    await until(() => records.some(({ path }) => path === COMPLETIONS));
    const record = records.find(({ path }) => path === COMPLETIONS);
    assert.equal(record?.status, 499);
    assert.ok((record?.completionTokens ?? NaN) < 480, "the work was cut short");
    const next = await post(COMPLETIONS, { ...LONG, max_tokens: 2 });
    assert.equal((await next.json()).usage.completion_tokens, 2);
  }
});

Deno.test("with the queue full more requests get 429, and health is answered meanwhile", async () => {
  await using served = await serveDemo({ endless: true, limits: { parallel: 1, queue: 1 } });
  const { post, server: { url } } = served, leave = new AbortController();
  const first = eventsOf(await post(COMPLETIONS, { ...LONG, stream: true }, { signal: leave.signal }));
  await first.next();
  const second = post(COMPLETIONS, { ...LONG, max_tokens: 1 });
  await until(async () => (await (await fetch(`${url}/health`)).json()).waiting === 1);
  const third = await post(COMPLETIONS, { ...LONG, max_tokens: 1 });
  assert.equal(third.status, 429);
  assert.equal(third.headers.get("retry-after"), "1");
  assert.equal(third.headers.get("x-should-retry"), null, "clients decide");
  assert.equal((await third.json()).error.code, "queue_full");
  leave.abort();
  await assert.rejects(drain(first));
  assert.equal((await (await second).json()).usage.completion_tokens, 1);
});

Deno.test("a request that takes too long ends with 408, in a stream with an error event, and while its body is awaited", async () => {
  await using served = await serveDemo({ endless: true, limits: { seconds: 1.2 } });
  const { post, server } = served;
  // 28,800 tokens, each chosen from logits that are read back: no adapter does that in the time, and any makes a first one.
  const slow = { ...LONG, prompt: Array(60).fill(SHORT), logprobs: 5 };
  const whole = await post(COMPLETIONS, slow);
  assert.equal(whole.status, 408);
  assert.equal(whole.headers.get("x-should-retry"), "false", "OpenAI's clients would ask again twice");
  assert.equal((await whole.json()).error.code, "timeout");
  const events: string[] = [];
  const streamed = await post(COMPLETIONS, { ...slow, stream: true });
  assert.equal(streamed.status, 200);
  for await (const event of eventsOf(streamed)) events.push(event);
  assert.equal(JSON.parse(events.at(-1) ?? "").error.code, "timeout");
  assert.ok(!events.includes("[DONE]"));
  // A body that does not come counts too.
  using connection = await Deno.connect({ hostname: server.host, port: server.port });
  const head =
    `POST ${COMPLETIONS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{`;
  await connection.write(new TextEncoder().encode(head));
  const decoder = new TextDecoder(), buffer = new Uint8Array(4096);
  let answer = "";
  while (!answer.endsWith("}}")) {
    const count = await connection.read(buffer) ?? 0;
    assert.ok(count > 0, answer);
    answer += decoder.decode(buffer.subarray(0, count));
  }
  assert.match(answer, /^HTTP\/1.1 408 .*"code":"timeout"/s);
});

Deno.test("a server that stops lets the running request end, sends the waiting one away, and frees its port", async () => {
  await using served = await serveDemo({ endless: true, limits: { parallel: 1, graceSeconds: 60 } });
  const { post, server, model } = served;
  const first = await post(COMPLETIONS, { ...LONG, max_tokens: 300, stream: true });
  const waiting = post(COMPLETIONS, { ...LONG, max_tokens: 1 });
  await until(async () => (await (await fetch(`${server.url}/health`)).json()).waiting === 1);
  const stopped = server.shutdown();
  assert.equal((await waiting).status, 503);
  await (await waiting).body?.cancel();
  const events: string[] = [];
  for await (const event of eventsOf(first)) events.push(event);
  assert.equal(events.at(-1), "[DONE]", "the running one ended as it should");
  await stopped;
  await server.finished;
  await assert.rejects(post(COMPLETIONS, LONG), TypeError);
  await using again = serveModel(model, { port: server.port });
  assert.equal(again.port, server.port);
});

Deno.test("a server that stops ends what takes longer than the time it gives, by its signal too", async () => {
  const stop = new AbortController();
  await using served = await serveDemo({ endless: true, limits: { graceSeconds: 0.1 }, signal: stop.signal });
  const { post, server } = served;
  const events = eventsOf(
    await post(COMPLETIONS, { ...LONG, logprobs: 5, prompt: [SHORT, SHORT, SHORT], stream: true }),
  );
  await events.next();
  const start = performance.now();
  stop.abort();
  const rest: string[] = [];
  for await (const event of events) rest.push(event);
  assert.equal(JSON.parse(rest.at(-1) ?? "").error.code, "shutting_down");
  await server.finished;
  assert.ok(performance.now() - start < 5000);
});

Deno.test("a client that does not read keeps no server from its end", async () => {
  const asked = Promise.withResolvers<void>();
  // An answer of 32 MiB is more than a socket holds.
  await using served = await serveDemo({
    name: "x".repeat(2 ** 25),
    limits: { graceSeconds: 0.1 },
    onRequest: () => asked.resolve(),
  });
  const { host, port, shutdown, finished } = served.server;
  using connection = await Deno.connect({ hostname: host, port });
  await connection.write(new TextEncoder().encode("GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  await asked.promise;
  await shutdown();
  const late = Promise.withResolvers<string>(), timer = setTimeout(() => late.resolve("it goes on"), 3000);
  assert.equal(await Promise.race([finished.then(() => "finished"), late.promise]), "finished");
  clearTimeout(timer);
});

Deno.test("a request that is too large for the memory is refused by itself, and what scoring has left makes room for the next", async () => {
  await using served = await serveDemo();
  const { post, server, model: { device } } = served, before = device.bytes;
  const ask = async (fields: Record<string, unknown>): Promise<Response> =>
    await post(COMPLETIONS, { ...LONG, ...fields });
  Object.defineProperty(device, "memoryLimit", { configurable: true, value: before + 4096 });
  const refused = await ask({});
  assert.deepEqual([refused.status, device.isBroken, device.bytes], [400, false, before]);
  assert.equal((await refused.json()).error.code, "gpu");
  // Nothing is said, an echo neither, before it is known.
  const streamed = await ask({ stream: true, echo: true });
  assert.deepEqual([streamed.status, device.bytes], [400, before]);
  await streamed.body?.cancel();
  Object.defineProperty(device, "memoryLimit", { configurable: true, value: Infinity });

  const scored = await ask({ echo: true, logprobs: 1, max_tokens: 0 });
  assert.equal(scored.status, 200);
  await scored.body?.cancel();
  assert.ok(device.bytes > before);
  const answer = await ask({ max_tokens: 2 });
  assert.equal(answer.status, 200);
  await answer.body?.cancel();
  // The caches stay for the next request, until the server ends.
  await server.shutdown();
  assert.equal(device.bytes, before);
});

Deno.test("once the GPU has failed, health says so, and the server ends with that error instead of failing every request", async () => {
  await using served = await serveDemo();
  const { post, server, model: { device } } = served;
  const { isBroken } = device;
  const error = new GPUOutOfMemoryError("no memory left");
  device.gpu.dispatchEvent(new GPUUncapturedErrorEvent("uncapturederror", { error }));
  const health = await fetch(`${server.url}/health`);
  assert.deepEqual([isBroken, health.status, (await health.json()).status], [false, 503, "failed"]);
  const answer = await post(COMPLETIONS, LONG);
  assert.equal(answer.status, 500);
  assert.equal((await answer.json()).error.code, "gpu");
  await rejects(server.finished, "gpu");
  await assert.rejects(post(COMPLETIONS, LONG), TypeError);
});

async function drain(events: AsyncGenerator<string>): Promise<void> {
  for await (const _ of events);
}
