// Packed rows that do not see each other: losses and gradients are those of the rows alone, on one rank and several, and
// a run that is stopped is resumed with the same bits.
import assert from "node:assert/strict";
import type { Batch } from "../../lib/data/batches.ts";
import { countLabels, type Example, IGNORED_LABEL } from "../../lib/data/prompts/encode.ts";
import { pack } from "../../lib/data/packing.ts";
import { uniform } from "../../lib/core/random.ts";
import { loadModel } from "../../lib/local/load_model.ts";
import type { Model } from "../../lib/model/model.ts";
import { IDLE_STATE } from "../../lib/nn/train/step_state.ts";
import { calibrate } from "../../lib/run/methods/calibrate.ts";
import { measureInfluence } from "../../lib/run/methods/influence.ts";
import { Trainer, type TrainerOptions } from "../../lib/run/trainer.ts";
import { PROJECTIONS } from "../../lib/spec/decoder.ts";
import { unitTable } from "../../lib/units/table.ts";
import { sharedDevice } from "../device.ts";
import { type GoldenName, openGolden } from "../golden/helpers/golden.ts";
import { BASE, bitsOf, drive, FEW, interrupted, withShortDemo } from "./helpers/demo_run.ts";
import { together } from "./helpers/ranks.ts";

/** Rows of two sequences. One row has a single token; another is cut in two. */
const LENGTHS = [1, 11, 17, 10, 25], CUT = [1, 11, 17, 3, 7, 25], SEQ = 32;

/** f32 sums of some hundred terms in another order, relative to the largest. */
const TOLERANCE = 2e-5;

function batchOf(sequences: readonly Example[]): Batch {
  const tokens = new Uint32Array(sequences.length * SEQ);
  const labels = new Int32Array(tokens.length).fill(IGNORED_LABEL), positions = new Uint32Array(tokens.length);
  for (const [row, one] of sequences.entries()) {
    tokens.set(one.tokens, row * SEQ);
    labels.set(one.labels, row * SEQ);
    positions.set(one.positions ?? [], row * SEQ);
  }
  const labelTokens = sequences.reduce((sum, one) => sum + countLabels(one.labels), 0);
  const given = sequences.some((one) => one.positions) ? { positions } : {};
  return { tokens, labels, realTokens: tokens.length, labelTokens, ...given };
}

/** The rows packed, and the same rows each in a sequence. */
function batchesOf(vocab: number): { readonly packed: Batch; readonly alone: Batch } {
  const rows = LENGTHS.map((length, row): Example => {
    const tokens = Uint32Array.from({ length }, (_, at) => Math.floor(vocab * uniform(17 + row, at)));
    return { tokens, labels: Int32Array.from(tokens, (token, at) => at % 5 === 3 ? IGNORED_LABEL : token) };
  });
  const { examples } = pack(rows, SEQ, { documentMask: true });
  const parts = examples.flatMap(({ tokens, labels, positions = new Uint32Array() }) => {
    const starts = [...positions.keys()].filter((at) => positions[at] === 0);
    return starts.map((start, index): Example => {
      const end = starts[index + 1];
      return { tokens: tokens.slice(start, end), labels: labels.slice(start, end) };
    });
  });
  assert.deepEqual(parts.map(({ tokens }) => tokens.length), CUT);
  return { packed: batchOf(examples), alone: batchOf(parts) };
}

/** A trainer whose LoRA has gradients of both matrices. */
async function trainerOf(
  model: Model,
  options: Pick<TrainerOptions, "batch"> & Partial<TrainerOptions>,
): Promise<Trainer> {
  const lora = { rank: 3, alpha: 6, targets: PROJECTIONS, dropout: 0 };
  const table = unitTable(model.spec, model.spec.norm === undefined ? ["kv", "ffn", "hidden"] : ["kv", "ffn"]);
  const trainer = new Trainer(model, { seq: SEQ, seed: 5, lora, table, ...options });
  const weights = [...await trainer.loraWeights()];
  trainer.setLora(
    new Map(weights.map(([name, values], matrix) => [
      name,
      values.map((_, at) => 0.2 * uniform(40 + matrix, at) - 0.1),
    ])),
  );
  return trainer;
}

async function withGolden(name: GoldenName, work: (model: Model) => Promise<void>): Promise<void> {
  const { modelPath } = await openGolden(name);
  using model = await loadModel(modelPath, { device: await sharedDevice(), baseDtype: "f32" });
  await work(model);
}

/** All gradients of a batch, of LoRA and of masks. */
async function gradientsOf(trainer: Trainer, batch: Batch): Promise<Map<string, Float32Array>> {
  const { gradients, slots } = await trainer.inspect("gradual", batch, { state: IDLE_STATE });
  return new Map([...gradients, ["masks", slots]]);
}

function assertClose(what: string, got: Float32Array, want: Float32Array): void {
  assert.equal(got.length, want.length, what);
  const errors = want.map((value, at) => Math.abs(value - (got[at] ?? NaN)));
  const top = want.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const worst = errors.reduce((most, error, at) => error <= (errors[most] ?? NaN) ? most : at, 0);
  assert.ok(
    (errors[worst] ?? NaN) <= TOLERANCE * top,
    `${what}: ${got[worst]} at ${worst}, alone ${want[worst]}; the largest is ${top}`,
  );
}

