// Phi-1 to Phi-2 and StableLM with a parallel residual: what configurations say, older GGUFs, and the bias of the output head.
import assert from "node:assert/strict";
import { formOf } from "../../lib/formats/hf/export.ts";
import { parseHfConfig } from "../../lib/formats/hf/config.ts";
import { cutSource } from "../../lib/slice/vocabulary/cut_source.ts";
import { FUSED_QKV, fusedGgufName, fusedTensors, joined } from "../../lib/formats/fused.ts";
import { EMBEDDING, HEAD, HEAD_BIAS, tensorShapes } from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import type { GgufItem } from "../../lib/formats/gguf/write.ts";
import { exportGguf, openGguf, openGgufFile, openHfFolder, writeGguf } from "../disk.ts";
import { openGolden } from "../golden/helpers/golden.ts";
import { inTemporaryFolder, refuses, rejectsWith } from "./files.ts";

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
  assert.equal(formOf(spec), "phi");
  // Its heads may have another width than hidden size / heads, where its description is no longer that of the class.
  assert.equal(parsed({ ...phi, head_dim: 32 }).headDim, 32);
  refuses(() => parsed({ ...phi, qk_layernorm: true }), "input", /qk_layernorm.*LayerNorm of q and k heads/);
  refuses(() => parsed({ ...phi, hidden_act: "silu" }), "input", /hidden_act.*gelu_tanh or gelu or relu/);
});

Deno.test("a parallel residual shares its norm in a stablelm, and not in a gpt_neox", () => {
  const stable = { model_type: "stablelm", ...SIZES, num_key_value_heads: 32 };
  const neox = { model_type: "gpt_neox", ...SIZES };
  for (const [config, parallel] of [[stable, undefined], [neox, "own"]] as const) {
    assert.equal(parsed(config).parallel, parallel);
    assert.equal(parsed({ ...config, use_parallel_residual: false }).parallel, undefined);
    const whole = parsed({ ...config, use_parallel_residual: true });
    assert.equal(whole.parallel, parallel ?? "shared");
    assert.equal(formOf(whole), config.model_type);
    // No class has the other one.
    assert.equal(formOf({ ...whole, parallel: parallel === "own" ? "shared" : "own" }), "compresso");
  }
  refuses(() => parsed({ ...stable, qk_layernorm: true }), "input", /qk_layernorm.*StableLM 2 12B/);
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
    const fused = [...fusedTensors(source.spec, FUSED_QKV)].filter(([name, { parts }]) => name === parts[0]?.name);
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

Deno.test("a GGUF of a StableLM with LayerNorm of q and k heads is refused by that", async () => {
  const source = await openHfFolder((await openGolden("stablelm_parallel")).modelPath), { headDim } = source.spec;
  const norm: GgufItem = {
    name: "blk.0.attn_q_norm.weight",
    shape: [4, headDim],
    type: "f32",
    data: () => new Float32Array(4 * headDim),
  };
  await inTemporaryFolder(async (folder) => {
    await changedGguf(source, `${folder}/a`, { without: /^none$/, plus: [norm] });
    await rejectsWith(openGguf(`${folder}/a`), "input", /StableLM 2 12B is not supported.*attn_q_norm/);
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
