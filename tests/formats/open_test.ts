import assert from "node:assert/strict";
import { type Refusal, rejects } from "../refuses.ts";
import { exportGguf } from "../disk.ts";
import { openWeights } from "../disk.ts";
import { disk } from "../../lib/files/disk.ts";
import { hubMeant } from "../../lib/formats/open.ts";
import { fixture, inTemporaryFolder } from "./files.ts";
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
  const cases: readonly (readonly [(path: string) => Promise<void>, Refusal])[] = [
    [async () => {}, { names: "m0" }],
    [text(""), { names: ["m1", "GGUF"] }],
    [text("hello, model"), { names: "GGUF" }],
    [
      text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"),
      { value: "LFS" },
    ],
    [text("PK\x03\x04"), { value: "PyTorch" }],
    [text("<html>"), { value: "HTML" }],
    [
      (path) => Deno.copyFile(fixture("gguf_blocks.safetensors"), path),
      { names: ["m6", "GGUF"] },
    ],
    // The length of its header begins as a pickle does.
    [
      (path) =>
        Deno.writeFile(path, new Uint8Array([0x80, 0, 0, 0, 0, 0, 0, 0, ...new TextEncoder().encode('{"a":1}')])),
      { names: ["m7", "GGUF"] },
    ],
    [folderOf(), { names: "config.json" }],
    [folderOf("notes.txt"), { value: '"notes.txt"', names: "config.json" }],
    [
      async (path) => {
        await Deno.mkdir(`${path}/model`, { recursive: true });
        for (const name of ["model/config.json", "model.gguf"]) await Deno.writeTextFile(`${path}/${name}`, "");
      },
      { value: '["model","model.gguf"]' },
    ],
    [folderOf("adapter_config.json", "adapter_model.safetensors"), {
      value: ['"adapter_config.json"', '"adapter_model.safetensors"'],
    }],
    [folderOf("model-q8.gguf", "README.md"), { value: "model-q8.gguf" }],
    [
      folderOf("config.json", "pytorch_model.bin"),
      { value: ["PyTorch", "pytorch_model.bin"], names: "model.safetensors" },
    ],
    [
      folderOf("config.json"),
      { value: '"config.json"', names: "model.safetensors.index.json" },
    ],
    [
      folderOf("config.json", "model.safetensors"),
      { names: "model.safetensors" },
    ],
  ];
  for (const [index, [make, message]] of cases.entries()) {
    await inTemporaryFolder(async (folder) => {
      await make(`${folder}/m${index}`);
      await rejects(openWeights(`${folder}/m${index}`), "input", message);
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

Deno.test("an address of the Hub is answered with the name that stands for it", async () => {
  const cases = [
    ["https://huggingface.co/x/y", "hf:x/y"],
    ["huggingface.co/x/y.z-1/", "hf:x/y.z-1"],
    ["https://hf.co/datasets/x/y?row=3", "hf:x/y"],
    ["https://huggingface.co/x/y/tree/main", "hf:x/y"],
    ["https://huggingface.co/x/y/blob/v1/a/b.gguf?download=true", "hf:x/y@v1:a/b.gguf"],
    ["https://huggingface.co/x/y/resolve/main/b.gguf", "hf:x/y:b.gguf"],
    ["https://example.org/x/y", null],
    ["https://huggingface.co/x", null],
  ] as const;
  for (const [path, name] of cases) {
    const fix = await hubMeant(disk, path);
    assert.equal(fix?.match(/hf:[^?]*/)?.[0] ?? null, name, path);
  }
});
