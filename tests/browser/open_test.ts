// Files of a browser without a GPU: models and rows of blobs, damaged ones too.
import assert from "node:assert/strict";
import { openModelFiles, readRows } from "../../lib/browser/mod.ts";
import { modelPath, openModelFiles as openFromDisk } from "../../lib/local/open_model.ts";
import { rejects } from "../refuses.ts";

async function demoBlobs(): Promise<Record<string, Blob>> {
  const folder = await modelPath("demo");
  const names = (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)).filter((name) =>
    name !== "README.md"
  );
  return Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, new Blob([await Deno.readFile(`${folder}/${name}`)])] as const)),
  );
}

Deno.test("a folder's blobs have the weights and the tokenizer of the folder on the disk", async () => {
  const [own, known] = await Promise.all([openModelFiles(await demoBlobs()), openFromDisk("demo")]);
  assert.deepEqual(own.source.spec, known.source.spec);
  const name = "model.embed_tokens.weight";
  assert.deepEqual(await own.source.read(name), await known.source.read(name));
  assert.deepEqual(own.tokenizer?.encode("Tom went to Rome."), known.tokenizer?.encode("Tom went to Rome."));
});

Deno.test("a blob that is no model, and weights that end early, are refused", async () => {
  await rejects(openModelFiles(new Blob(["no model"])), "input", {});
  const files = await demoBlobs(), weights = files["model.safetensors"];
  assert.ok(weights);
  const cut = { ...files, "model.safetensors": weights.slice(0, 4000) };
  await rejects(openModelFiles(cut).then(({ source }) => source.read("model.embed_tokens.weight")), "input", {});
});

Deno.test("rows of a blob are read, and a broken row is refused by its line", async () => {
  const { kind, rows } = await readRows("rows.jsonl", new Blob(['{"text": "one"}\n{"text": "two"}\n']));
  assert.deepEqual([kind, rows.length], ["text", 2]);
  await rejects(readRows("rows.jsonl", new Blob(['{"text": "one"}\n{"text": \n'])), "input", { names: ["line 2"] });
});
