// Logits, loss and every gradient against transformers + torch in float64, on tiny random models saved by transformers.
import assert from "node:assert/strict";
import { loadModel } from "../../mod.ts";
import type { RopeScaling } from "../../lib/spec/decoder.ts";
import {
  assertClose,
  type BatchName,
  distance,
  type Golden,
  type GoldenName,
  openGolden,
  type RunName,
} from "./helpers/golden.ts";
import { sharedDevice } from "../device.ts";

// torch itself, in f32, is within 2e-6 (logits) and 7e-6 (gradients) of its float64; the rest is room for other orders
// of summation and for the GPU's exp, sin and cos.
const LOGIT_TOLERANCE = 1e-4;
const GRADIENT_TOLERANCE = 1e-3;

// An f16 base gets the same tolerance: all weights of gqa_f16 are f16 values, so storing them as f16 loses nothing.
const CASES: readonly { name: GoldenName; baseDtype: "f32" | "f16" }[] = [
  { name: "gqa_llama3", baseDtype: "f32" },
  { name: "mha_linear", baseDtype: "f32" },
  { name: "mqa_bf16_sharded", baseDtype: "f32" },
  { name: "gqa_f16", baseDtype: "f32" },
  { name: "gqa_f16", baseDtype: "f16" },
  { name: "gqa_bias", baseDtype: "f32" },
  { name: "qwen2", baseDtype: "f32" },
  { name: "qwen3", baseDtype: "f32" },
  // Windows of 7 and 10 tokens; the batches have 21 and 37.
  { name: "mistral_window", baseDtype: "f32" },
  { name: "ministral_window", baseDtype: "f32" },
  // Seven heads of 6, 42 hidden dims, 67 columns.
  { name: "opt", baseDtype: "f32" },
  { name: "opt_residual", baseDtype: "f32" },
  // Seven heads of 6; five heads of 12, of which 4 dims rotate.
  { name: "gpt2", baseDtype: "f32" },
  { name: "gpt_neox", baseDtype: "f32" },
  { name: "stablelm", baseDtype: "f32" },
  // Attention and FFN read one norm; three heads of 14, of which 4 dims rotate, and a bias of the head.
  { name: "stablelm_parallel", baseDtype: "f32" },
  { name: "phi", baseDtype: "f32" },
  // LongRoPE with an original context of 24 tokens.
  { name: "phi3", baseDtype: "f32" },
  // A window of 9 tokens in two layers of three, with a RoPE of its own.
  { name: "gemma3", baseDtype: "f32" },
  { name: "smollm3", baseDtype: "f32" },
  { name: "granite", baseDtype: "f32" },
  { name: "gemma", baseDtype: "f32" },
  // Scores that are bent beyond 2.5, logits beyond 6.
  { name: "gemma2", baseDtype: "f32" },
  { name: "olmo2", baseDtype: "f32" },
];
const BATCHES: readonly BatchName[] = ["pair", "single"];
const RUNS: readonly RunName[] = ["bare", "lora", "full"];
const WHAT: Readonly<Record<RunName, string>> = {
  bare: "masks at 1",
  lora: "masks at 1 and of LoRA on all projections",
  full: "random masks and of LoRA on all projections",
};

