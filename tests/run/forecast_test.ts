// The time of a run that is predicted before its first step.
import assert from "node:assert/strict";
import { type DeviceSpeed, forecast as forecastOf, forecastRun, measureSpeed } from "../../lib/run/forecast.ts";
import { type PartSeconds, RUN_PARTS } from "../../lib/run/parts_of_time.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import type { PruneOptions } from "../../lib/run/options/options.ts";
import { CHECKS } from "../../lib/slice/verify.ts";
import { sharedDevice } from "../device.ts";
import { TemporaryFolder } from "../cli/helpers/cli.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { loadModel } from "../../lib/local/load_model.ts";
import { readRows } from "../../lib/local/rows.ts";
import { pruneToFolder } from "../../lib/run/prune_to_folder.ts";
import { decoder } from "../units/helpers/decoders.ts";

const SPEED: DeviceSpeed = { load: 4, forward: 0.5 };
const PARTS = { formats: 2, writesTexts: true, hasText: false };

function forecast(
  options: Partial<PruneOptions> = {},
  parts: Partial<typeof PARTS & { ranks: number }> = {},
): PartSeconds {
  const resolved = resolveOptions({ rows: [], sparsity: 0.2, steps: 100, ...options } as PruneOptions);
  return forecastRun(SPEED, resolved, { ...PARTS, ...parts });
}

Deno.test("a forecast follows the options: steps, ranks, the check, texts and files", () => {
  const usual = forecast();
  assert.deepEqual(Object.keys(usual), RUN_PARTS);
  assert.ok(forecast({ steps: 200 }).steps > 1.8 * usual.steps);
  const wide = forecast({ accumulate: 4 });
  assert.ok(wide.steps > 3 * usual.steps && forecast({ accumulate: 4 }, { ranks: 4 }).steps === usual.steps);
  const [quick = 0, full = 0] = CHECKS.map((check) => forecast({ check }).check);
  // Both read all weights twice; the tokens of the full one are 8 sequences.
  assert.ok(
    quick >= 2 * SPEED.load && quick < 2 * SPEED.load + SPEED.forward && full > quick + SPEED.forward,
    `${full}`,
  );
  assert.equal(usual.check, quick, "the default is quick");
  assert.ok(usual.preparing > 0 && forecast({}, { writesTexts: false }).preparing === 0);
  assert.equal(forecast({}, { formats: 1 }).writing, usual.writing / 2);
  assert.ok(forecast({}, { hasText: true }).quality > 2 * usual.quality);
  // Scoring on rows costs passes; a score of the weights alone does not.
  assert.equal(forecast({ method: "magnitude" }).steps, forecast({ method: "random" }).steps);
  assert.ok(forecast({ method: "taylor" }).steps > forecast({ method: "magnitude" }).steps);
  assert.ok(forecast({ focus: 1 }).steps < usual.steps, "the last stage has no further pass");
});

Deno.test("the speed of a device is measured on two layers, counts all of them, and leaves nothing on the GPU", async () => {
  const device = await sharedDevice(), how = { batch: 2, seq: 64 };
  const spec = (layers: number): ReturnType<typeof decoder> =>
    decoder(Array.from({ length: layers }, () => ({ heads: 8, kvHeads: 4, ffn: 1024 })), { hidden: 256, headDim: 32 });
  await measureSpeed(device, spec(4), how); // compiles
  const few: DeviceSpeed[] = [], many: DeviceSpeed[] = [];
  // The least of several is close to the true time, whatever else the machine does.
  const least = (found: readonly DeviceSpeed[]): number => Math.min(...found.map(({ forward }) => forward));
  for (let repeat = 0; repeat < 3; repeat++) {
    few.push(await measureSpeed(device, spec(4), how));
    many.push(await measureSpeed(device, spec(400), how));
  }
  assert.ok(few.every(({ load, forward }) => load > 0 && forward > 0), JSON.stringify(few));
  // A pair of passes whose difference was lost in noise counts one layer only.
  const most = Math.max(...many.map(({ forward }) => forward));
  assert.ok(most > 5 * least(few), `${most} s of 400 layers, ${least(few)} s of 4`);
  assert.equal(device.liveCount, 0);
});

Deno.test("a program gets a forecast of a run from its options; a run without training has no forecast", async () => {
  using folder = new TemporaryFolder();
  using model = await loadModel("demo", { device: await sharedDevice() });
  const { rows } = await readRows(demoData("train"), { limit: 40 });
  const options = { rows, sparsity: 0.2, steps: 1, batch: 1, seq: 48, prompt: null, calibration: "none" } as const;
  const into = { ...options, out: folder.at("run"), onRecord: () => {}, method: "magnitude" } as const;
  const predicted = await forecastOf(model, into), more = await forecastOf(model, { ...options, steps: 400 });
  assert.ok(predicted && more);
  assert.deepEqual(Object.keys(predicted), RUN_PARTS);
  assert.ok(predicted.steps > 0 && predicted.preparing === 0 && more.steps > 20 * predicted.steps);
  const { parts } = await pruneToFolder(model, { ...into, export: { formats: ["hf"], forecast: predicted } });
  assert.deepEqual(parts?.predicted, predicted);
  assert.equal(await forecastOf(model, { rows, units: ["vocab"], steps: 0, vocab: { size: 700 } }), null);
});
