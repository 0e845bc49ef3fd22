// Memory that runs out in real runs of the demo: told near the limit, and what a run that it ends says of how to go on.
import assert from "node:assert/strict";
import { type CompressoError, loadModel, openDevice } from "../../mod.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { planMemory, type RunHandle } from "../../lib/run/mod.ts";
import { adapterOf } from "../../lib/run/memory/plan.ts";
import { drive, withDemo } from "./helpers/demo_run.ts";
import { BASE, failure, namesOf } from "./helpers/failures.ts";

Deno.test("memory that runs out is told near the limit, and a run that it ends says what would fit", async () => {
  const { batch, seq } = BASE;
  using probe = await openDevice();
  const adapter = adapterOf(probe);
  using plain = await loadModel("demo", { device: probe });
  const { peakBytes } = await planMemory(plain.spec, { batch, seq, adapter });
  const memoryLimit = 3 * peakBytes;
  using device = await openDevice({ memoryLimit });
  using model = await loadModel("demo", { device });
  const guests: Disposable[] = [device.createBuffer("there before", peakBytes)];
  const lend = (run: RunHandle): void => {
    const room = memoryLimit - device.bytes;
    if (run.step === 2) guests.push(device.createBuffer("guest", room - 0.03 * memoryLimit));
    if (run.step === 4) guests.push(device.createBuffer("guest", room - 64));
  };
  const { error, records } = await failure(model, { hooks: { beforeStep: lend, afterStep: () => {} } });
  assert.deepEqual(namesOf(records.flatMap(({ alarms }) => alarms)), ["memory 3"]);
  assert.match(records[2]?.alarms[0]?.message ?? "", /MiB are in use, .*MiB were planned; the limit is/);
  assert.deepEqual([error.code, records.length], ["gpu", 4]);
  const fix =
    /'memory'.*the limit does not allow.*fix: free what else lies on the device \(([\d.]+) MiB\), or raise memoryLimit, or use [a-z]/;
  const others = Number(fix.exec(error.message)?.[1]) * 2 ** 20 / peakBytes;
  assert.ok(
    others > 1.9 && others < 2.5,
    `${others} of the run's own: all that is not the run's, in the end two thirds and more`,
  );
  for (const guest of guests) guest[Symbol.dispose]();
});

const NO_MORE = "the adapter has no more", LOST = "the device is lost";

/**
 * A run that loses its memory before step 6, and goes on elsewhere after step 4, the last state that was kept, with other options where `resumed` has
 * some. Returns the error that ended it.
 */
async function endedBy(
  how: typeof NO_MORE | typeof LOST,
  { options = {}, resumed = {}, at = 5 }: Readonly<Partial<Record<"options" | "resumed", Partial<RunOptions>>>> & {
    readonly at?: number;
  },
): Promise<CompressoError> {
  const path = await Deno.makeTempFile({ suffix: ".safetensors" });
  await Deno.remove(path);
  const checkpoint = { path, every: 1000 };
  using device = await openDevice();
  using model = await loadModel("demo", { device });
  const beforeStep = ({ step }: RunHandle): void => {
    if (step !== at) return;
    if (how === LOST) return device.gpu.destroy();
    const error = new GPUOutOfMemoryError("no memory left");
    device.gpu.dispatchEvent(new GPUUncapturedErrorEvent("uncapturederror", { error }));
  };
  const hooks = { beforeStep, afterStep: () => {} };
  const { error, records } = await failure(model, { ...options, checkpoint, hooks });
  assert.deepEqual([error.code, records.length], ["gpu", at]);
  await withDemo(async ({ model: healthy }) => {
    const again = { ...BASE, ...options, ...resumed, checkpoint: { ...checkpoint, resume: true } };
    assert.deepEqual((await drive(healthy, again)).records.map(({ step }) => step), at === 5 ? [5, 6, 7, 8] : [3]);
  });
  await Deno.remove(path);
  return error;
}

for (
  const [how, monitors, rule] of [
    [NO_MORE, {}, "'memory'"],
    [NO_MORE, { memory: { action: "off" } }, "a run fits the memory"],
    [LOST, {}, "'memory'"],
  ] as const
) {
  const watch = "memory" in monitors ? ", watched or not," : "";
  Deno.test(`a run that ends because ${how}${watch} saves its last good state without the device, and says what needs less`, async () => {
    const { message } = await endedBy(how, { options: { monitors } });
    const fix = 'fix: continue \\(resume\\) .*\\(export.replace\\) and use baseDtype: "q4"';
    assert.match(message, new RegExp(`${rule}.*${how}.*${fix}`));
  });
}

Deno.test("layers that are computed anew need less and change no bit: a run that was saved goes on so", async () => {
  // Long sequences, of which the activations are what takes memory.
  const options = { recompute: false, batch: 8, seq: 512, packing: true, prefinetune: 2, steps: 1 } as const;
  const { message } = await endedBy(NO_MORE, { options, resumed: { recompute: true }, at: 2 });
  assert.match(
    message,
    /fix: use recompute: true \([\d.]+ MiB\), and continue \(resume\); or start over/,
  );
});
