// `export` into the folder of the model that it reads.
import assert from "node:assert/strict";
import { FolderLock, HELD } from "../../lib/files/lock.ts";
import { openWeights } from "../disk.ts";
import { modelPath, openModelFiles } from "../../lib/local/open_model.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { exportModel } from "../../lib/local/export_model.ts";
import { assertSameWeights } from "../formats/models.ts";
import { assertNames } from "../refuses.ts";
import { cli, cliProcess, copyDemo, refused, TemporaryFolder } from "./helpers/cli.ts";

Deno.test("export --overwrite may write over its own model, and keeps its generation settings", async () => {
  using folder = new TemporaryFolder();
  const demo = await modelPath("demo"), model = folder.at("model");
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
  await refused(["export", "demo", "--out", folder.path, "--formats", "hf"], "input", { names: "--overwrite" });
});

Deno.test("export refuses an --out that is a file, as prune does, and leaves it as it is", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("out"), "mine");
  await refused(["export", "demo", "--out", folder.at("out")], "usage", { names: [folder.at("out"), "--out"] });
  assert.equal(await Deno.readTextFile(folder.at("out")), "mine");
});

Deno.test("export does not write into the folder of a run that goes on", async () => {
  using folder = new TemporaryFolder();
  const args = ["export", "demo", "--out", folder.path, "--formats", "hf"];
  {
    using lock = new FolderLock(folder.path);
    await lock.take();
    await refused(args, "usage", { value: HELD, names: [folder.path, "--out"] });
    assert.ok(!folder.has("model"));
  }
  const { code, stderr } = await cli(args);
  assert.equal(code, 0, stderr);
  assert.deepEqual([...Deno.readDirSync(folder.path)].map(({ name }) => name), ["model"]);
});

Deno.test("export refuses a type of a file that is not asked for, and tells of matrices that have not their type", async () => {
  using folder = new TemporaryFolder();
  for (const words of [["--formats", "gguf", "--dtype", "bf16"], ["--formats", "hf", "--gguf-dtype", "q8_0"]]) {
    const names = [words[2] ?? "", `--formats ${words[1]}`];
    await refused(["export", "demo", "--out", folder.at("out"), ...words], "usage", { names });
    assert.ok(!folder.has("out"));
  }
  // The demo's hidden size and FFN are whole blocks; a slice of it is not.
  const { source, tokenizer } = await openModelFiles("demo"), { spec } = source;
  const ffn = spec.layers.map(({ ffn }) => new Float32Array(ffn).fill(1).fill(0, 0, 1));
  const masks = { ffn: Float32Array.from(ffn.flatMap((layer) => [...layer])) };
  await exportModel(sliceModel(source, { masks }), folder.at("small"), { tokenizer, name: "small", formats: ["hf"] });
  const args = ["export", folder.at("small", "model"), "--out", folder.at("q8"), "--formats", "gguf"];
  const { code, stderr } = await cli([...args, "--gguf-dtype", "q8_0"]);
  assert.equal(code, 0, stderr);
  assertNames(stderr, [5, "f16", 32]);
  assert.equal((await cli([...args, "--gguf-dtype", "f16", "--overwrite"])).stderr, "");
});

Deno.test("named chat templates go on, the one in use as the default", async () => {
  using folder = new TemporaryFolder();
  const model = folder.at("named"), name = "tokenizer_config.json";
  await copyDemo(model);
  const config = JSON.parse(await Deno.readTextFile(`${model}/${name}`));
  const chat_template = [{ name: "tool_use", template: "T" }, { name: "default", template: "D" }];
  await Deno.writeTextFile(`${model}/${name}`, JSON.stringify({ ...config, chat_template }));
  const { code, stderr } = await cli(["export", model, "--out", folder.at("out"), "--formats", "hf"]);
  assert.equal(code, 0, stderr);
  const written = JSON.parse(await Deno.readTextFile(folder.at("out", "model", name)));
  assert.deepEqual(written.chat_template, chat_template.toReversed());
});

Deno.test("a file of another model does not stay beside one that cannot be written in its format", async () => {
  using folder = new TemporaryFolder();
  const model = folder.at("wordlevel");
  await copyDemo(model);
  const path = `${model}/tokenizer.json`, json = JSON.parse(await Deno.readTextFile(path));
  json.normalizer = { type: "Lowercase" };
  await Deno.writeTextFile(path, JSON.stringify(json));
  await Deno.mkdir(folder.at("out"));
  await Deno.writeTextFile(folder.at("out", "model.gguf"), "of another model");
  const args = ["export", model, "--out", folder.at("out")];
  await refused(args, "input", { names: folder.at("out", "model.gguf") });
  assert.deepEqual([...Deno.readDirSync(folder.at("out"))].map(({ name }) => name), ["model.gguf"]);
  const replaced = await cli([...args, "--overwrite"]);
  assert.equal(replaced.code, 0, replaced.stderr);
  assertNames(replaced.stderr, ["GGUF", folder.at("out", "model.gguf")]);
  assert.deepEqual([...Deno.readDirSync(folder.at("out"))].map(({ name }) => name), ["model"]);
  const { stderr } = await cli([...args, "--overwrite"]);
  assert.ok(!stderr.includes(folder.at("out", "model.gguf")), "nothing is there to be removed");
});

