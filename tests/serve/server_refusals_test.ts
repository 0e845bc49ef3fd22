// The server over HTTP: what it refuses, with which status and field, and whom.
import assert from "node:assert/strict";
import { loadModelFrom } from "../../lib/model/model.ts";
import type { RequestRecord } from "../../lib/serve/handler.ts";
import { isLoopback, serveModel } from "../../lib/serve/serve.ts";
import { refuses } from "../refuses.ts";
import { NAME, serveDemo } from "./helpers/server.ts";

const COMPLETIONS = "/v1/completions";
const CHAT = "/v1/chat/completions";

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
    [COMPLETIONS, { ...base, prompt: Array(301).fill("a") }, 400, null, /300 tokens a request.*301 prompts/],
    [COMPLETIONS, { ...base, temperature: 3 }, 400, "temperature", /at most 2/],
    [COMPLETIONS, { ...base, top_p: 0 }, 400, "top_p", /above 0/],
    [COMPLETIONS, { ...base, seed: -1 }, 400, "seed", /at least 0/],
    [COMPLETIONS, { ...base, stop: ["a", ""] }, 400, "stop", /empty/],
    [COMPLETIONS, { ...base, n: 0 }, 400, "n", /at least 1/],
    [COMPLETIONS, { ...base, n: 101, max_tokens: 3 }, 400, null, /300 tokens a request/],
    [COMPLETIONS, { ...base, stream_options: { include_usage: true } }, 400, "stream_options", /stream: true/],
    [COMPLETIONS, { ...base, logprobs: 21 }, 400, "logprobs", /at most 20/],
    [COMPLETIONS, { ...base, logit_bias: { 5: 1 } }, 400, "logit_bias.5", /not supported/],
    [COMPLETIONS, { ...base, frequency_penalty: 2.5 }, 400, "frequency_penalty", /at most 2/],
    [COMPLETIONS, { ...base, presence_penalty: -3 }, 400, "presence_penalty", /at least -2/],
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
    [CHAT, { ...chat, max_completion_tokens: 512 }, 400, "messages", /max_completion_tokens is 512/],
    [CHAT, { ...chat, messages: [{ ...asked, content: "x".repeat(19_000) }] }, 400, "messages", /19000 characters/],
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

Deno.test("a model with neither chat template nor style answers completions, and says what a chat needs", async () => {
  await using served = await serveDemo({ template: false, style: false });
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
    assert.equal(response.headers.get("www-authenticate"), "Bearer");
    assert.equal(error.code, "invalid_api_key");
    assert.doesNotMatch(error.message, /sesame/);
  }
  const response = await post(COMPLETIONS, fields, { headers: { authorization: "Bearer open-sesame" } });
  assert.equal(response.status, 200);
  await response.body?.cancel();
  assert.equal((await (await fetch(`${url}/health`)).json()).status, "ok");
  const page = await fetch(url), html = await page.text();
  assert.equal(page.status, 200);
  assert.match(page.headers.get("content-type") ?? "", /^text\/html/);
  assert.ok(new TextEncoder().encode(html).length <= 8192);
  const policy = page.headers.get("content-security-policy") ?? "";
  assert.match(policy, /^default-src 'none'; script-src 'sha256-[^']+'; style-src 'sha256-[^']+'; connect-src 'self'/);
  assert.doesNotMatch(policy, /unsafe/);
  for (const [response, status] of [[await fetch(url, { method: "HEAD" }), 200], [await post("/", {}), 405]] as const) {
    assert.equal(response.status, status);
    await response.body?.cancel();
  }
  const models = await fetch(`${url}/v1/models`);
  assert.equal(models.status, 401);
  await models.body?.cancel();
});

/** Status of /health under a name. */
async function statusOf({ host, port }: { host: string; port: number }, name: string): Promise<number> {
  using connection = await Deno.connect({ hostname: host, port });
  const request = `GET /health HTTP/1.1\r\nHost: ${name}\r\nConnection: close\r\n\r\n`;
  await connection.write(new TextEncoder().encode(request));
  const answer = await new Response(connection.readable).text();
  return Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1]);
}

