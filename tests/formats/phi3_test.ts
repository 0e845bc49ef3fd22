// Phi-3: its configuration, fused matrices in folders, GGUFs and adapters, and what it is written as where its class does not hold it.
import assert from "node:assert/strict";
import { familyFor } from "../../lib/families/all.ts";
import { parseHfConfig } from "../../lib/formats/hf/config.ts";
import { hfConfig } from "../../lib/formats/hf/export.ts";
import { ggufArch, refuseUnlike } from "../../lib/formats/gguf/architecture.ts";
import { readPeftAdapter, writePeftAdapter } from "../../lib/local/adapter.ts";
import { type LoraConfig, loraModules, loraScale } from "../../lib/spec/lora.ts";
import { type DecoderSpec, type Projection, projectionName, PROJECTIONS } from "../../lib/spec/decoder.ts";
import { exportGguf, exportHf, openGguf, openHfFolder, openSafetensors } from "../disk.ts";
import { type SafetensorsItem } from "../../lib/formats/safetensors/write.ts";
import { type Refusal, refuses, rejects } from "../refuses.ts";
import { writeSafetensors } from "../disk.ts";
import { inTemporaryFolder } from "./files.ts";
import { assertSameWeights, randomNumbers, randomSource, SPEC } from "./models.ts";

/** `model_type` of the class that holds a model. */
const typeOf = (spec: DecoderSpec): string => familyFor(spec).type;

const LONG = {
  kind: "longrope",
  short: [1, 1.5],
  long: [2, 7],
  attention: Math.SQRT2,
  originalMaxPosition: 16,
} as const;

/** As Phi-4-mini: heads that rotate in part, LongRoPE; heads · head_dim is the hidden size. */
const PHI3: DecoderSpec = {
  ...SPEC,
  hidden: 24,
  rope: { base: 500, scaling: LONG, dims: 4 },
  maxPosition: 256,
  fused: true,
};

const CONFIG = {
  model_type: "phi3",
  vocab_size: 37,
  hidden_size: 24,
  intermediate_size: 33,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-5,
  max_position_embeddings: 256,
  original_max_position_embeddings: 16,
  rope_theta: 500,
  partial_rotary_factor: 0.75,
  bos_token_id: 1,
  eos_token_id: [2, 5],
};
const SCALING = { type: "longrope", short_factor: [1, 1.5], long_factor: [2, 7] };

Deno.test("the configuration of a phi3 in the forms of published models gives its RoPE and windows", () => {
  const parse = (change: Record<string, unknown>): DecoderSpec =>
    parseHfConfig({ ...CONFIG, ...change }, { path: "config.json" });
  // 256 tokens are 16 times the original context: √(1 + ln 16 / ln 16).
  assert.deepEqual(parse({ rope_scaling: SCALING }), PHI3);
  assert.deepEqual(parse({ rope_scaling: { ...SCALING, type: "su" } }), PHI3);
  const { original_max_position_embeddings: _, ...others } = CONFIG;
  const parameters = { ...SCALING, rope_type: "longrope", rope_theta: 500, partial_rotary_factor: 0.75 };
  const nested = { ...parameters, original_max_position_embeddings: 16 };
  // Without the outer key a phi3 has 4,096, whatever the scaling says, and no factor above 1.
  assert.deepEqual(
    parseHfConfig({ ...others, rope_parameters: nested }, { path: "config.json" }).rope.scaling,
    { ...LONG, originalMaxPosition: 4096, attention: 1 },
  );
  const plain = parse({ rope_scaling: null, partial_rotary_factor: undefined, sliding_window: 100 });
  assert.deepEqual(plain.rope, { base: 500, scaling: { kind: "none" } });
  assert.deepEqual(plain.layers.map(({ window }) => window), [100, 100]);
  assert.equal(parse({ eos_token_id: undefined, vocab_size: 32064 }).eosIds[0], 32000);
  const refused: readonly (readonly [Record<string, unknown>, Refusal])[] = [
    [{ rope_scaling: { type: "linear", factor: 2 } }, { value: '"linear"', names: "RoPE" }],
    [{ rope_scaling: { ...SCALING, long_factor: [2] } }, { value: 1, names: 2 }],
    [{ rope_scaling: { ...SCALING, short_factor: undefined } }, { names: 2 }],
    [{ partial_rotary_factor: 0.5 }, { names: 6 }],
    [{ attention_bias: true }, { names: "phi3" }],
    [{ fused: true }, { value: "fused" }],
  ];
  for (const [change, error] of refused) refuses(() => parse(change), "input", error);
});

