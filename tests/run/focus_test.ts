// Steps that learn from the labels that pruning hurt most: which those are, that nothing else of a step changes, and what is refused.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { shiftLabels } from "../../lib/nn/pass.ts";
import { PROJECTIONS } from "../../lib/spec/decoder.ts";
import { IDLE_STATE, type StepState } from "../../lib/nn/train/step_state.ts";
import { unitTable } from "../../lib/units/table.ts";
import { normal, uniform } from "../../lib/core/random.ts";
import type { Batch } from "../../lib/data/batches.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { hurtTargets } from "../../lib/run/focus.ts";
import { loadModel } from "../../lib/local/load_model.ts";
import { type Model } from "../../lib/model/model.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { Trainer } from "../../lib/run/trainer.ts";
import { refuses } from "../refuses.ts";
import { openGolden } from "../golden/helpers/golden.ts";
import { drive, withShortDemo } from "./helpers/demo_run.ts";

const BATCH = 2, SEQ = 24;
const STATE: StepState = {
  ...{ ...IDLE_STATE, seed: 11, step: 0, target: 0.2, loraRate: 1e-2, loraUpdates: 1, maskUpdates: 1, clipNorm: 1 },
  weightDecay: 0.01,
};

Deno.test("the targets that stay are those whose loss lies furthest above that of the dense model", () => {
  const targets = Int32Array.of(5, -1, 7, 8, -1, 9);
  const dense = Float32Array.of(1, 0, 2, 3, 0, 4);
  const own = Float32Array.of(1.5, 0, 5, 2, 0, 4.5); // above by 0.5, –, 3, −1, –, 0.5
  const chosen = (share: number): number[] => [...hurtTargets(targets, { own, dense }, share)];
  assert.deepEqual(chosen(0.25), [-1, -1, 7, -1, -1, -1]);
  assert.deepEqual(chosen(0.3), [5, -1, 7, -1, -1, -1], "rounded up; the first of equals");
  assert.deepEqual(chosen(0.75), [5, -1, 7, -1, -1, 9]);
  assert.deepEqual(chosen(1), [...targets]);
  const broken = Float32Array.of(NaN, 0, 5, 2, 0, Infinity);
  // 0.07 · 100 is a little above 7 in floating point.
  const many = Int32Array.from({ length: 100 }, (_, at) => at), flat = new Float32Array(100);
  assert.equal(hurtTargets(many, { own: flat, dense: flat }, 0.07).filter((target) => target >= 0).length, 7);
  assert.deepEqual([...hurtTargets(targets, { own: broken, dense }, 0.5)], [-1, -1, 7, -1, -1, 9], "NaN comes last");
  assert.deepEqual([...hurtTargets(Int32Array.of(-1, -1), { own, dense }, 0.5)], [-1, -1]);
});

Deno.test("a step with a focus has the loss of all labels and, of nearly all, the update of a whole one; of fewer it is that of their batch", async () => {
  using device = await openDevice();
  using model = await golden(device);
  const batch = randomBatch(model.spec.vocab);
  for (const [recompute, dropout] of [[true, 0], [false, 0], [true, 0.2]] as const) {
    const run = async (data: Batch, focus: number): Promise<{ lora: Float32Array; loss: number }> => {
      using trainer = prunedTrainer(model, { recompute, dropout });
      await trainer.step("lora", data, { state: { ...STATE, dropout }, focus });
      const [numbers] = await trainer.numbers(0, 1), { lora } = await trainer.save();
      return { lora, loss: numbers?.loss ?? NaN };
    };
    const whole = await run(batch, 1), nearly = await run(batch, 1 - 1e-9);
    assert.deepEqual(nearly, whole, `recompute ${recompute}, dropout ${dropout}`);
    const part = await run(batch, 0.3);
    assert.equal(part.loss, whole.loss);
    assert.notDeepEqual(part.lora, whole.lora);
    if (!recompute || dropout > 0) continue;
    // The same targets as a batch of their own.
    using trainer = prunedTrainer(model, { recompute, dropout });
    const { own, dense } = await lossesOf(trainer, model, batch);
    const targets = hurtTargets(shiftLabels(batch.labels, { seq: SEQ }), { own, dense }, 0.3);
    const labels = new Int32Array(batch.labels.length).fill(-100);
    targets.forEach((target, row) => target >= 0 && (labels[row + 1] = target));
    const few = { ...batch, labels, labelTokens: targets.filter((target) => target >= 0).length };
    assert.deepEqual((await run(few, 1)).lora, part.lora);
  }
});