/** Whether this machine has an address, or knows a name as its own. */
function isThere(hostname: string): boolean {
  try {
    Deno.listen({ hostname, port: 0 }).close();
    return true;
  } catch {
    return false;
  }
}

Deno.test("a server without a key answers under this machine's own names alone", async () => {
  await using open = await serveDemo();
  for (const name of ["127.0.0.1:80", "localhost", "[::1]:8000", "host.docker.internal:8000"]) {
    assert.equal(await statusOf(open.server, name), 200);
  }
  for (const name of ["evil.example", "127.0.0.1.evil.example:80", "evil.internal", "metadata.google.internal"]) {
    assert.equal(await statusOf(open.server, name), 403);
  }
  await using closed = await serveDemo({ apiKey: "open-sesame" });
  assert.equal(await statusOf(closed.server, "models.example"), 200, "a key tells friends from others");
});

Deno.test("names are looked at wherever a server listens at loopback, however its host is spelled, and that is one of them", async () => {
  // 127.0.0.1 as one number.
  const loopback = ["LOCALHOST", "2130706433", "::ffff:127.0.0.1", "0:0:0:0:0:0:0:1"].filter(isThere);
  assert.ok(loopback.includes("LOCALHOST"));
  for (const host of loopback) {
    await using served = await serveDemo({ host });
    const { server } = served, own = host.includes(":") ? `[${host}]` : host;
    assert.equal(await statusOf(server, "evil.example"), 403, host);
    for (const name of ["localhost:80", own, `${own.toUpperCase()}:80`, new URL(server.url).host]) {
      assert.equal(await statusOf(server, name), 200, `${name} at ${host}`);
    }
  }
  const machine = Deno.hostname();
  if (!isThere(machine)) return;
  // Where it leads is for the machine to say.
  await using served = await serveDemo({ host: machine });
  assert.equal(await statusOf(served.server, machine.toUpperCase()), 200);
  const isOpen = !isLoopback(served.server.host);
  assert.equal(await statusOf(served.server, "evil.example"), isOpen ? 200 : 403);
});

Deno.test("a Host header that makes no URL gets 400, and a line in the log", async () => {
  const records: RequestRecord[] = [];
  await using served = await serveDemo({ onRequest: (record) => void records.push(record) });
  for (const name of ["a b", "[::1"]) {
    assert.equal(await statusOf(served.server, name), 400);
    const { status, path } = records.at(-1) ?? {};
    assert.deepEqual([status, path], [400, `http://${name}/health`]);
  }
});

Deno.test("a busy port, a model without tokenizer and options out of range are refused", async () => {
  await using served = await serveDemo();
  const { model, server } = served;
  refuses(() => serveModel(model, { port: server.port }), "usage", { names: server.port });
  refuses(() => serveModel(model, { port: 0, host: "nowhere.invalid" }), "usage", { names: ["nowhere.invalid", 0] });
  refuses(() => serveModel(model, { port: 65536 }), "usage", { names: 65535 });
  refuses(() => serveModel(model, { port: 0, apiKey: "a b" }), "usage", { names: "ASCII" });
  refuses(() => serveModel(model, { port: 0, name: "" }), "usage", { names: "name" });
  refuses(() => serveModel(model, { port: 0, limits: { queue: -1 } }), "usage", { value: -1 });
  refuses(() => serveModel(model, { port: 0, limits: { seconds: 0 } }), "usage", { value: 0 });
  // Deno does not check a program's types: what nobody reads is no option.
  refuses(() => serveModel(model, JSON.parse('{"apikey": "key"}')), "usage", { names: "apiKey" });
  const misspelt = JSON.parse('{"timeout": 5}');
  refuses(() => serveModel(model, { port: 0, limits: misspelt }), "usage", { value: "timeout", names: "bodyBytes" });
  await serveModel(model, JSON.parse('{"port": 0}')).shutdown();
  using mute = await loadModelFrom(model.source, { device: model.device });
  refuses(() => serveModel(mute, { port: 0 }), "input", { names: "tokenizer.json" });
});