Deno.test("a phi3 is written as its own class and architecture, and else as one that computes the same", () => {
  const plain: DecoderSpec = { ...PHI3, rope: { base: 500, scaling: { kind: "none" } } };
  const layers = plain.layers.map((layer) => ({ ...layer, heads: 2, kvHeads: 1 }));
  const uneven = plain.layers.map((layer, index) => ({ ...layer, ffn: layer.ffn - index }));
  const cases: readonly (readonly [DecoderSpec, string, string | null])[] = [
    [PHI3, "phi3", "phi3"],
    [plain, "phi3", "phi3"],
    // Phi-3's configuration counts LongRoPE's factors against hidden size / heads.
    [{ ...PHI3, hidden: 20 }, "compresso", null],
    [{ ...plain, layers }, "phi3", "llama"],
    [{ ...plain, layers: uneven }, "compresso", "deci"],
    [{ ...PHI3, layers: uneven }, "compresso", null],
    [{ ...plain, biases: ["o", "down"] }, "llama", "llama"],
    [{ ...PHI3, biases: ["o", "down"] }, "compresso", null],
  ];
  for (const [spec, form, arch] of cases) {
    assert.equal(typeOf(spec), form);
    if (arch) assert.equal(ggufArch(spec).arch, arch);
    else refuses(() => ggufArch(spec), "input", { names: "arch" });
  }
  refuses(() => refuseUnlike(PHI3, ""), "input", { names: "GGUF" });
  const { rope_scaling, rope_parameters, partial_rotary_factor } = hfConfig(PHI3, { dtype: "f32" });
  assert.deepEqual(rope_scaling, SCALING); // three keys, or transformers 4 refuses it
  assert.deepEqual(rope_parameters, {
    rope_type: "longrope",
    short_factor: [1, 1.5],
    long_factor: [2, 7],
    original_max_position_embeddings: 16,
    rope_theta: 500,
    partial_rotary_factor,
  });
  assert.equal(Math.floor(6 * Number(partial_rotary_factor)), 4);
});

Deno.test("folders and GGUFs of a phi3 hold fused matrices, which read back whole, in ranges and as blocks", async () => {
  await inTemporaryFolder(async (folder) => {
    const source = randomSource(PHI3), name = projectionName(1, "up"), range = { start: 5, count: 3 };
    await exportHf(source, `${folder}/hf`, { dtype: "f32", tokenizer: null });
    await exportGguf(source, `${folder}/a.gguf`, { dtype: "f32", name: "x", tokenizerMetadata: new Map() });
    const hf = await openHfFolder(`${folder}/hf`), gguf = await openGguf(`${folder}/a.gguf`);
    assert.deepEqual(hf.spec, PHI3);
    // A GGUF stores the factor in f32.
    const { rope: { scaling } } = gguf.spec, attention = scaling.kind === "longrope" ? scaling.attention : NaN;
    assert.ok(Math.abs(attention - Math.SQRT2) < 1e-7);
    assert.deepEqual(gguf.spec, { ...PHI3, rope: { ...PHI3.rope, scaling: { ...LONG, attention } } });
    assert.deepEqual(gguf.tensors.get("blk.1.ffn_up.weight")?.shape, [66, 24]);
    assert.deepEqual(gguf.tensors.get("blk.1.attn_qkv.weight")?.shape, [48, 24]);
    const file = await openSafetensors(`${folder}/hf/model.safetensors`);
    assert.deepEqual(file.tensors.get("model.layers.0.mlp.gate_up_proj.weight")?.shape, [66, 24]);
    for (const read of [hf, gguf]) {
      await assertSameWeights(read, source);
      assert.deepEqual(await read.read(name, range), await source.read(name, range));
    }
    const wide = randomSource({ ...PHI3, hidden: 32, headDim: 8, rope: { base: 500, scaling: { kind: "none" } } });
    await exportGguf(wide, `${folder}/b.gguf`, { dtype: "q8_0", name: "x", tokenizerMetadata: new Map() });
    const blocks = await (await openGguf(`${folder}/b.gguf`)).readBlocks?.(name, { bits: 8, rows: range });
    const whole = await (await openGguf(`${folder}/b.gguf`)).readBlocks?.(name, { bits: 8 });
    assert.deepEqual(blocks?.codes, whole?.codes.subarray(5 * 32, 8 * 32));
  });
});

