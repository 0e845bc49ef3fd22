import assert from "node:assert/strict";
import { exportGguf } from "../../lib/formats/gguf/export.ts";
import { openWeights } from "../../lib/formats/open.ts";
import { fixture, inTemporaryFolder, rejectsWith } from "./files.ts";
import { assertSameWeights, randomSource, SPEC } from "./models.ts";

Deno.test("openWeights() opens a Hugging Face folder", async () => {
  const source = await openWeights(fixture("golden/mqa_bf16_sharded/model"));
  assert.equal(source.storedDtype("model.norm.weight"), "bf16");
  assert.equal(source.format, "hf");
  assert.equal(source.spec.rope.scaling.kind, "llama3");
});

Deno.test("openWeights() opens a GGUF by its content, whatever its name", async () => {
  await inTemporaryFolder(async (folder) => {
    const source = randomSource(SPEC);
    await exportGguf(source, `${folder}/model.bin`, { dtype: "f32", tokenizerMetadata: new Map(), name: "x" });
    const read = await openWeights(`${folder}/model.bin`);
    assert.equal(read.format, "gguf");
    await assertSameWeights(read, source);
  });
});

Deno.test("openWeights() says what it found instead of a model", async () => {
  const text = (content: string) => (path: string): Promise<void> => Deno.writeTextFile(path, content);
  const folderOf = (...names: string[]) => async (path: string): Promise<void> => {
    await Deno.mkdir(path);
    for (const name of names) await Deno.writeTextFile(`${path}/${name}`, name === "config.json" ? CONFIG : "x");
  };
  const cases: readonly (readonly [(path: string) => Promise<void>, RegExp])[] = [
    [async () => {}, /cannot read .*; rule: the path exists; now: no such file or folder; mend: check the spelling/],
    [text(""), /now: an empty file/],
    [text("hello, model"), /starts with GGUF; now: something else/],
    [
      text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"),
      /now: a Git LFS pointer.*git lfs pull/,
    ],
    [text("PK\x03\x04"), /now: a PyTorch \(pickle\) file; mend: convert/],
    [text("<html>"), /now: an HTML page/],
    [
      (path) => Deno.copyFile(fixture("gguf_blocks.safetensors"), path),
      /now: a safetensors file; mend: give the folder/,
    ],
    // The length of its header begins as a pickle does.
    [
      (path) =>
        Deno.writeFile(path, new Uint8Array([0x80, 0, 0, 0, 0, 0, 0, 0, ...new TextEncoder().encode('{"a":1}')])),
      /now: a safetensors file/,
    ],
    [folderOf(), /holds config\.json; now: an empty folder/],
    [folderOf("notes.txt"), /holds config\.json; now: \["notes\.txt"\]/],
    [
      async (path) => {
        await Deno.mkdir(`${path}/model`, { recursive: true });
        for (const name of ["model/config.json", "model.gguf"]) await Deno.writeTextFile(`${path}/${name}`, "");
      },
      /mend: give the folder in it: .*\/model$/,
    ],
    [folderOf("adapter_config.json", "adapter_model.safetensors"), /mend: it is an adapter: .*--adapter$/],
    [folderOf("model-q8.gguf", "README.md"), /mend: give the file itself: .*model-q8\.gguf/],
    [
      folderOf("config.json", "pytorch_model.bin"),
      /model\.safetensors.*now: only PyTorch files: pytorch_model\.bin; mend: convert/,
    ],
    [
      folderOf("config.json"),
      /holds model\.safetensors or model\.safetensors\.index\.json; now: \["config\.json"\]; mend: fetch/,
    ],
    [
      folderOf("config.json", "model.safetensors"),
      /safetensors file .*model\.safetensors; rule: a safetensors file starts with a length and .*now: something else/,
    ],
  ];
  for (const [index, [make, message]] of cases.entries()) {
    await inTemporaryFolder(async (folder) => {
      await make(`${folder}/m${index}`);
      await rejectsWith(openWeights(`${folder}/m${index}`), "input", message);
    });
  }
});

const CONFIG = JSON.stringify({
  model_type: "llama",
  vocab_size: 8,
  hidden_size: 4,
  num_hidden_layers: 1,
  num_attention_heads: 1,
  intermediate_size: 4,
});
