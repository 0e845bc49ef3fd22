// Models with experts in folders and GGUFs: what is written is read again, and what is broken is refused.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { GGUF_ARCHS } from "../../lib/families/all.ts";
import { misfits } from "../../lib/families/fit.ts";
import { parseHfConfig } from "../../lib/formats/hf/config.ts";
import { tensorShapes } from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { unitTable } from "../../lib/units/table.ts";
import { exportGguf, exportHf, openGguf, openHfFolder, openSafetensors, writeSafetensors } from "../disk.ts";
import { refuses, rejects } from "../refuses.ts";
import { inTemporaryFolder } from "./files.ts";
import { assertSameWeights } from "./models.ts";

const ROOT = fileURLToPath(new URL("../../fixtures/golden_experts/", import.meta.url));
const ARCHS = {
  qwen3_moe: "qwen3moe",
  olmoe: "olmoe",
  mixtral: "llama",
  qwen2_moe: "qwen2moe",
  granitemoe: "granitemoe",
} as const;
const NAMES = Object.keys(ARCHS);
const OPTIONS = { dtype: "f32", name: "x", tokenizerMetadata: new Map() } as const;

for (const name of NAMES) {
  Deno.test(`${name} is written as a folder of its class and read back`, async () => {
    const source = await openHfFolder(`${ROOT}${name}/model`);
    await inTemporaryFolder(async (folder) => {
      const { form } = await exportHf(source, `${folder}/out`, { dtype: "f32", tokenizer: null });
      assert.equal(form, name);
      const read = await openHfFolder(`${folder}/out`);
      assert.deepEqual(read.spec, source.spec);
      await assertSameWeights(read, source);
      await assertRows(read, source);
    });
  });
}

/** A model whose layers all have experts: without the dense layer in the middle of the qwen3_moe. */
async function sparse(name: string): Promise<WeightSource> {
  const { spec, read, storedDtype } = await openHfFolder(`${ROOT}${name}/model`);
  const kept = [...spec.layers.keys()].filter((layer) => spec.layers[layer]?.experts);
  const own = (name: string): string =>
    name.replace(/(?<=layers\.)\d+/, (layer) => String(kept[Number(layer)] ?? layer));
  return {
    spec: { ...spec, layers: spec.layers.filter(({ experts }) => experts) },
    read: async (name, rows) => await read(own(name), rows),
    storedDtype: (name) => storedDtype(own(name)),
  };
}

for (const [name, arch] of Object.entries(ARCHS)) {
  Deno.test(`${name} is written as a GGUF of ${arch} and read back`, async () => {
    const source = await sparse(name);
    await inTemporaryFolder(async (folder) => {
      const written = await exportGguf(source, `${folder}/x.gguf`, OPTIONS);
      assert.equal(written.arch.arch, arch);
      const read = await openGguf(`${folder}/x.gguf`);
      assert.deepEqual(read.spec, source.spec);
      await assertSameWeights(read, source);
      await assertRows(read, source);
      assert.equal(read.tensors.get("blk.0.ffn_gate_inp.weight")?.type, "f32");
    });
  });
}

Deno.test("a layer without experts among others has no GGUF", async () => {
  const { spec } = await openHfFolder(`${ROOT}qwen3_moe/model`);
  assert.deepEqual(GGUF_ARCHS.filter((arch) => misfits(spec, arch).length === 0).map(({ arch }) => arch), []);
});

Deno.test("experts that no class of transformers has are not written as a folder", async () => {
  const source = await openHfFolder(`${ROOT}olmoe/model`), { qkNorm: _, ...spec } = source.spec;
  await inTemporaryFolder(async (folder) => {
    const writing = exportHf({ ...source, spec }, `${folder}/out`, { dtype: "f32", tokenizer: null });
    await rejects(writing, "input");
  });
});

/** Rows that begin and end within experts. */
async function assertRows(read: WeightSource, source: WeightSource): Promise<void> {
  for (const one of ["gate", "down"] as const) {
    const name = `model.layers.0.mlp.experts.${one}_proj.weight`,
      [total = 0, width = 0] = tensorShapes(source.spec).get(name) ?? [];
    const rows = { start: 5, count: total - 12 };
    assert.deepEqual(await read.read(name, rows), (await source.read(name)).subarray(5 * width, (total - 7) * width));
  }
}

