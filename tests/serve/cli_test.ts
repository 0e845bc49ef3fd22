// `compresso serve` as a user runs it: what it says, the key's file, a busy port, and how it ends.
import assert from "node:assert/strict";
import { servedName } from "../../cli/hub.ts";
import { cli, command, copyDemo, ROOT, TemporaryFolder } from "../cli/helpers/cli.ts";
import { join } from "../cli/helpers/paths.ts";

Deno.test("serve says where it listens, answers, and ends with status 130 on SIGINT and SIGTERM", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("key"), "open-sesame\n");
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    const args = [
      "serve",
      "demo",
      "--port",
      "0",
      "--no-tuning",
      "--log",
      "--name",
      "own",
      "--api-key-file",
      folder.at("key"),
    ];
    const child = command(args).spawn();
    const stderr = new Response(child.stderr).text();
    const { value: line, reader } = await firstLine(child.stdout);
    const url = /^serving own at (http:\/\/127\.0\.0\.1:\d+\/v1)$/.exec(line)?.[1];
    assert.ok(url, line);
    const headers = { authorization: "Bearer open-sesame", "content-type": "application/json" };
    const body = JSON.stringify({ model: "own", prompt: "Tom", max_tokens: 2 });
    const response = await fetch(`${url}/completions`, { method: "POST", headers, body });
    assert.equal(response.status, 200);
    await response.body?.cancel();
    const refused = await fetch(`${url}/models`);
    assert.equal(refused.status, 401);
    await refused.body?.cancel();

    child.kill(signal);
    assert.equal((await child.status).code, 130);
    await reader.cancel();
    assert.match(await stderr, /POST \/v1\/completions 200 .* tokens\n(.*\n)*compresso: stopped by/);
  }
});

Deno.test("serve names a model after its folder, where that is given as a dot", async () => {
  using folder = new TemporaryFolder();
  await copyDemo(folder.at("small"));
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", join(ROOT, "cli/main.ts"), "serve", ".", "--port", "0", "--no-tuning"],
    cwd: folder.at("small"),
    stdin: "null",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const { value: line, reader } = await firstLine(child.stdout);
  child.kill("SIGTERM");
  assert.equal((await child.status).code, 130);
  await reader.cancel();
  assert.match(line, /^serving small at /);
});

Deno.test("the name of a model tells runs and files apart", () => {
  const names = [
    ["models/SmolLM2-135M.gguf", "SmolLM2-135M"],
    ["hf:HuggingFaceTB/SmolLM2-135M", "SmolLM2-135M"],
    ["hf:me/small@main:model.gguf", "small-gguf"],
    ["runs/mine/model", "mine"],
    ["runs/mine/model/", "mine"],
    ["runs/mine/model.gguf", "mine-gguf"],
    ["/model", "model"],
  ];
  assert.deepEqual(names.map(([path = ""]) => servedName(path)), names.map(([, name]) => name));
});

Deno.test("serve says at once that a port is busy", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const busy = await cli(["serve", "demo", "--port", String((listener.addr as Deno.NetAddr).port)]);
  assert.equal(busy.code, 2);
  assert.match(busy.stderr, /cannot listen at 127\.0\.0\.1:\d+\n.*\n.*another program has it/);
  assert.equal(busy.stdout, "");
  // Of an address that is not this machine's, whatever the port, before a model is looked for.
  const elsewhere = await cli(["serve", "nowhere", "--host", "192.0.2.1", "--port", "0"]);
  assert.match(elsewhere.stderr, /cannot listen at 192\.0\.2\.1:0\n/);
});

Deno.test("serve refuses a key that cannot be sent, and a model without tokenizer, before it listens", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("key"), "two words");
  const wrong = await cli(["serve", "demo", "--port", "0", "--api-key-file", folder.at("key")]);
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /cannot use the API key of .*key\n/);
  const absent = await cli(["serve", "demo", "--port", "0", "--api-key-file", folder.at("none")]);
  assert.equal(absent.code, 3);
  const mute = await cli(["serve", "fixtures/golden/gqa_f16/model", "--port", "0", "--no-tuning"]);
  assert.equal(mute.code, 3);
  assert.match(mute.stderr, /tokenizer/);
  assert.equal(mute.stdout, "");
  const nameless = await cli(["serve", "demo", "--port", "0", "--name", ""]);
  assert.equal(nameless.code, 2);
  assert.match(nameless.stderr, /--name is not empty/);
  await copyDemo(folder.at("base"));
  await Deno.remove(folder.at("base", "tokenizer_config.json"));
  const base = await cli(["serve", folder.at("base"), "--port", "0", "--with-prompt"]);
  assert.equal(base.code, 2);
  assert.match(base.stderr, /cannot put a prompt before chats\n.*has a chat template/);
});

async function firstLine(
  stream: ReadableStream<Uint8Array>,
): Promise<{ readonly value: string; readonly reader: ReadableStreamDefaultReader<string> }> {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("\n")) {
    const { done, value } = await reader.read();
    if (done) break;
    text += value;
  }
  return { value: text.split("\n")[0] ?? "", reader };
}
