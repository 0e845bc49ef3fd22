// Norms of the residual stream and projections of the embedding, alone and together: logits and mask gradients against an f64 twin.
import assert from "node:assert/strict";
import { loadModelFrom } from "../../lib/model/model.ts";
import { writeTargets } from "../../lib/nn/head.ts";
import { IDLE_STATE, writeStepState } from "../../lib/nn/train/step_state.ts";
import { createPass, recordGradients } from "../../lib/nn/pass.ts";
import { type MaskKind, maskSizes } from "../../lib/nn/mask_slots.ts";
import { ALL_UNGATED } from "../../lib/families/shared.ts";
import { uniform } from "../../lib/core/random.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { sharedDevice } from "../device.ts";
import { assertClose, distance } from "../golden/helpers/golden.ts";
import { decoderOf, lossOf, type TwinMasks } from "../run/helpers/decoder_f64.ts";
import { randomSource } from "../slice/helpers.ts";

const KINDS = ["head", "ffn", "hidden"] as const satisfies readonly MaskKind[];
const TOKENS = [3, 9, 20, 44, 5, 60, 1, 33, 12, 8, 61];

const PLAIN: DecoderSpec = {
  vocab: 67,
  hidden: 30,
  headDim: 6,
  layers: [{ heads: 5, kvHeads: 5, ffn: 31 }, { heads: 5, kvHeads: 5, ffn: 65 }],
  normEps: 1e-5,
  norm: "layer",
  activation: "relu",
  ungated: true,
  positions: { offset: 2 },
  rope: { base: 10000, scaling: { kind: "none" } },
  tied: true,
  biases: ALL_UNGATED,
  maxPosition: 16,
  bosId: null,
  eosIds: [],
  padId: null,
};

/** A width below and one above the hidden size; each of the two changes alone, and both. */
const SPECS: Readonly<Record<string, DecoderSpec>> = {
  "norms of the stream": { ...PLAIN, normPlaces: "residual" },
  "projections of the embedding, with a head of its own": { ...PLAIN, embeddingWidth: 65, tied: false },
  both: { ...PLAIN, normPlaces: "residual", embeddingWidth: 14 },
};

// The tolerance of the golden tests; an FFN of ReLU has kinks, so differences are taken of a twin in f64 with a small step.
const LOGIT_TOLERANCE = 1e-4, GRADIENT_TOLERANCE = 1e-3, STEP = 1e-5;

for (const [what, spec] of Object.entries(SPECS)) {
  Deno.test(`logits and mask gradients with ${what} are those of an f64 twin and of its finite differences`, async () => {
    const source = randomSource(spec), twin = await decoderOf(source), device = await sharedDevice();
    using model = await loadModelFrom(source, { device, baseDtype: "f32" });
    const sizes = maskSizes(spec);
    const masks: Record<MaskKind, Float32Array> = { head: none(), ffn: none(), hidden: none() };
    KINDS.forEach((kind, stream) => {
      masks[kind] = Float32Array.from({ length: sizes[kind] }, (_, i) => 0.25 + 0.75 * uniform(5, stream, i));
    });
    const expected = twin(TOKENS, masks).logits;
    assertClose([distance("logits", await model.logits(TOKENS, { masks }), flat(expected))], LOGIT_TOLERANCE);

    const labels = [...TOKENS],
      lossAt = (own: TwinMasks): number => {
        const { sum, count } = lossOf(twin(TOKENS, own).logits, labels);
        return sum / count;
      };
    const found = await model.lossAndGradients({ tokens: TOKENS, labels, masks });
    for (const kind of KINDS) {
      const actual = found.gradients.get(`mask.${kind}`) ?? assert.fail(kind);
      // Some units of each kind: each difference takes two runs of the twin.
      const places = [0, 3, 7, sizes[kind] - 1];
      const differences = places.map((at) => {
        const moved = (by: number): number =>
          lossAt({ ...masks, [kind]: Float64Array.from(masks[kind], (z, i) => z + (i === at ? by : 0)) });
        return (moved(STEP) - moved(-STEP)) / (2 * STEP);
      });
      assertClose([distance(kind, places.map((at) => actual[at] ?? NaN), differences)], GRADIENT_TOLERANCE);
    }
  });
}

Deno.test("gradients with norms of the stream are the same bits whether backward recomputes or keeps", async () => {
  const spec = SPECS["both"] ?? assert.fail(), device = await sharedDevice();
  using model = await loadModelFrom(randomSource(spec), { device, baseDtype: "f32" });
  const found: Float32Array[] = [];
  for (const recompute of [true, false]) {
    using pass = createPass(device, model.weights, { batch: 1, seq: TOKENS.length, backward: true, recompute });
    const context = pass.plan({ maskGrads: new Set<MaskKind>(KINDS) });
    using plan = context.plan;
    recordGradients(context);
    device.write(pass.act.tokens, Uint32Array.from(TOKENS));
    writeTargets(pass, Int32Array.from(TOKENS));
    writeStepState(device, pass.state, IDLE_STATE);
    device.write(pass.masks.z, new Float32Array(pass.masks.layout.count).fill(1));
    await plan.run();
    found.push(await device.readFloats(pass.masks.dz, pass.masks.layout.count));
  }
  assert.ok(found[0]?.some((value) => value !== 0));
  assert.deepEqual(found[0], found[1]);
});

function none(): Float32Array {
  return new Float32Array(0);
}

function flat(rows: readonly Float64Array[]): number[] {
  return rows.flatMap((row) => [...row]);
}
