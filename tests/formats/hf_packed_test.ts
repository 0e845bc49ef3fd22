// Folders of GPT-2 and GPT-NeoX as their publishers have them: names without the class's prefix, causal masks beside the weights, and broken shapes.
import assert from "node:assert/strict";
import type { SafetensorsItem } from "../../lib/formats/safetensors/write.ts";
import { tensorShapes } from "../../lib/spec/decoder.ts";
import { rejects } from "../refuses.ts";
import { openHfFolder, openSafetensors, writeSafetensors } from "../disk.ts";
import { openGolden } from "../golden/helpers/golden.ts";
import { inTemporaryFolder } from "./files.ts";

/** Copies a golden model with other names, shapes and tensors. */
async function copied(
  name: "gpt2" | "gpt_neox" | "opt",
  folder: string,
  change: (items: SafetensorsItem[]) => SafetensorsItem[],
): Promise<void> {
  const { modelPath } = await openGolden(name), file = await openSafetensors(`${modelPath}/model.safetensors`);
  await Deno.copyFile(`${modelPath}/config.json`, `${folder}/config.json`);
  const items = [...file.tensors.values()].map(({ name, shape }): SafetensorsItem => ({
    name,
    shape,
    dtype: "F32",
    data: () => file.read(name),
  }));
  await writeSafetensors(`${folder}/model.safetensors`, change(items));
}

const mask = (name: string): SafetensorsItem => ({
  name,
  shape: [1, 1, 2, 2],
  dtype: "F32",
  data: () => Promise.resolve(Float32Array.of(1, 0, 1, 1)),
});

for (
  const [name, prefix, masks] of [
    ["gpt2", "transformer.", ["h.0.attn.bias", "h.1.attn.masked_bias"]],
    ["gpt_neox", "gpt_neox.", ["layers.0.attention.bias", "layers.1.attention.rotary_emb.inv_freq"]],
    ["opt", "model.", []],
  ] as const
) {
  Deno.test(`a ${name} whose names lack ${prefix} is read, causal masks and RoPE tables beside its weights are not`, async () => {
    const source = await openHfFolder((await openGolden(name)).modelPath);
    await inTemporaryFolder(async (folder) => {
      const bare = (own: string): string => own.startsWith(prefix) ? own.slice(prefix.length) : own;
      await copied(name, folder, (items) => [
        ...items.map((item) => ({ ...item, name: bare(item.name) })),
        ...masks.map(mask),
      ]);
      const read = await openHfFolder(folder);
      assert.deepEqual(read.spec, source.spec);
      for (const tensor of tensorShapes(source.spec).keys()) {
        assert.deepEqual(await read.read(tensor), await source.read(tensor), tensor);
      }
    });
  });
}

Deno.test("a fused tensor of another shape, and a missing one, are refused by their names", async () => {
  const change = (items: SafetensorsItem[], part: string): SafetensorsItem[] =>
    items.map((item) => item.name.includes(part) ? { ...item, shape: item.shape.toReversed() } : item);
  await inTemporaryFolder(async (folder) => {
    await copied("gpt2", folder, (items) => change(items, "h.1.attn.c_attn.weight"));
    await rejects(openHfFolder(folder), "input", { value: "[126, 42]", names: "[42, 126]" });
    await copied("gpt2", folder, (items) => items.filter(({ name }) => !name.includes("h.1.attn.c_attn.weight")));
    await rejects(openHfFolder(folder), "input", { names: ["transformer.h.1.attn.c_attn.weight", "[42, 126]"] });
  });
});