for (const { name, baseDtype } of CASES) {
  Deno.test(`logits of ${name} with an ${baseDtype} base match transformers`, async () => {
    const golden = await openGolden(name);
    const device = await sharedDevice();
    using model = await loadModel(golden.modelPath, { device, baseDtype });
    const distances = [];
    for (const batch of BATCHES) {
      const { tokens, logits } = await golden.batch(batch);
      for (const [row, ids] of tokens.entries()) {
        distances.push(distance(`${batch}.logits[${row}]`, await model.logits(ids), logits[row] ?? []));
      }
    }
    assertClose(distances, LOGIT_TOLERANCE);
  });

  for (const run of RUNS) {
    Deno.test(`loss and gradients of ${WHAT[run]} match torch for ${name} with an ${baseDtype} base`, async () => {
      const golden = await openGolden(name);
      const device = await sharedDevice();
      using model = await loadModel(golden.modelPath, { device, baseDtype });
      for (const batch of BATCHES) {
        const { tokens, labels } = await golden.batch(batch);
        const expected = await golden.run(batch, run);
        const actual = await model.lossAndGradients({
          tokens: flat(tokens),
          labels: flat(labels),
          ...(run === "bare" ? {} : { lora: loraOf(golden) }),
          ...(run === "full" ? { masks: masksOf(golden) } : {}),
        });
        assert.deepEqual(
          [...actual.gradients.keys()].sort(),
          [...expected.gradients.keys()].sort(),
          "gradients' names",
        );
        assertClose([distance(`${batch} loss`, [actual.loss], [expected.loss])], LOGIT_TOLERANCE);
        assertClose(
          [...expected.gradients].map(([key, values]) =>
            distance(`${batch} ${key}`, actual.gradients.get(key) ?? [], values)
          ),
          GRADIENT_TOLERANCE,
        );
      }
    });
  }
}

Deno.test("masks that are left out count as 1", async () => {
  const golden = await openGolden("gqa_llama3");
  const device = await sharedDevice();
  using model = await loadModel(golden.modelPath, { device, baseDtype: "f32" });
  const { tokens, labels } = await golden.batch("single");
  const expected = await golden.run("single", "lora");
  for (const kind of ["head", "ffn", "hidden"] as const) {
    const ones = new Float32Array(golden.masks.get(`mask.${kind}`)?.length ?? 0).fill(1);
    const actual = await model.lossAndGradients({
      tokens: flat(tokens),
      labels: flat(labels),
      lora: loraOf(golden),
      masks: { [kind]: ones },
    });
    assertClose([distance(`loss with mask.${kind} alone`, [actual.loss], [expected.loss])], LOGIT_TOLERANCE);
    assertClose(
      [...expected.gradients].map(([key, values]) => distance(key, actual.gradients.get(key) ?? [], values)),
      GRADIENT_TOLERANCE,
    );
  }
});

