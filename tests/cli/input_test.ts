// Bad input: one clear error each, its exit status, and nothing half-written.
import assert from "node:assert/strict";
import { checkFolder, makeFolder } from "../../lib/files/atomic.ts";
import { cli, copyDemo, TemporaryFolder } from "./helpers/cli.ts";

/** Asserts one message by its parts, without a stack, and an empty stdout. */
function assertRefused(
  { code, stdout, stderr }: { readonly code: number; readonly stdout: string; readonly stderr: string },
  expected: { readonly code: number; readonly message: RegExp },
): void {
  assert.equal(code, expected.code, stderr);
  assert.equal(stdout, "");
  assert.match(stderr, expected.message);
  assert.equal(stderr.match(/^compresso: /gm)?.length, 1, stderr);
  assert.doesNotMatch(stderr, /\n\s+at |should not happen/);
}

Deno.test("a model that is not there, or no model, is refused with status 3", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("model.gguf"), "hello, I am a letter");
  await Deno.mkdir(folder.at("empty"));
  const cases: [string, RegExp][] = [
    [folder.at("nowhere"), /cannot read/],
    [folder.at("model.gguf"), /cannot open the model/],
    [folder.at("empty"), /config\.json/],
  ];
  for (const [path, message] of cases) {
    for (
      const args of [["inspect", path], ["generate", path, "--prompt", "a"], [
        "export",
        path,
        "--out",
        folder.at("out"),
      ]]
    ) {
      assertRefused(await cli(args), { code: 3, message });
    }
  }
  assert.ok(!folder.has("out"));
});

Deno.test("a truncated safetensors file is refused with status 3, and nothing is written", async () => {
  using folder = new TemporaryFolder();
  await copyDemo(folder.at("model"), (bytes) => bytes.subarray(0, bytes.length >> 1));
  const message = /model\.safetensors/;
  assertRefused(await cli(["inspect", folder.at("model")]), { code: 3, message });
  assertRefused(await cli(["export", folder.at("model"), "--out", folder.at("out")]), { code: 3, message });
  assert.ok(!folder.has("out"));
});

Deno.test("a safetensors file that is named .gguf is refused by its content", async () => {
  using folder = new TemporaryFolder();
  await copyDemo(folder.at("model"));
  await Deno.rename(folder.at("model", "model.safetensors"), folder.at("model.gguf"));
  assertRefused(await cli(["inspect", folder.at("model.gguf")]), { code: 3, message: /safetensors/ });
});

Deno.test("an unsupported architecture is refused by name", async () => {
  using folder = new TemporaryFolder();
  await copyDemo(folder.at("model"));
  const config = JSON.parse(await Deno.readTextFile(folder.at("model", "config.json")));
  await Deno.writeTextFile(
    folder.at("model", "config.json"),
    JSON.stringify({ ...config, architectures: ["BertModel"], model_type: "bert" }),
  );
  assertRefused(await cli(["inspect", folder.at("model")]), { code: 3, message: /bert/i });
});

Deno.test("NaN among the weights stops prune and export before anything is written", async () => {
  using folder = new TemporaryFolder();
  await copyDemo(folder.at("model"), (bytes) => {
    // The last f16 of the file: NaN.
    bytes.set([0x00, 0x7e], bytes.length - 2);
    return bytes;
  });
  await Deno.writeTextFile(folder.at("data.jsonl"), '{"instruction":"Where is Tom?","output":"garden"}\n');
  const prune = [
    "prune",
    folder.at("model"),
    "--data",
    folder.at("data.jsonl"),
    "--sparsity",
    "0.3",
    "--out",
    folder.at("out"),
  ];
  assertRefused(await cli(prune), { code: 5, message: /NaN/ });
  assertRefused(await cli(["export", folder.at("model"), "--out", folder.at("out")]), { code: 5, message: /NaN/ });
  assert.ok(!folder.has("out", "model"));
  assert.ok(!folder.has("out", "model.gguf"));
  assert.ok(!folder.has("out", "run.json"));
});

Deno.test("data that cannot be read is refused with status 3", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("broken.jsonl"), '{"instruction":"a","output":"b"}\n{"instruction":\n');
  await Deno.writeTextFile(folder.at("other.json"), '[{"question":"a","answer":"b"}]');
  await Deno.writeFile(folder.at("latin1.txt"), new Uint8Array([0x63, 0x61, 0x66, 0xe9, 0x0a]));
  const prune = (
    data: string,
  ): string[] => ["prune", "demo", "--data", data, "--sparsity", "0.3", "--out", folder.at("out")];
  assertRefused(await cli(prune(folder.at("broken.jsonl"))), { code: 3, message: /line 2[^]*--skip-broken/ });
  assertRefused(await cli(prune(folder.at("other.json"))), { code: 3, message: /"question"/ });
  assertRefused(await cli(prune(folder.at("none.json"))), { code: 3, message: /no such file/ });
  assertRefused(await cli(["eval", "demo", "--text", folder.at("latin1.txt")]), { code: 3, message: /not UTF-8/ });
  assertRefused(await cli(["eval", "demo", "--text", folder.at("none.txt")]), { code: 3, message: /no such file/ });
  assert.ok(!folder.has("out"));
});

