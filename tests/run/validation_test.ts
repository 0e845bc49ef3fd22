// The loss on held-out rows during a run: its curve, the best state that is kept, and the end when it falls no more.
import assert from "node:assert/strict";
import type { PruneResult, StepRecord } from "../../mod.ts";
import type { RunHooks } from "../../lib/run/hooks.ts";
import type { LoraWeights } from "../../lib/spec/lora.ts";
import { countLabels } from "../../lib/data/prompts/encode.ts";
import { heldOutOf } from "../../lib/run/data.ts";
import type { Model } from "../../lib/model/mod.ts";
import type { PruneOptions } from "../../lib/run/options/options.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { toRow } from "../../lib/data/row.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { refuses, rejects } from "../refuses.ts";
import { BASE, bitsOf, drive, interrupted, withShortDemo } from "./helpers/demo_run.ts";

const ROWS = BASE.rows.slice(0, 24), HELD_OUT = 5;
/** A run that only trains, at a rate at which the held-out loss soon rises. */
const TUNE = {
  ...{ rows: ROWS, sparsity: 0, steps: 9, prefinetune: 0, postfinetune: 0, batch: 2, seq: 80, val: HELD_OUT },
  rates: { lora: 0.05 },
} as const;

/** Mean cross-entropy of the labels of the held-out sequences, each read alone. */
async function heldOutLoss(
  model: Model,
  { heldout, heldoutLabels, lora: config }: PruneResult,
  weights: LoraWeights,
): Promise<number> {
  let sum = 0, count = 0;
  for (const [index, tokens] of heldout.entries()) {
    const labels = heldoutLabels[index] ?? [], how = { batch: 1, adapters: { lora: { ...config, weights } } };
    for (const loss of await model.tokenLosses(Uint32Array.from(tokens), Int32Array.from(labels), how)) sum += loss;
    count += countLabels(labels);
  }
  return sum / count;
}

const curveOf = (records: readonly StepRecord[]): (readonly [number, number])[] =>
  records.flatMap(({ step, heldout }) => heldout === undefined ? [] : [[step, heldout] as const]);

Deno.test("the loss on held-out rows is that of the model at the step, and the LoRA of the lowest one is the result", async () => {
  await withShortDemo(async ({ model }) => {
    const seen = new Map<number, LoraWeights>();
    const hooks: RunHooks = {
      // A LoRA that makes the last steps worse.
      beforeStep: async (run) => {
        if (run.step !== 5) return;
        run.setLora(new Map([...await run.lora()].map(([name, values]) => [name, values.map((value) => 20 * value)])));
      },
      afterStep: async ({ step }, run) => void seen.set(step, await run.lora()),
    };
    const monitors = { divergence: { action: "warn" } } as const;
    const { records, result } = await drive(model, { ...TUNE, steps: 6, evalEvery: 2, rates: {}, hooks, monitors });
    const curve = curveOf(records);
    assert.deepEqual(curve.map(([step]) => step), [2, 4, 6]);
    for (const [step, loss] of curve) {
      const expected = await heldOutLoss(model, result, seen.get(step) ?? new Map());
      // Both in f32, with other sizes of batches.
      assert.ok(Math.abs(loss - expected) < 1e-4 * expected, `step ${step}: ${loss}, ${expected}`);
    }
    const [best = [0, 0]] = curve.toSorted(([, a], [, b]) => a - b);
    assert.ok(best[0] < 6, `the loss falls to the end: ${curve.join("; ")}`);
    const { validation, peakGpuBytes, plannedGpuBytes } = result;
    assert.deepEqual(validation?.best, { step: best[0], loss: best[1] });
    assert.deepEqual([validation?.last.step, validation?.isEarly], [6, false]);
    assert.deepEqual(result.lora.weights, seen.get(best[0]));
    assert.notDeepEqual(result.lora.weights, seen.get(6));
    assert.ok(peakGpuBytes <= plannedGpuBytes, `${peakGpuBytes} of ${plannedGpuBytes}`);
  });
});

