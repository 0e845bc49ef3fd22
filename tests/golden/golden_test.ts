// Logits, loss and every gradient against transformers + torch in float64, on tiny random models saved by transformers.
import assert from "node:assert/strict";
import { loadModel } from "../../mod.ts";
import { openHfFolder } from "../disk.ts";
import {
  assertClose,
  type BatchName,
  distance,
  type Golden,
  GOLDEN_NAMES,
  type GoldenName,
  HYBRID_NAMES,
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
  ...[...GOLDEN_NAMES, ...HYBRID_NAMES].map((name) => ({ name, baseDtype: "f32" as const })),
  { name: "gqa_f16", baseDtype: "f16" },
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

// What else the configurations say is in the logits.
Deno.test("the configurations of all families give the special tokens that they say", async () => {
  for (const name of [...GOLDEN_NAMES, ...HYBRID_NAMES]) {
    const { spec } = await openHfFolder((await openGolden(name)).modelPath);
    assert.deepEqual([spec.bosId, [...spec.eosIds], spec.padId], [1, [2], 0], name);
    assert.ok(spec.maxPosition >= 41 && spec.maxPosition <= 512, name);
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
