// Phi-1 to Phi-2 and StableLM with a parallel residual: what configurations say, older GGUFs, and the bias of the output head.
import assert from "node:assert/strict";
import { familyFor } from "../../lib/families/all.ts";
import { parseHfConfig } from "../../lib/formats/hf/config.ts";
import { cutSource } from "../../lib/slice/vocabulary/cut_source.ts";
import { QKV } from "../../lib/families/fusion.ts";
import { fusedGgufName, fusedTensors, joined } from "../../lib/formats/fused.ts";
import { type DecoderSpec, EMBEDDING, HEAD, HEAD_BIAS, headNormName, tensorShapes } from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import type { GgufItem } from "../../lib/formats/gguf/write.ts";
import { refuses, rejects } from "../refuses.ts";
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
import { openGolden } from "../golden/helpers/golden.ts";
import { inTemporaryFolder } from "./files.ts";

/** `model_type` of the class that holds a model. */
const typeOf = (spec: DecoderSpec): string => familyFor(spec).type;

/** The sizes of Phi-1. */
const SIZES = {
  vocab_size: 51200,
  hidden_size: 2048,
  intermediate_size: 8192,
  num_hidden_layers: 24,
  num_attention_heads: 32,
};
const parsed = (config: Record<string, unknown>): ReturnType<typeof parseHfConfig> =>
  parseHfConfig(config, { path: "config.json" });

Deno.test("a phi has the defaults of transformers, and what its class computes otherwise is refused", () => {
  const phi = { model_type: "phi", ...SIZES }, spec = parsed(phi);
  assert.deepEqual(
    [spec.norm, spec.parallel, spec.ungated, spec.activation, spec.headBias, spec.tied, spec.normEps, spec.maxPosition],
    ["layer", "shared", true, "gelu_tanh", true, false, 1e-5, 2048],
  );
  assert.deepEqual([spec.rope, spec.biases?.length], [{ base: 10000, scaling: { kind: "none" }, dims: 32 }, 6]);
  assert.equal(typeOf(spec), "phi");
  // Its heads may have another width than hidden size / heads, where its description is no longer that of the class.
  assert.equal(parsed({ ...phi, head_dim: 32 }).headDim, 32);
  refuses(() => parsed({ ...phi, qk_layernorm: true }), "input", { value: "qk_layernorm", names: "LayerNorm" });
  refuses(() => parsed({ ...phi, hidden_act: "silu" }), "input", { value: "hidden_act", names: "gelu_new" });
});

Deno.test("a parallel residual shares its norm in a stablelm, and not in a gpt_neox", () => {
  const stable = { model_type: "stablelm", ...SIZES, num_key_value_heads: 32 };
  const neox = { model_type: "gpt_neox", ...SIZES };
  for (const [config, parallel] of [[stable, undefined], [neox, "own"]] as const) {
    assert.equal(parsed(config).parallel, parallel);
    assert.equal(parsed({ ...config, use_parallel_residual: false }).parallel, undefined);
    const whole = parsed({ ...config, use_parallel_residual: true });
    assert.equal(whole.parallel, parallel ?? "shared");
    assert.equal(typeOf(whole), config.model_type);
    // No class has the other one.
    assert.equal(typeOf({ ...whole, parallel: parallel === "own" ? "shared" : "own" }), "compresso");
  }
  // As StableLM 2 12B has it.
  const whole = parsed({ ...stable, use_parallel_residual: true, qk_layernorm: true });
  assert.deepEqual([whole.qkNorm, typeOf(whole)], ["layer", "stablelm"]);
});

/** Writes a GGUF of a golden model with some tensors left out and others added. */
async function changedGguf(
  source: WeightSource,
  path: string,
  { without, plus }: { readonly without: RegExp; readonly plus: readonly GgufItem[] },
): Promise<void> {
  await exportGguf(source, path, { dtype: "f32", tokenizerMetadata: new Map(), name: "changed" });
  const { metadata, tensors, readTensor } = await openGgufFile(path), items: GgufItem[] = [];
  for (const [name, { shape }] of tensors) {
    const values = await readTensor(name);
    if (!without.test(name)) items.push({ name, shape, type: "f32", data: () => values });
  }
  await Deno.remove(path);
  await writeGguf(path, { metadata: new Map(metadata), tensors: [...items, ...plus] });
}