Deno.test("a model without tokenizer can be inspected, and says that text needs one", async () => {
  using folder = new TemporaryFolder();
  await copyDemo(folder.at("model"));
  await Deno.remove(folder.at("model", "tokenizer.json"));
  const inspect = await cli(["inspect", folder.at("model"), "--json"]);
  assert.equal(inspect.code, 0, inspect.stderr);
  assert.equal(JSON.parse(inspect.stdout).tokenizer, null);
  assertRefused(await cli(["generate", folder.at("model"), "--prompt", "a"]), { code: 3, message: /tokenizer/ });
  const written = await cli(["export", folder.at("model"), "--out", folder.at("out")]);
  assert.equal(written.code, 0, written.stderr);
  assert.match(written.stderr, /the model has no tokenizer .* take token ids only/);
});

Deno.test("without an adapter every verb that needs one ends with status 4 and names the package that fixes it", async () => {
  using folder = new TemporaryFolder();
  // A backend that this system does not have.
  const env = { DENO_WEBGPU_BACKEND: Deno.build.os === "windows" ? "metal" : "dx12" };
  const cases = [
    ["doctor"],
    ["generate", "demo", "--prompt", "a"],
    ["prune", "demo", "--sparsity", "0.3", "--out", folder.at("out")],
  ];
  for (const args of cases) {
    assertRefused(await cli(args, { env }), { code: 4, message: /no GPU adapter[^]*mesa-vulkan-drivers/ });
  }
  assert.ok(!folder.has("out"));
  assert.equal((await cli(["inspect", "demo"], { env })).code, 0, "inspect needs no GPU");
});

Deno.test("a folder of a run that cannot be made is refused before the model is loaded", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("file"), "");
  const result = await cli(["prune", "demo", "--sparsity", "0.3", "--out", folder.at("file", "run")]);
  assertRefused(result, { code: 3, message: /cannot write .*run\n[^]*check the path/ });
  assert.doesNotMatch(result.stderr, /loading|encoding/);
});

Deno.test("a folder that is tried leaves nothing, and what stood there stays", async () => {
  using folder = new TemporaryFolder();
  await checkFolder(folder.at("one", "two"));
  assert.ok(!folder.has("one"));
  await Deno.mkdir(folder.at("kept"));
  await Deno.writeTextFile(folder.at("kept", "file"), "");
  await checkFolder(folder.at("kept"));
  assert.deepEqual(Array.from(Deno.readDirSync(folder.at("kept")), ({ name }) => name), ["file"]);
  await assert.rejects(checkFolder(folder.at("kept", "file")), /cannot write/);
  await Deno.symlink(folder.at("nowhere"), folder.at("link"));
  await assert.rejects(checkFolder(folder.at("link")), /cannot write/);
  assert.ok(folder.has("link"));
  await assert.rejects(makeFolder(folder.at("kept", "file", "run")), /cannot write/);
});

Deno.test("imports that are not there are named without colours where stderr is no terminal", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("mine.ts"), 'import one from "./none.ts"; export default one;');
  const env = { NO_COLOR: "" };
  for (const args of [["schedule", "preview", folder.at("mine.ts"), "--trust"], ["experiment", folder.at("mine.ts")]]) {
    const result = await cli(args, { env });
    assertRefused({ ...result, stderr: result.stderr.replace(/\n +at file:.*/, "") }, { code: 3, message: /none\.ts/ });
    assert.ok(!result.stderr.includes("\x1b"), result.stderr);
  }
});

Deno.test("prune reports a missing model before missing data, and a bare name on the Hub with what was meant", async () => {
  using folder = new TemporaryFolder();
  const missing = await cli(["prune", "nope.gguf", "--sparsity", "0.3", "--out", folder.at("x")]);
  assert.equal(missing.code, 3);
  assert.match(missing.stderr, /cannot read nope\.gguf[^]*no such file or folder/);
  assert.doesNotMatch(missing.stderr, /--data|hf:/);
  assert.ok(!folder.has("x"));
  for (const verb of [["inspect"], ["plan"], ["chat"], ["prune", "--sparsity", "0.3", "--out", folder.at("x")]]) {
    const { code, stderr } = await cli([verb[0] ?? "", "HuggingFaceTB/SmolLM2-135M", ...verb.slice(1)]);
    assert.equal(code, 3);
    assert.match(stderr, /fix: +did you mean hf:HuggingFaceTB\/SmolLM2-135M\?\n/);
  }
  // The first part is a folder here, so it is a path.
  assert.doesNotMatch((await cli(["inspect", "fixtures/nope"])).stderr, /hf:/);
});

Deno.test("inspect shows the shape of a config.json alone, as plan does", async () => {
  const path = "fixtures/demo/config.json", { code, stdout, stderr } = await cli(["inspect", path]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^model +fixtures\/demo\/config\.json \(config\.json alone, /);
  assert.doesNotMatch(stdout, /^(stored as|tokenizer)/m);
  const alone = JSON.parse((await cli(["inspect", path, "--json"])).stdout);
  const whole = JSON.parse((await cli(["inspect", "demo", "--json"])).stdout);
  assert.deepEqual(
    [alone.format, alone.parameters, alone.prunable, alone.spec.layers],
    ["config", whole.parameters, whole.prunable, whole.spec.layers],
  );
});