Deno.test("LoRA on fused modules: one block of the rank for each projection, which reads back as it was", async () => {
  for (const targets of [PROJECTIONS, ["q", "v", "up"] as const]) {
    for (const rsLora of [false, true]) {
      await inTemporaryFolder(async (folder) => {
        const config: LoraConfig = { rank: 2, alpha: 5, rsLora, targets, dropout: 0 }, weights = loraOf(config);
        await writePeftAdapter(`${folder}/adapter`, { spec: PHI3, config, weights, baseModel: null });
        const said = JSON.parse(await Deno.readTextFile(`${folder}/adapter/adapter_config.json`));
        assert.deepEqual(said.rank_pattern, { qkv_proj: 6, gate_up_proj: 4 });
        const own = targets.length === 3
          ? ["qkv_proj", "gate_up_proj"]
          : ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"];
        assert.deepEqual(said.target_modules, own);
        const qkv = { rank: 6, alpha: said.alpha_pattern.qkv_proj, rsLora };
        assert.ok(Math.abs(loraScale(qkv) / loraScale(config) - 1) < 1e-12);
        const read = await readPeftAdapter(`${folder}/adapter`, PHI3);
        assert.deepEqual(read.config.targets, targets);
        assert.equal(read.config.rank, 2);
        assert.ok(Math.abs(read.config.alpha - 5) < 1e-12);
        assert.deepEqual([...read.weights.keys()].sort(), [...weights.keys()].sort());
        // The alpha of a fused module is √3 or √2 of them with rsLoRA, so B is within rounding.
        for (const [name, values] of weights) near(read.weights.get(name), values, name);
      });
    }
  }
});

Deno.test("an adapter that PEFT trained on a fused module has its A and rows of its B in every projection", async () => {
  await inTemporaryFolder(async (folder) => {
    const path = "base_model.model.model.layers.1.self_attn.qkv_proj";
    const tensor = (name: string, shape: readonly [number, number], seed: number): SafetensorsItem => {
      return { name, dtype: "F32", shape, data: () => randomNumbers(shape[0] * shape[1], seed) };
    };
    const [a, b] = [tensor(`${path}.lora_A.weight`, [3, 24], 1), tensor(`${path}.lora_B.weight`, [48, 3], 2)];
    await writeSafetensors(`${folder}/adapter_model.safetensors`, [a, b]);
    const said = { peft_type: "LORA", r: 3, lora_alpha: 4, target_modules: ["qkv_proj"], layers_to_transform: [1] };
    await Deno.writeTextFile(`${folder}/adapter_config.json`, JSON.stringify(said));
    const { config, weights } = await readPeftAdapter(folder, PHI3);
    assert.deepEqual(config, { rank: 3, alpha: 4, rsLora: false, targets: ["q", "k", "v"], dropout: 0 });
    const rows: readonly (readonly [Projection, number, number])[] = [["q", 0, 24], ["k", 24, 36], ["v", 36, 48]];
    for (const [part, start, end] of rows) {
      assert.deepEqual(weights.get(`lora.1.${part}.A`), await a.data());
      assert.deepEqual(weights.get(`lora.1.${part}.B`), (await b.data()).slice(start * 3, end * 3));
      assert.ok(weights.get(`lora.0.${part}.B`)?.every((value) => value === 0));
    }
    const { fused: _, ...apart } = PHI3;
    await rejects(readPeftAdapter(folder, apart), "input", { value: "model.layers.1.self_attn.qkv_proj" });
  });
});

function loraOf({ rank, targets }: LoraConfig): Map<string, Float32Array> {
  return new Map(
    loraModules(PHI3, targets).flatMap(({ layer, projection, shape: [rows, cols] }, index) => [
      [`lora.${layer}.${projection}.A`, randomNumbers(rank * cols, 2 * index + 1)] as const,
      [`lora.${layer}.${projection}.B`, randomNumbers(rows * rank, 2 * index + 2)] as const,
    ]),
  );
}

function near(actual: Float32Array | undefined, expected: Float32Array, name: string): void {
  assert.equal(actual?.length, expected.length, name);
  const bad = expected.findIndex((value, index) => !(Math.abs(value - (actual?.[index] ?? NaN)) <= 1e-6));
  assert.equal(bad, -1, `${name}[${bad}]`);
}