Deno.test("an older GGUF of a Phi-2, with q, k and v in one, is read as a newer one", async () => {
  const source = await openHfFolder((await openGolden("phi")).modelPath);
  await inTemporaryFolder(async (folder) => {
    const fused = [...fusedTensors(source.spec, [QKV])].filter(([name, { parts }]) => name === parts[0]?.name);
    const plus = fused.map(([, whole]): GgufItem => ({
      name: fusedGgufName(whole),
      shape: whole.shape,
      type: "f32",
      data: async () => joined(await Promise.all(whole.parts.map(({ name }) => source.read(name)))),
    }));
    await changedGguf(source, `${folder}/a`, { without: /attn_[qkv]\./, plus });
    const older = await openGguf(`${folder}/a`);
    assert.ok(older.tensors.has("blk.1.attn_qkv.bias") && !older.tensors.has("blk.1.attn_q.weight"));
    assert.deepEqual(older.spec, source.spec);
    for (const name of tensorShapes(source.spec).keys()) {
      assert.deepEqual(await older.read(name), await source.read(name), name);
    }
  });
});

Deno.test("norms of q and k heads of a StableLM are a tensor for each head in a folder, and rows in a GGUF", async () => {
  const source = await openHfFolder((await openGolden("stablelm_parallel")).modelPath), { spec } = source;
  const name = headNormName(1, "q"), rows = { start: 7, count: 19 }, values = await source.read(name);
  assert.deepEqual([spec.qkNorm, values.length], ["layer", 40]);
  await inTemporaryFolder(async (folder) => {
    await exportGguf(source, `${folder}/a`, { dtype: "f16", tokenizerMetadata: new Map(), name: "stablelm" });
    const file = await openGguf(`${folder}/a`), norm = file.tensors.get("blk.1.attn_q_norm.weight");
    assert.deepEqual([norm?.shape, norm?.type, file.spec.qkNorm], [[4, 10], "f32", "layer"]);
    await exportHf(source, `${folder}/hf`, { dtype: "f32", tokenizer: null });
    const written = await openHfFolder(`${folder}/hf`);
    assert.deepEqual([written.config["model_type"], written.config["qk_layernorm"]], ["stablelm", true]);
    const stored = await openSafetensors(`${folder}/hf/model.safetensors`), head = [10];
    assert.deepEqual(stored.tensors.get("model.layers.1.self_attn.q_layernorm.norms.3.weight")?.shape, head);
    for (const other of [source, file, written]) {
      assert.deepEqual(await other.read(name), values);
      assert.deepEqual(await other.read(name, rows), values.slice(7, 26));
    }
    const items = [...stored.tensors].filter(([key]) => !/q_layernorm.norms.2/.test(key)).map(
      ([key, { shape, dtype }]) => ({ name: key, shape, dtype, data: () => stored.read(key) }),
    );
    await Deno.mkdir(`${folder}/less`);
    await Deno.copyFile(`${folder}/hf/config.json`, `${folder}/less/config.json`);
    await writeSafetensors(`${folder}/less/model.safetensors`, items);
    await rejects(openHfFolder(`${folder}/less`), "input", { names: "[10]" });
  });
});

Deno.test("tokens that are cut go from the bias of the output head too", async () => {
  const source = await openHfFolder((await openGolden("phi")).modelPath), kept = Int32Array.of(0, 1, 2, 7, 30, 70);
  const cut = cutSource(source, kept), bias = await source.read(HEAD_BIAS), { hidden } = source.spec;
  assert.deepEqual([...await cut.read(HEAD_BIAS)], [...kept].map((token) => bias[token]));
  for (const name of [EMBEDDING, HEAD]) {
    assert.deepEqual((await cut.read(name)).slice(-hidden), (await source.read(name)).slice(70 * hidden));
  }
});