Deno.test("config.json in the old and the new form gives the spec that the fixture was made with", async () => {
  const llama3: RopeScaling = {
    kind: "llama3",
    factor: 8,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPosition: 64,
  };
  const layers = (count: number, heads: number, rest: { kvHeads: number; ffn: number }): unknown[] =>
    Array.from({ length: count }, () => ({ heads, ...rest }));
  const wanted = new Map<GoldenName, Record<string, unknown>>([
    ["gqa_llama3", {
      headDim: 8,
      tied: true,
      rope: { base: 10000, scaling: llama3 },
      layers: layers(3, 6, { kvHeads: 2, ffn: 101 }),
      maxPosition: 512,
    }],
    ["mha_linear", {
      headDim: 10,
      tied: false,
      rope: { base: 5000, scaling: { kind: "linear", factor: 2.5 } },
      layers: layers(2, 3, { kvHeads: 3, ffn: 67 }),
      maxPosition: 256,
    }],
    ["mqa_bf16_sharded", {
      headDim: 14,
      tied: false,
      rope: { base: 500, scaling: llama3 },
      layers: layers(2, 4, { kvHeads: 1, ffn: 65 }),
      maxPosition: 512,
    }],
    ["gqa_f16", {
      headDim: 10,
      tied: true,
      rope: { base: 10000, scaling: { kind: "none" } },
      layers: layers(2, 4, { kvHeads: 2, ffn: 53 }),
      maxPosition: 128,
    }],
    ["gqa_bias", {
      headDim: 10,
      tied: true,
      rope: { base: 10000, scaling: { kind: "none" } },
      layers: layers(2, 4, { kvHeads: 2, ffn: 53 }),
      maxPosition: 128,
      biases: ["q", "k", "v", "o", "gate", "up", "down"],
    }],
    ["qwen2", {
      headDim: 6,
      tied: false,
      rope: { base: 1000, scaling: { kind: "none" } },
      layers: layers(2, 6, { kvHeads: 2, ffn: 49 }),
      maxPosition: 128,
      biases: ["q", "k", "v"],
    }],
    ["qwen3", {
      headDim: 10,
      tied: true,
      rope: { base: 1000, scaling: { kind: "none" } },
      layers: layers(2, 6, { kvHeads: 2, ffn: 47 }),
      maxPosition: 128,
      qkNorm: "head",
    }],
    ["mistral_window", {
      headDim: 10,
      tied: true,
      rope: { base: 10000, scaling: { kind: "none" } },
      layers: Array(2).fill({ heads: 4, kvHeads: 2, ffn: 45, window: 7 }),
      maxPosition: 128,
    }],
    ["ministral_window", {
      headDim: 10,
      tied: false,
      rope: { base: 10000, scaling: { kind: "none" } },
      layers: [10, null, 10].map((window) => ({ heads: 4, kvHeads: 2, ffn: 45, ...(window ? { window } : {}) })),
      maxPosition: 128,
    }],
    ["opt", {
      headDim: 6,
      tied: true,
      rope: { base: 10000, scaling: { kind: "none" } },
      layers: layers(3, 7, { kvHeads: 7, ffn: 67 }),
      maxPosition: 41,
      biases: ["q", "k", "v", "o", "up", "down"],
      activation: "relu",
    }],
    ["opt_residual", {
      headDim: 6,
      tied: true,
      rope: { base: 10000, scaling: { kind: "none" } },
      layers: layers(3, 7, { kvHeads: 7, ffn: 67 }),
      maxPosition: 41,
      biases: ["q", "k", "v", "o", "up", "down"],
      activation: "relu",
      normPlaces: "residual",
      embeddingWidth: 22,
    }],
    ["gemma", {
      headDim: 10,
      tied: true,
      rope: { base: 1000, scaling: { kind: "none" } },
      layers: layers(2, 3, { kvHeads: 1, ffn: 47 }),
      maxPosition: 128,
      activation: "gelu_tanh",
      scales: { embedding: Math.sqrt(38) },
    }],
    ["gemma2", {
      headDim: 10,
      tied: true,
      rope: { base: 1000, scaling: { kind: "none" } },
      layers: [9, null, 9].map((window) => ({ heads: 4, kvHeads: 2, ffn: 45, ...(window ? { window } : {}) })),
      maxPosition: 128,
      activation: "gelu_tanh",
      normPlaces: "both",
      scales: { embedding: Math.sqrt(36), attention: 7 ** -0.5 },
      softCaps: { attention: 2.5, logits: 6 },
    }],
    ["gemma3", {
      headDim: 10,
      tied: true,
      rope: { base: 5000, scaling: { kind: "linear", factor: 2.5 }, localBase: 100 },
      layers: [9, null, 9].map((window) => ({
        ...{ heads: 4, kvHeads: 2, ffn: 45 },
        ...(window ? { window, rope: "local" } : {}),
      })),
      maxPosition: 128,
      qkNorm: "head",
      activation: "gelu_tanh",
      normPlaces: "both",
      scales: { embedding: Math.sqrt(44), attention: 7 ** -0.5 },
    }],
    ["phi3", {
      headDim: 10,
      tied: false,
      rope: {
        base: 1000,
        scaling: {
          kind: "longrope",
          short: [1, 1.2, 1.5],
          long: [1.1, 2.5, 6],
          attention: Math.sqrt(1 + Math.log(128 / 24) / Math.log(24)),
          originalMaxPosition: 24,
        },
        dims: 6,
      },
      layers: Array(2).fill({ heads: 4, kvHeads: 2, ffn: 45, window: 9 }),
      maxPosition: 128,
      fused: true,
    }],
    ["olmo2", {
      headDim: 14,
      tied: false,
      rope: { base: 500, scaling: { kind: "none" } },
      layers: layers(2, 3, { kvHeads: 1, ffn: 47 }),
      maxPosition: 128,
      normPlaces: "after",
      qkNorm: "whole",
    }],
    ["granite", {
      headDim: 10,
      tied: true,
      rope: { base: 500, scaling: { kind: "none" } },
      layers: layers(2, 4, { kvHeads: 2, ffn: 47 }),
      maxPosition: 128,
      scales: { embedding: 6, attention: 0.25, residual: 0.7, logits: 3 },
    }],
    ["smollm3", {
      headDim: 14,
      tied: true,
      rope: { base: 500, scaling: { kind: "none" } },
      layers: Array.from({ length: 5 }, (_, index) => {
        return { heads: 3, kvHeads: 1, ffn: 37, ...index === 3 ? { rope: "none" } : {} };
      }),
      maxPosition: 128,
    }],
  ]);
  const absent = {
    biases: undefined,
    qkNorm: undefined,
    fused: undefined,
    activation: undefined,
    normPlaces: undefined,
    embeddingWidth: undefined,
    scales: undefined,
    softCaps: undefined,
  };
  const device = await sharedDevice();
  for (const [name, shape] of wanted) {
    using model = await loadModel((await openGolden(name)).modelPath, { device, baseDtype: "f32" });
    const { spec } = model;
    assert.deepEqual(
      {
        headDim: spec.headDim,
        tied: spec.tied,
        rope: spec.rope,
        layers: spec.layers,
        maxPosition: spec.maxPosition,
        biases: spec.biases,
        qkNorm: spec.qkNorm,
        fused: spec.fused,
        activation: spec.activation,
        normPlaces: spec.normPlaces,
        embeddingWidth: spec.embeddingWidth,
        scales: spec.scales,
        softCaps: spec.softCaps,
      },
      { ...absent, ...shape },
      name,
    );
    assert.deepEqual([spec.bosId, [...spec.eosIds], spec.padId], [1, [2], 0], name);
    assert.equal(model.tokenizer, null, `${name} has no tokenizer`);
  }
});

