import assert from "node:assert/strict";
import { exportGguf } from "../disk.ts";
import { openWeights } from "../disk.ts";
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
    [async () => {}, /cannot read .*; expected: the path exists; got: no such file or folder; fix: check the spelling/],
    [text(""), /got: an empty file/],
    [text("hello, model"), /starts with GGUF; got: something else/],
    [
      text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"),
      /got: a Git LFS pointer.*git lfs pull/,
    ],
    [text("PK\x03\x04"), /got: a PyTorch \(pickle\) file; fix: convert/],
    [text("<html>"), /got: an HTML page/],
    [
      (path) => Deno.copyFile(fixture("gguf_blocks.safetensors"), path),
      /got: a safetensors file; fix: give the folder/,
    ],
    // The length of its header begins as a pickle does.
    [
      (path) =>
        Deno.writeFile(path, new Uint8Array([0x80, 0, 0, 0, 0, 0, 0, 0, ...new TextEncoder().encode('{"a":1}')])),
      /got: a safetensors file/,
    ],
    [folderOf(), /holds config\.json; got: an empty folder/],
    [folderOf("notes.txt"), /holds config\.json; got: \["notes\.txt"\]/],
    [
      async (path) => {
        await Deno.mkdir(`${path}/model`, { recursive: true });
        for (const name of ["model/config.json", "model.gguf"]) await Deno.writeTextFile(`${path}/${name}`, "");
      },
      /fix: give the folder in it: .*\/model$/,
    ],
    [folderOf("adapter_config.json", "adapter_model.safetensors"), /fix: it is an adapter: .*as adapter$/],
    [folderOf("model-q8.gguf", "README.md"), /fix: give the file itself: .*model-q8\.gguf/],
    [
      folderOf("config.json", "pytorch_model.bin"),
      /model\.safetensors.*got: only PyTorch files: pytorch_model\.bin; fix: convert/,
    ],
    [
      folderOf("config.json"),
      /holds model\.safetensors or model\.safetensors\.index\.json; got: \["config\.json"\]; fix: fetch/,
    ],
    [
      folderOf("config.json", "model.safetensors"),
      /safetensors file .*model\.safetensors; expected: a safetensors file starts with a length and .*got: something else/,
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
