// Models with experts in folders and GGUFs: what is written is read again, and what is broken is refused.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { GGUF_ARCHS } from "../../lib/families/all.ts";
import { fits, misfits } from "../../lib/families/fit.ts";
import { parseHfConfig } from "../../lib/formats/hf/config.ts";
import { choiceBiasName, expertsName, tensorShapes } from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { unitTable } from "../../lib/units/table.ts";
import type { GgufTyped, GgufValue } from "../../lib/formats/gguf/types.ts";
import {
  exportGguf,
  exportHf,
  openGguf,
  openGgufFile,
  openHfFolder,
  openSafetensors,
  writeGguf,
  writeSafetensors,
} from "../disk.ts";
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
  glm4_moe: "glm4moe",
  ernie4_5_moe: "ernie4_5-moe",
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

/** A model that a GGUF can hold: without the dense layer in the middle of the qwen3_moe. */
async function sparse(name: string): Promise<WeightSource> {
  const source = await openHfFolder(`${ROOT}${name}/model`), { spec, read, storedDtype } = source;
  if (name !== "qwen3_moe") return source;
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
      // A file does not say how a folder holds the rows of q and k.
      const { neighbours: _, ...spec } = source.spec;
      assert.deepEqual(read.spec, spec);
      await assertSameWeights(read, source);
      await assertRows(read, source);
      assert.equal(read.tensors.get("blk.1.ffn_gate_inp.weight")?.type, "f32");
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
    const layer = source.spec.layers.findIndex(({ experts }) => experts),
      name = expertsName(layer, one),
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

Deno.test("layers that predict further tokens are not read, of a folder or a GGUF", async () => {
  const source = await openHfFolder(`${ROOT}glm4_moe/model`), last = "model.layers.3.eh_proj.weight";
  await changed("glm4_moe", (tensors) => {
    tensors.set(last, { shape: [2, 3], data: new Float32Array(6) });
  }, async (folder) => assert.deepEqual((await openHfFolder(folder)).spec, source.spec));
  await changed("glm4_moe", (tensors) => {
    tensors.set(last.replace("3", "2"), { shape: [2, 3], data: new Float32Array(6) });
  }, async (folder) => await rejects(openHfFolder(folder), "input", { value: last.replace("3", "2") }));
  await changed("ernie4_5_moe", (tensors) => {
    tensors.set("model.mtp_linear_proj.0.weight", { shape: [2, 3], data: new Float32Array(6) });
  }, async (folder) => assert.equal((await openHfFolder(folder)).spec.layers.length, 2));
  // A file of three layers whose last one is said to predict.
  const predicts = { "glm4moe.nextn_predict_layers": 1 };
  await changedGguf(source, { metadata: predicts }, async (path) => {
    const read = await openGguf(path);
    assert.deepEqual(read.spec.layers, source.spec.layers.slice(0, 2));
    assert.equal(read.spec.qkNorm, "head");
  });
});

/** A tensor of a GGUF. */
interface Stored {
  readonly name: string;
  readonly shape: readonly number[];
  readonly data: () => Promise<Float32Array<ArrayBuffer>>;
}

/** A GGUF of a model in f32, with other tensors or metadata. */
async function changedGguf(
  source: WeightSource,
  { change = (tensors) => tensors, metadata: added = {} }: {
    readonly change?: (tensors: readonly Stored[]) => readonly Stored[];
    readonly metadata?: Readonly<Record<string, number>>;
  },
  check: (path: string) => Promise<void>,
): Promise<void> {
  await inTemporaryFolder(async (folder) => {
    await exportGguf(source, `${folder}/x.gguf`, OPTIONS);
    const file = await openGgufFile(`${folder}/x.gguf`), metadata = new Map<string, GgufValue | GgufTyped>();
    for (const [key, value] of file.metadata) {
      metadata.set(key, typeof value === "number" && !Number.isInteger(value) ? { type: "f32", value } : value);
    }
    for (const [key, value] of Object.entries(added)) metadata.set(key, value);
    const stored = [...file.tensors.values()].map(({ name, shape }): Stored => {
      return { name, shape, data: () => file.readTensor(name) };
    });
    const tensors = change(stored).map((tensor) => ({ ...tensor, type: "f32" as const }));
    await writeGguf(`${folder}/y.gguf`, { metadata, tensors });
    await check(`${folder}/y.gguf`);
  });
}

Deno.test("a GGUF whose router or stack of experts has another shape, or whose experts stand alone, is refused", async () => {
  const source = await openHfFolder(`${ROOT}olmoe/model`), { hidden } = source.spec, ffn = 17;
  const refused = async (part: string, shape: readonly number[]): Promise<void> => {
    const name = `blk.1.${part}.weight`, count = shape.reduce((product, size) => product * size, 1);
    const change = (tensors: readonly Stored[]): readonly Stored[] =>
      tensors.map((one) =>
        one.name === name ? { name, shape, data: () => Promise.resolve(new Float32Array(count)) } : one
      );
    await changedGguf(source, { change }, (path) => rejects(openGguf(path), "input", { value: shape, names: name }));
  };
  await refused("ffn_gate_inp", [2, hidden]);
  await refused("ffn_gate_inp", [hidden, 3]);
  await refused("ffn_gate_exps", [2, ffn, hidden]);
  await refused("ffn_up_exps", [ffn, 3, hidden]);
  await refused("ffn_down_exps", [3, ffn, hidden]);
  // One tensor for each expert, as the oldest files have them.
  const alone = (tensors: readonly Stored[]): readonly Stored[] =>
    tensors.flatMap((one) => {
      if (one.name !== "blk.1.ffn_up_exps.weight") return [one];
      const data = async (): Promise<Float32Array<ArrayBuffer>> => (await one.data()).slice(0, ffn * hidden);
      return [0, 1, 2].map((e) => ({ name: `blk.1.ffn_up.${e}.weight`, shape: [ffn, hidden], data }));
    });
  await changedGguf(source, { change: alone }, async (path) => {
    await rejects(openGguf(path), "input", { value: "no such tensor", names: "blk.1.ffn_up_exps.weight" });
  });
});

Deno.test("tensors of experts may stand in any order", async () => {
  const source = await openHfFolder(`${ROOT}olmoe/model`);
  await changedGguf(source, { change: (tensors) => tensors.toReversed() }, async (path) => {
    await assertSameWeights(await openGguf(path), source);
  });
  await changed("olmoe", (tensors) => {
    const all = [...tensors].toReversed();
    tensors.clear();
    for (const [name, tensor] of all) tensors.set(name, tensor);
  }, async (folder) => await assertSameWeights(await openHfFolder(folder), source));
  // Experts 0 and 2 without 1: the number of the config is what counts.
  const expert = "model.layers.1.mlp.experts.1.gate_proj.weight";
  await changed("olmoe", (tensors) => {
    const moved = tensors.get(expert);
    tensors.delete(expert);
    if (moved) tensors.set(expert.replace(".1.gate", ".7.gate"), moved);
  }, async (folder) => await rejects(openHfFolder(folder), "input", { names: expert }));
});

Deno.test("a bias of the choice stays f32 in a folder of bf16", async () => {
  for (const [name, bias] of [["glm4_moe", "gate"], ["ernie4_5_moe", "moe_statics"]] as const) {
    const source = await openHfFolder(`${ROOT}${name}/model`), own = choiceBiasName(1);
    await inTemporaryFolder(async (folder) => {
      await exportHf(source, `${folder}/out`, { dtype: "bf16", tokenizer: null });
      const file = await openSafetensors(`${folder}/out/model.safetensors`), read = await openHfFolder(`${folder}/out`);
      assert.equal(file.tensors.get(`model.layers.1.mlp.${bias}.e_score_correction_bias`)?.dtype, "F32");
      assert.equal(file.tensors.get("model.layers.1.mlp.gate.weight")?.dtype, "BF16");
      assert.deepEqual(await read.read(own), await source.read(own));
    });
  }
});

Deno.test("groups of experts, biases and steps that no class here computes are refused", async () => {
  const config = async (name: string): Promise<Record<string, unknown>> =>
    JSON.parse(await Deno.readTextFile(`${ROOT}${name}/model/config.json`));
  const glm = await config("glm4_moe"), ernie = await config("ernie4_5_moe"), files = { path: "config.json" };
  refuses(() => parseHfConfig({ ...glm, n_group: 2 }, files), "input", { value: 2, names: "n_group" });
  refuses(() => parseHfConfig({ ...ernie, use_bias: true }, files), "input", { value: "true", names: "use_bias" });
  refuses(() => parseHfConfig({ ...ernie, moe_layer_interval: 2 }, files), "input", { names: "moe_layer_interval" });
});

Deno.test("dense layers after those with experts have no GGUF of GLM or ERNIE", async () => {
  for (const name of ["glm4_moe", "ernie4_5_moe"]) {
    const { spec } = await openHfFolder(`${ROOT}${name}/model`), layers = spec.layers.toReversed();
    assert.deepEqual(GGUF_ARCHS.filter((arch) => fits({ ...spec, layers }, arch)).map(({ arch }) => arch), []);
    assert.equal(GGUF_ARCHS.filter((arch) => fits(spec, arch)).length, 1);
  }
});