// RoPE and grouped heads; windows of some layers and norms of heads; learned positions; convolutions.
for (const name of ["gqa_f16", "gemma3", "gpt2", "lfm2"] as const) {
  Deno.test(`the loss and gradients of packed rows are those of the rows alone: ${name}`, async () => {
    await withGolden(name, async (model) => {
      const { packed, alone } = batchesOf(model.spec.vocab), state = { state: IDLE_STATE };
      using own = await trainerOf(model, { batch: 2, documentMask: true });
      using each = await trainerOf(model, { batch: CUT.length });
      const [got, want] = [await own.loss(packed, state), await each.loss(alone, state)];
      assert.ok(Math.abs(got - want) < 1e-5 * want, `${got}, alone ${want}`);
      const gradients = await gradientsOf(own, packed), expected = await gradientsOf(each, alone);
      for (const [key, values] of expected) assertClose(key, gradients.get(key) ?? new Float32Array(), values);
      using unmasked = await trainerOf(model, { batch: 2 });
      assert.ok(
        Math.abs(await unmasked.loss(packed, state) - want) > 1e-3 * want,
        "without the mask the loss is another",
      );
    });
  });
}

Deno.test("the gradient of packed rows is the slope of their loss", async () => {
  await withGolden("gqa_f16", async (model) => {
    const { packed } = batchesOf(model.spec.vocab), state = { state: IDLE_STATE };
    using trainer = await trainerOf(model, { batch: 2, documentMask: true });
    const weights = await trainer.loraWeights(), gradients = await gradientsOf(trainer, packed);
    const length = Math.hypot(...[...weights.keys()].flatMap((name) => [...gradients.get(name) ?? []]));
    const lossAt = async (step: number): Promise<number> => {
      trainer.setLora(
        new Map([...weights].map(([name, values]) => {
          const gradient = gradients.get(name) ?? new Float32Array();
          return [name, values.map((value, at) => value + step * (gradient[at] ?? NaN) / length)];
        })),
      );
      return await trainer.loss(packed, state) / packed.labelTokens;
    };
    const step = 0.02, slope = (await lossAt(step) - await lossAt(-step)) / (2 * step);
    // The error of a central difference grows with the square of the step; of an f32 loss with its inverse.
    assert.ok(Math.abs(slope - length) < 2e-3 * length, `${slope}, gradient ${length}`);
  });
});

Deno.test("statistics of packed rows are those of the rows alone", async () => {
  await withGolden("gqa_f16", async (model) => {
    const { packed, alone } = batchesOf(model.spec.vocab);
    const one = { batches: [packed], batch: 2, seq: SEQ, documentMask: true };
    const other = { batches: [alone], batch: CUT.length, seq: SEQ };
    const [stats, expected] = [await calibrate(model, one), await calibrate(model, other)];
    assert.equal(stats.tokens, expected.tokens);
    for (const [index, layer] of expected.layers.entries()) {
      for (const  of of["o", "down"] as const) {
        for (const part of ["mean", "squares"] as const) {
          const values = stats.layers[index]?.[of]?.[part] ?? new Float32Array();
          assertClose(`${of} ${part}`, values, layer[of]?.[part] ?? new Float32Array());
        }
      }
    }
    const [influence, wanted] = [await measureInfluence(model, one), await measureInfluence(model, other)];
    for (const [index, { attention, layer }] of wanted.entries()) {
      const found = influence[index];
      assertClose(
        "influence",
        Float32Array.of(found?.attention ?? NaN, found?.layer ?? NaN),
        Float32Array.of(attention, layer),
      );
    }
  });
});

Deno.test("ranks train on packed rows with the bits of one process", async () => {
  await withGolden("gqa_f16", async (model) => {
    const { packed } = batchesOf(model.spec.vocab), step = { state: { ...IDLE_STATE, loraRate: 0.01 } };
    const how = { batch: 1, accumulate: 2, documentMask: true } as const;
    const trained = async (trainer: Trainer): Promise<Float32Array | undefined> => {
      await trainer.step("lora", packed, step);
      return (await trainer.save()).lora;
    };
    using alone = await trainerOf(model, how);
    const start = (await alone.save()).lora, want = await trained(alone);
    assert.notDeepEqual(want, start);
    const [first, second] = together(2);
    using own = await trainerOf(model, { ...how, ranks: first });
    using other = await trainerOf(model, { ...how, ranks: second });
    for (const got of await Promise.all([own, other].map(trained))) assert.deepEqual(got, want);
  });
});

Deno.test("a run on packed rows is resumed with the same bits within the planned memory, and its mask changes them", async () => {
  await withShortDemo(async ({ model }) => {
    const how = {
      ...BASE,
      ...FEW,
      documentMask: true,
      method: "flap",
      steps: 1,
      prefinetune: 0,
      evalEvery: 2,
    } as const;
    const whole = await drive(model, how);
    assert.equal(bitsOf(await interrupted(model, how, 1)), bitsOf(whole));
    const { records: [first] } = await drive(model, { ...how, documentMask: false, postfinetune: 1, evalEvery: 0 });
    assert.notEqual(first?.loss, whole.records[0]?.loss);
    const { peakGpuBytes, plannedGpuBytes } = whole.result;
    assert.ok(peakGpuBytes <= plannedGpuBytes, `${peakGpuBytes} of ${plannedGpuBytes}`);
  });
});