Deno.test("a run's last stage has a focus, and the others none", async () => {
  await withShortDemo(async ({ model }) => {
    const run = async (focus?: number): Promise<readonly number[]> => {
      const given = { steps: 2, prefinetune: 2, postfinetune: 3, ...(focus === undefined ? {} : { focus }) };
      const { records, result } = await drive(model, given);
      assert.ok(result.peakGpuBytes <= result.plannedGpuBytes, `${result.peakGpuBytes}`);
      return records.map(({ loss }) => loss);
    };
    const plain = await run(1), some = await run(0.3);
    assert.deepEqual(some.slice(0, 5), plain.slice(0, 5), "up to the first step of the last stage");
    assert.ok(some.slice(5).every((loss, step) => loss !== plain[5 + step]));
    assert.deepEqual(await run(), some, "the default");
  });
});

Deno.test("the default is for learned masks that are not as published; no share at all and flap are refused", () => {
  const resolve = (options: Partial<RunOptions>): number =>
    resolveOptions({ rows: [], sparsity: 0.2, steps: 10, ...options }, { maxPosition: 512 }).focus;
  assert.equal(resolve({}), 0.3);
  for (const method of ["gradual", "taylor", "flap"] as const) assert.equal(resolve({ method }), 1);
  assert.equal(resolve({ preset: "paper" }), 1);
  assert.equal(resolve({ method: "taylor", focus: 0.5 }), 0.5);
  assert.equal(resolve({ postfinetune: 0 }), 1, "no last stage");
  for (const focus of [0, -1, 1.5, NaN]) refuses(() => resolve({ focus }), "usage", { option: "focus", names: [0, 1] });
  refuses(() => resolve({ postfinetune: 0, focus: 0.5 }), "usage");
  refuses(() => resolve({ method: "taylor", steps: 0, prefinetune: 0, postfinetune: 0, focus: 0.5 }), "usage");
  refuses(() => resolve({ method: "flap", focus: 0.5 }), "usage");
});

async function golden(device: Device): Promise<Model> {
  const { modelPath } = await openGolden("gqa_f16");
  return await loadModel(modelPath, { device, baseDtype: "f32" });
}

/** A trainer with hard masks and LoRA that changes what the model says. */
function prunedTrainer(
  model: Model,
  { recompute, dropout }: { readonly recompute: boolean; readonly dropout: number },
): Trainer {
  const lora = { rank: 3, alpha: 6, targets: PROJECTIONS, dropout }, { spec } = model;
  const table = unitTable(spec, ["kv", "ffn"]);
  const trainer = new Trainer(model, { batch: BATCH, seq: SEQ, seed: 5, lora, table, recompute });
  const arrays = Float32Array.from({ length: trainer.pass.lora?.count ?? 0 }, (_, index) => 0.1 * normal(3, 1, index));
  const widths = spec.layers.reduce((sum, { ffn }) => sum + ffn, 0);
  trainer.setMasks({ ffn: Float32Array.from({ length: widths }, (_, column) => uniform(4, column) < 0.3 ? 0 : 1) });
  model.device.write(trainer.pass.lora?.params ?? missing(), arrays);
  return trainer;
}

function missing(): never {
  throw new Error("the trainer has LoRA");
}

/** Losses by row with masks and LoRA, and without: from steps of one label each, whose loss is its own. */
async function lossesOf(
  trainer: Trainer,
  model: Model,
  batch: Batch,
): Promise<{ readonly own: Float32Array; readonly dense: Float32Array }> {
  const saved = await trainer.save(), state = { ...STATE, loraRate: 0 };
  const targets = shiftLabels(batch.labels, { seq: SEQ });
  const losses = async (): Promise<Float32Array> => {
    const values = new Float32Array(targets.length);
    for (const [row, target] of targets.entries()) {
      if (target < 0) continue;
      const labels = new Int32Array(targets.length).fill(-100);
      labels[row + 1] = target;
      await trainer.step("lora", { ...batch, labels, labelTokens: 1 }, { state });
      values[row] = (await trainer.numbers(0, 1))[0]?.loss ?? NaN;
    }
    return values;
  };
  const own = await losses();
  trainer.restore({ ...saved, lora: new Float32Array(saved.lora.length) });
  trainer.setMasks({ ffn: new Float32Array(model.spec.layers.reduce((sum, { ffn }) => sum + ffn, 0)).fill(1) });
  const dense = await losses();
  trainer.restore(saved);
  return { own, dense };
}

function randomBatch(vocab: number): Batch {
  const tokens = Uint32Array.from({ length: BATCH * SEQ }, (_, i) => Math.floor(vocab * uniform(1, i)));
  const labels = Int32Array.from(tokens, (token, i) => i % SEQ < 4 ? -100 : token);
  const labelTokens = shiftLabels(labels, { seq: SEQ }).filter((target) => target >= 0).length;
  return { tokens, labels, realTokens: tokens.length, labelTokens };
}