Deno.test("export removes what a killed export has left, and not the model that it reads", async () => {
  using folder = new TemporaryFolder();
  const aside = folder.at("model.old-0123abcd"), args = ["--out", folder.path, "--formats", "hf", "--overwrite"];
  await copyDemo(aside);
  await copyDemo(folder.at("model"));
  await Deno.mkdir(folder.at("model.tmp-0123abcd"));
  for (const name of ["model.tmp-0123abcd/x", "model.gguf.tmp-0123abcd", "mine.tmp-0123abcd"]) {
    await Deno.writeTextFile(folder.at(name), "");
  }
  const names = (): string[] => [...Deno.readDirSync(folder.path)].map(({ name }) => name).sort();
  const first = await cli(["export", aside, ...args]);
  assert.equal(first.code, 0, first.stderr);
  assert.deepEqual(names(), ["mine.tmp-0123abcd", "model", "model.old-0123abcd"]);
  const second = await cli(["export", "demo", ...args]);
  assert.equal(second.code, 0, second.stderr);
  assert.deepEqual(names(), ["mine.tmp-0123abcd", "model"]);
  // Killed between its two renames, the next one finds its model.
  await Deno.rename(folder.at("model"), aside);
  const third = await cli(["export", folder.at("model"), ...args]);
  assert.equal(third.code, 0, third.stderr);
  assert.deepEqual(names(), ["mine.tmp-0123abcd", "model"]);
});

Deno.test("export into a folder that is not there yet holds it, and leaves none where it is refused", async () => {
  using folder = new TemporaryFolder();
  const refused = await cli(["export", "demo", "--out", folder.at("new"), "--adapter", folder.at("absent")]);
  assert.equal(refused.code, 3, refused.stderr);
  assert.ok(!folder.has("new"));
  const { source, tokenizer } = await openModelFiles("demo");
  const ffn = new Float32Array(source.spec.layers.reduce((sum, { ffn }) => sum + ffn, 0)).fill(1).fill(0, 0, 1);
  await exportModel(sliceModel(source, { masks: { ffn } }), folder.at("uneven"), {
    tokenizer,
    name: "x",
    formats: ["hf"],
  });
  const uneven = ["export", folder.at("uneven", "model"), "--out", folder.at("new"), "--layout", "uniform"];
  assert.equal((await cli(uneven)).code, 2);
  assert.ok(!folder.has("new"));
  const args = ["export", "demo", "--out", folder.at("new"), "--formats", "gguf"];
  const both = await Promise.all([cliProcess(args), cliProcess(args)]);
  assert.deepEqual(both.map(({ code }) => code === 0).sort(), [false, true], both.map(({ stderr }) => stderr).join());
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
    await assertSameWeights(source, await openWeights(await modelPath("demo")));
  }
});

Deno.test("export --gguf-size writes a GGUF of at most so many bytes, and refuses fewer than there can be", async () => {
  using folder = new TemporaryFolder();
  const args = ["export", "demo", "--formats", "gguf", "--out", folder.at("out")], most = 900 * 1024;
  const { code, stdout, stderr } = await cli([...args, "--gguf-size", "900K"]);
  assert.equal(code, 0, stderr);
  const { size } = await Deno.stat(folder.at("out/model.gguf"));
  assert.ok(size <= most && size >= 0.99 * most, `${size} of ${most}`);
  // More than one type was chosen.
  assert.match(stdout, /\d+ q\d\S*, \d+ /);
  const other = [...args.slice(0, -1), folder.at("other")];
  await refused([...other, "--gguf-size", "20K"], "input", {
    option: "--gguf-size",
    value: 20 * 1024,
    names: "--gguf-size",
  });
  await refused([...other, "--gguf-size", "900K", "--gguf-dtype", "q8_0"], "usage", {
    option: "--gguf-size",
    value: "q8_0",
  });
  const folderOnly = other.map((word) => word === "gguf" ? "hf" : word);
  await refused([...folderOnly, "--gguf-size", "900K"], "usage", { names: "ggufSize" });
  assert.ok(!folder.has("other"));
});