Deno.test("distance() finds the worst index, and NaN is further than any number", () => {
  assert.match(distance("x", [1, 2.5, 4], [1, 2, 4]).text, /^x\[1\] of 3 is 2\.5, golden 2, off by 1\.25e-1/);
  assert.throws(() => assertClose([distance("x", [1, 2.5, 4], [1, 2, 4])], 0.12), /x\[1\]/);
  assertClose([distance("x", [1, 2.5, 4], [1, 2, 4])], 0.13);
  assert.throws(
    () => assertClose([distance("x", [2, 2], [1, 2]), distance("y", [NaN, 1], [1, 1])], 1),
    /y\[0\].*1 of 2/,
  );
  assert.throws(() => assertClose([distance("zero", [1], [0])], 1e9), /zero\[0\]/);
  assert.throws(() => distance("short", [], [1]), /0 elements/);
});

/** A batch of one row is passed as a plain list, so that both forms of the call are tried. */
function flat(rows: number[][]): number[] | number[][] {
  const [first] = rows;
  return rows.length === 1 && first ? first : rows;
}

function loraOf({ rank, alpha, targets, lora }: Golden): {
  rank: number;
  alpha: number;
  targets: Golden["targets"];
  weights: Map<string, Float32Array>;
} {
  return { rank, alpha, targets, weights: lora };
}

function masksOf({ masks }: Golden): { head: Float32Array; ffn: Float32Array; hidden: Float32Array } {
  const [head, ffn, hidden] = ["head", "ffn", "hidden"].map((kind) => masks.get(`mask.${kind}`));
  assert.ok(head && ffn && hidden, "the golden file holds the three masks");
  return { head, ffn, hidden };
}
