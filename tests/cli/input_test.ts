// Bad input: one clear error each, its exit status, and nothing half-written.
import assert from "node:assert/strict";
import { checkFolder, makeFolder } from "../../lib/files/atomic.ts";
import { assertNames, rejects } from "../refuses.ts";
import { checkRefused, cli, cliProcess, copyDemo, json, refused, TemporaryFolder } from "./helpers/cli.ts";

Deno.test("a model that is not there, or no model, is refused with status 3", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("model.gguf"), "hello, I am a letter");
  await Deno.mkdir(folder.at("empty"));
  const paths = [[folder.at("nowhere")], [folder.at("model.gguf")], [folder.at("empty"), "config.json"]];
  for (const [path = "", ...names] of paths) {
    for (const words of [["inspect"], ["generate", "--prompt", "a"], ["export", "--out", folder.at("out")]]) {
      await refused(words.toSpliced(1, 0, path), "input", { names: [path, ...names] });
    }
  }
  // As a text it is one message without a stack.
  const { code, stdout, stderr } = await cli(["inspect", folder.at("nowhere")]);
  assert.deepEqual([code, stdout, stderr.match(/^compresso: /gm)?.length], [3, "", 1], stderr);
  assert.doesNotMatch(stderr, /\n\s+at /);
  assert.ok(!folder.has("out"));
});

Deno.test("a truncated safetensors file is refused with status 3, and nothing is written", async () => {
  using folder = new TemporaryFolder();
  await copyDemo(folder.at("model"), (bytes) => bytes.subarray(0, bytes.length >> 1));
  const refusal = { names: "model.safetensors" };
  await refused(["inspect", folder.at("model")], "input", refusal);
  await refused(["export", folder.at("model"), "--out", folder.at("out")], "input", refusal);
  assert.ok(!folder.has("out"));
});

Deno.test("a safetensors file that is named .gguf is refused by its content", async () => {
  using folder = new TemporaryFolder();
  await copyDemo(folder.at("model"));
  await Deno.rename(folder.at("model", "model.safetensors"), folder.at("model.gguf"));
  await refused(["inspect", folder.at("model.gguf")], "input", { names: [folder.at("model.gguf"), "safetensors"] });
});

Deno.test("an unsupported architecture is refused by name", async () => {
  using folder = new TemporaryFolder();
  await copyDemo(folder.at("model"));
  const config = JSON.parse(await Deno.readTextFile(folder.at("model", "config.json")));
  await Deno.writeTextFile(
    folder.at("model", "config.json"),
    JSON.stringify({ ...config, architectures: ["BertModel"], model_type: "bert" }),
  );
  await refused(["inspect", folder.at("model")], "input", { names: "bert" });
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
  await refused(prune, "numeric", { names: "NaN" });
  await refused(["export", folder.at("model"), "--out", folder.at("out")], "numeric", { names: "NaN" });
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
  const cases = [["broken.jsonl", "line 2", "--skip-broken"], ["other.json", '"question"'], ["none.json"]];
  for (const [name = "", ...names] of cases) {
    await refused(prune(folder.at(name)), "input", { names: [folder.at(name), ...names] });
  }
  await refused(["eval", "demo", "--text", folder.at("latin1.txt")], "input", {
    names: [folder.at("latin1.txt"), "UTF-8"],
  });
  await refused(["eval", "demo", "--text", folder.at("none.txt")], "input", { names: folder.at("none.txt") });
  assert.ok(!folder.has("out"));
});

Deno.test("a model without tokenizer can be inspected, and says that text needs one", async () => {
  using folder = new TemporaryFolder();
  await copyDemo(folder.at("model"));
  await Deno.remove(folder.at("model", "tokenizer.json"));
  assert.equal((await json(["inspect", folder.at("model")])).tokenizer, null);
  await refused(["generate", folder.at("model"), "--prompt", "a"], "input", { names: "tokenizer" });
  const written = await cli(["export", folder.at("model"), "--out", folder.at("out")]);
  assert.equal(written.code, 0, written.stderr);
  assertNames(written.stderr, "tokenizer");
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
  for (const args of cases) await refused(args, "gpu", { env, names: "mesa-vulkan-drivers" });
  assert.ok(!folder.has("out"));
  assert.equal((await cli(["inspect", "demo"], { env })).code, 0, "inspect needs no GPU");
});