/** A copy of a folder with other tensors. */
async function changed(
  name: string,
  change: (tensors: Map<string, { shape: readonly number[]; data: Float32Array<ArrayBuffer> }>) => void,
  check: (folder: string) => Promise<void>,
): Promise<void> {
  const file = await openSafetensors(`${ROOT}${name}/model/model.safetensors`), tensors = new Map();
  for (const [key, { shape }] of file.tensors) tensors.set(key, { shape, data: await file.read(key) });
  change(tensors);
  await inTemporaryFolder(async (folder) => {
    await Deno.copyFile(`${ROOT}${name}/model/config.json`, `${folder}/config.json`);
    const items = [...tensors].map(([key, { shape, data }]) => ({
      name: key,
      shape,
      dtype: "F32" as const,
      data: () => data,
    }));
    await writeSafetensors(`${folder}/model.safetensors`, items);
    await check(folder);
  });
}

Deno.test("a router of another shape, a missing expert and an expert too many are refused", async () => {
  const router = "model.layers.0.mlp.gate.weight", expert = "model.layers.0.mlp.experts.1.up_proj.weight";
  await changed("olmoe", (tensors) => {
    tensors.set(router, { shape: [2, 42], data: new Float32Array(84) });
  }, async (folder) => await rejects(openHfFolder(folder), "input", { value: [2, 42], names: [router, 3] }));
  await changed(
    "olmoe",
    (tensors) => tensors.delete(expert),
    async (folder) => await rejects(openHfFolder(folder), "input", { names: expert }),
  );
  await changed("olmoe", (tensors) => {
    tensors.set(expert.replace(".1.", ".3."), { shape: [17, 42], data: new Float32Array(17 * 42) });
  }, async (folder) => await rejects(openHfFolder(folder), "input", { value: expert.replace(".1.", ".3.") }));
  await changed(
    "granitemoe",
    (tensors) => {
      tensors.set("model.layers.1.block_sparse_moe.output_linear.weight", {
        shape: [9, 36, 18],
        data: new Float32Array(9 * 36 * 18),
      });
    },
    async (folder) =>
      await rejects(openHfFolder(folder), "input", {
        value: [9, 36, 18],
        names: "model.layers.1.block_sparse_moe.output_linear.weight",
      }),
  );
});

Deno.test("more experts of a token than there are, and settings that no family computes, are refused", async () => {
  const config = async (name: string): Promise<Record<string, unknown>> =>
    JSON.parse(await Deno.readTextFile(`${ROOT}${name}/model/config.json`));
  const olmoe = await config("olmoe"), files = { path: "config.json" };
  refuses(() => parseHfConfig({ ...olmoe, num_experts_per_tok: 4 }, files), "input", {
    value: 4,
    names: "num_experts_per_tok",
  });
  refuses(() => parseHfConfig({ ...olmoe, clip_qkv: 8 }, files), "input", { value: 8, names: "clip_qkv" });
  refuses(() => parseHfConfig({ ...olmoe, model_type: "llama" }, files), "input", { value: ["llama", 3] });
});

Deno.test("a GGUF with fewer experts than a token has is refused", async () => {
  const source = await openHfFolder(`${ROOT}olmoe/model`), { spec } = source;
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/x.gguf`, router = { topK: 4 };
    await exportGguf({ ...source, spec: { ...spec, router } }, path, OPTIONS);
    await rejects(openGguf(path), "input", { value: 4, names: ["olmoe.expert_used_count", 3] });
  });
});

for (const part of ["ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"]) {
  Deno.test(`a GGUF with experts is refused without ${part}`, async () => {
    const source = await openHfFolder(`${ROOT}olmoe/model`), name = `blk.1.${part}.weight`;
    await inTemporaryFolder(async (folder) => {
      const path = `${folder}/x.gguf`;
      await exportGguf(source, path, OPTIONS);
      const bytes = await Deno.readFile(path), at = new TextDecoder("latin1").decode(bytes).indexOf(name);
      assert.ok(at > 0, name);
      bytes.set(new TextEncoder().encode("other"), at);
      await Deno.writeFile(path, bytes);
      await rejects(openGguf(path), "input", { value: "no such tensor", names: name });
    });
  });
}

Deno.test("models with experts are not pruned or trained", async () => {
  const { spec } = await openHfFolder(`${ROOT}olmoe/model`);
  for (const kinds of [["ffn"], ["kv", "hidden"], ["layers"], ["vocab"]] as const) {
    refuses(() => unitTable(spec, kinds), "usage", { value: 3 });
  }
});