Deno.test("given held-out rows are measured in place of the last ones, all rows are trained on, and other ones cannot resume", async () => {
  await withShortDemo(async ({ model }) => {
    const { val: _val, ...how } = { ...TUNE, steps: 2, evalEvery: 1, rates: {} };
    const valRows = BASE.rows.slice(40, 44), { result, records } = await drive(model, { ...how, valRows });
    const expected = await heldOutLoss(model, result, result.lora.weights);
    assert.ok(Math.abs((result.validation?.best.loss ?? NaN) - expected) < 1e-4 * expected);
    // The same rows at the end of the data.
    const last = await drive(model, { ...how, rows: [...ROWS, ...valRows], val: valRows.length });
    assert.deepEqual(curveOf(records), curveOf(last.records));
    assert.deepEqual(records.map(({ loss }) => loss), last.records.map(({ loss }) => loss));
    assert.deepEqual(result.lora.weights, last.result.lora.weights);
    refuses(() => resolveOptions({ ...how, valRows, val: 3 }), "usage", { option: "valRows" });
    const long = [toRow({ instruction: "Tom. ".repeat(80), output: "x" })];
    await rejects(drive(model, { ...how, packing: false, valRows: long }), "input", { option: "valRows" });
    await inTemporaryFolder(async (folder) => {
      const checkpoint = { path: `${folder}/checkpoint.safetensors`, every: 1 };
      await drive(model, { ...how, valRows, checkpoint });
      const resumed = { ...how, valRows: BASE.rows.slice(41, 45), checkpoint: { ...checkpoint, resume: true } };
      await rejects(drive(model, resumed), "mismatch", { names: "valRows" });
    });
  });
});

Deno.test("a run ends when the loss has not fallen for as many measures as its patience, and is resumed with the same bits", async () => {
  await withShortDemo(async ({ model }) => {
    const options = { ...TUNE, evalEvery: 1, patience: 2 };
    const whole = await drive(model, options), { validation } = whole.result;
    assert.ok(validation?.isEarly && validation.best.step < 7, JSON.stringify(validation));
    assert.equal(whole.records.length, validation.best.step + 2);
    assert.equal(whole.steps, whole.records.length, "steps that are left out do not count");
    const parts = await interrupted(model, options, validation.best.step + 1);
    assert.equal(bitsOf(parts), bitsOf(whole));
    assert.deepEqual(parts.result.validation, validation);
  });
});

Deno.test("a run that cuts has a curve of all stages, and its best step in the last one", async () => {
  await withShortDemo(async ({ model }) => {
    const how = { rows: ROWS, steps: 3, prefinetune: 1, postfinetune: 2, evalEvery: 2, calibration: "none" } as const;
    const plain = await drive(model, { ...how, evalEvery: 0 }), { records, result } = await drive(model, how);
    // Also after the last step of a stage.
    assert.deepEqual(curveOf(records).map(([step]) => step), [1, 2, 4, 6]);
    assert.ok([6].includes(result.validation?.best.step ?? 0), JSON.stringify(result.validation));
    assert.deepEqual(records.map(({ loss }) => loss), plain.records.map(({ loss }) => loss), "measures change no step");
    assert.ok(
      result.peakGpuBytes <= result.plannedGpuBytes,
      `${result.peakGpuBytes} of ${result.plannedGpuBytes}; ${plain.result.peakGpuBytes} of ${plain.result.plannedGpuBytes}`,
    );
  });
});

Deno.test("as many rows are held out as asked, and options that measure nothing are refused", async () => {
  assert.deepEqual([5, 64, 4000].map((rows) => heldOutOf(rows)), [0, 6, 32]);
  assert.deepEqual([[64, 0.25], [64, 40], [3, 40], [9, 0.1]].map(([rows = 0, val]) => heldOutOf(rows, val)), [
    16,
    40,
    2,
    0,
  ]);
  refuses(() => resolveOptions({ ...TUNE, patience: 2 } as PruneOptions), "usage", { option: "patience" });
  refuses(() => resolveOptions({ ...TUNE, val: 0 } as PruneOptions), "usage", { option: "val" });
  await withShortDemo(async ({ model }) => {
    await assert.rejects(drive(model, { ...TUNE, rows: ROWS.slice(0, 9), val: 0.1 }), { code: "input" });
    await assert.rejects(drive(model, { ...TUNE, rows: ROWS.slice(0, 9), val: undefined, evalEvery: 1 }), {
      code: "input",
    });
  });
});