Deno.test("a folder of a run that cannot be made is refused before the model is loaded", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("file"), "");
  const out = folder.at("file", "run"),
    result = await cli(["prune", "demo", "--sparsity", "0.3", "--out", out, "--json"]);
  checkRefused(result, "input", { names: out });
  assert.equal(result.stderr.trimEnd().split("\n").length, 1, result.stderr);
});

Deno.test("a folder that is tried leaves nothing, and what stood there stays", async () => {
  using folder = new TemporaryFolder();
  await checkFolder(folder.at("one", "two"));
  assert.ok(!folder.has("one"));
  await Deno.mkdir(folder.at("kept"));
  await Deno.writeTextFile(folder.at("kept", "file"), "");
  await checkFolder(folder.at("kept"));
  assert.deepEqual(Array.from(Deno.readDirSync(folder.at("kept")), ({ name }) => name), ["file"]);
  await rejects(checkFolder(folder.at("kept", "file")), "input", { names: folder.at("kept", "file") });
  await Deno.symlink(folder.at("nowhere"), folder.at("link"));
  await rejects(checkFolder(folder.at("link")), "input", { names: folder.at("link") });
  assert.ok(folder.has("link"));
  await rejects(makeFolder(folder.at("kept", "file", "run")), "input", { names: folder.at("kept", "file", "run") });
});

Deno.test("imports that are not there are named without colours where stderr is no terminal", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("mine.ts"), 'import one from "./none.ts"; export default one;');
  const env = { NO_COLOR: "" };
  for (const args of [["schedule", "preview", folder.at("mine.ts"), "--trust"], ["experiment", folder.at("mine.ts")]]) {
    const { code, stdout, stderr } = await cliProcess(args, { env });
    assert.deepEqual([code, stdout], [3, ""], stderr);
    assertNames(stderr, "none.ts");
    assert.ok(!stderr.includes("\x1b"), stderr);
  }
});

Deno.test("prune reports a missing model before missing data, and a bare name on the Hub with what was meant", async () => {
  using folder = new TemporaryFolder();
  const prune = ["prune", "nope.gguf", "--sparsity", "0.3", "--out", folder.at("x")];
  const missing = await refused(prune, "input", { names: "nope.gguf" });
  assert.doesNotMatch(JSON.stringify(missing), /--data|hf:/);
  assert.ok(!folder.has("x"));
  for (const verb of [["inspect"], ["plan"], ["chat"], ["prune", "--sparsity", "0.3", "--out", folder.at("x")]]) {
    const { fix } = await refused(verb.toSpliced(1, 0, "HuggingFaceTB/SmolLM2-135M"), "input");
    assertNames(fix ?? "", "hf:HuggingFaceTB/SmolLM2-135M");
  }
  // The first part is a folder here, so it is a path.
  assert.doesNotMatch(JSON.stringify(await refused(["inspect", "fixtures/nope"], "input")), /hf:/);
});

Deno.test("inspect shows the shape of a config.json alone, as plan does", async () => {
  const path = "fixtures/demo/config.json", { code, stdout, stderr } = await cli(["inspect", path]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^model +fixtures\/demo\/config\.json /);
  assert.doesNotMatch(stdout, /^(stored as|tokenizer)/m);
  const alone = await json(["inspect", path]), whole = await json(["inspect", "demo"]);
  assert.deepEqual(
    [alone.format, alone.parameters, alone.prunable, alone.spec.layers],
    ["config", whole.parameters, whole.prunable, whole.spec.layers],
  );
});
