// `export` into the folder of the model that it reads.
import assert from "node:assert/strict";
import { FolderLock } from "../../lib/io/lock.ts";
import { openWeights } from "../../lib/io/open.ts";
import { modelPath, openModelFiles } from "../../lib/io/open_model.ts";
import { assertSameWeights } from "../io/models.ts";
import { cli, copyDemo, TemporaryFolder } from "./helpers/cli.ts";

Deno.test("export --overwrite may write over its own model, and keeps its generation settings", async () => {
  using folder = new TemporaryFolder();
  const demo = modelPath("demo"), model = folder.at("model");
  await copyDemo(model);
  const settings = { do_sample: true, temperature: 0.6, bad_words_ids: [[3]] };
  const file = `${model}/generation_config.json`;
  const said = { ...settings, _from_model_config: true, transformers_version: "4.0.0", eos_token_id: [1, 2] };
  await Deno.writeTextFile(file, JSON.stringify(said));
  const args = ["--dtype", "f32", "--gguf-dtype", "f32", "--overwrite"];
  const { code, stderr } = await cli(["export", model, "--out", folder.path, ...args]);
  assert.equal(code, 0, stderr);
  for (const name of ["model", "model.gguf"]) {
    await assertSameWeights(await openWeights(folder.at(name)), await openWeights(demo));
  }
  assert.deepEqual(JSON.parse(await Deno.readTextFile(file)), { eos_token_id: [1, 2], pad_token_id: 0, ...settings });
});

Deno.test("export names the option that replaces a folder which stands there", async () => {
  using folder = new TemporaryFolder();
  await Deno.mkdir(folder.at("model", "mine"), { recursive: true });
  const { code, stderr } = await cli(["export", "demo", "--out", folder.path, "--formats", "hf"]);
  assert.equal(code, 3, stderr);
  assert.match(stderr, /allow replacing this one \(--overwrite\)/);
});

Deno.test("export does not write into the folder of a run that goes on", async () => {
  using folder = new TemporaryFolder();
  const args = ["export", "demo", "--out", folder.path, "--formats", "hf"];
  {
    using lock = new FolderLock(folder.path);
    await lock.take();
    const { code, stderr } = await cli(args);
    assert.equal(code, 2, stderr);
    assert.match(stderr, /now: {2}another one writes to it\n {2}mend: wait for its end, or choose another --out/);
    assert.ok(!folder.has("model"));
  }
  const { code, stderr } = await cli(args);
  assert.equal(code, 0, stderr);
  assert.deepEqual([...Deno.readDirSync(folder.path)].map(({ name }) => name), ["model"]);
});

Deno.test("a model without a tokenizer goes through a GGUF and back, for token ids", async () => {
  using folder = new TemporaryFolder();
  const model = folder.at("model");
  await copyDemo(model);
  for (const { name } of [...Deno.readDirSync(model)]) {
    if (name.startsWith("tokenizer")) await Deno.remove(`${model}/${name}`);
  }
  const args = ["--formats", "gguf", "--gguf-dtype", "f32"];
  for (const [from, to] of [[model, "first"], [folder.at("first", "model.gguf"), "second"]] as const) {
    const { code, stderr } = await cli(["export", from, "--out", folder.at(to), ...args]);
    assert.equal(code, 0, stderr);
    const { source, tokenizer } = await openModelFiles(folder.at(to, "model.gguf"));
    assert.equal(tokenizer, null);
    await assertSameWeights(source, await openWeights(modelPath("demo")));
  }
});
