// Runs that are stopped where something else goes wrong too: by a hook that throws, a GPU without memory, in the midst of going back. On the demo model.
import assert from "node:assert/strict";
import { CompressoError, prune, type StepRecord } from "../../mod.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import type { Alarm, RunHooks } from "../../lib/run/mod.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { readRows } from "../../lib/local/rows.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { biasName } from "../../lib/spec/decoder.ts";
import { openSafetensors } from "../disk.ts";
import { allAlarms, ShownAlarms } from "../../lib/run/monitors/shown_alarms.ts";
import { loadModel } from "../../lib/local/load_model.ts";
import { RecordFile } from "../../lib/run/record_file.ts";
import { madeRecord } from "../report/made_run.ts";
import { rejects } from "../refuses.ts";
import { BASE, bitsOf, drive, FEW, withShortDemo } from "./helpers/demo_run.ts";

interface KeptPosition {
  readonly step: number;
  readonly halvings: number;
}

/** Positions in a checkpoint: that which is gone on from, and those that are kept to go back to. */
async function positionsIn(path: string): Promise<{ readonly position: KeptPosition; readonly kept: KeptPosition[] }> {
  const { metadata } = await openSafetensors(path);
  return JSON.parse(metadata.get("compresso") ?? "null");
}

async function inFile(work: (path: string) => Promise<void>): Promise<void> {
  const path = await Deno.makeTempFile();
  await Deno.remove(path);
  try {
    await work(path);
  } finally {
    await Deno.remove(path).catch(() => undefined);
  }
}

/** Hooks that make the loss run away once, before the 9th step. */
function breaking(): RunHooks {
  let hasBroken = false;
  return {
    async beforeStep(run): Promise<void> {
      if (run.step !== 8 || hasBroken) return;
      hasBroken = true;
      const weights = await run.lora();
      for (const [name, values] of weights) if (name.endsWith(".B")) values.fill(1);
      run.setLora(weights);
    },
  };
}

Deno.test("a state that is to be kept is kept though the hook of its step throws", async () => {
  await withShortDemo(async ({ model }) => {
    const options = { prefinetune: 1, steps: 12, postfinetune: 1 } as const;
    const keptOf = async (fails: boolean): Promise<readonly number[]> => {
      let steps: readonly number[] = [];
      await inFile(async (path) => {
        const controller = new AbortController(), { signal } = controller;
        const afterStep = ({ step }: StepRecord): void => {
          if (step !== 8 || !fails) return;
          controller.abort(new Error("enough"));
          signal.throwIfAborted();
        };
        const afterAll: RunHooks["beforeStep"] = ({ step }) => {
          if (step === 8 && !fails) controller.abort(new Error("enough"));
        };
        const checkpoint = { path, every: 1000 }, hooks = { afterStep, beforeStep: afterAll };
        await assert.rejects(drive(model, { ...options, checkpoint, signal, hooks }), /enough/);
        steps = (await positionsIn(path)).kept.map(({ step }) => step);
      });
      return steps;
    };
    const whole = await keptOf(false);
    assert.equal(whole.at(-1), 8);
    assert.deepEqual(await keptOf(true), whole);
  });
});

Deno.test("a run that is stopped while the GPU has no memory left saves its last good state, and says what failed", async () => {
  const { rows } = await readRows(demoData("train"), { limit: 32 });
  using free = await openDevice();
  using one = await loadModel("demo", { device: free });
  using first = prune(one, { ...BASE, rows });
  for await (const _ of first) break;
  const memoryLimit = 2 * free.peakBytes;
  using device = await openDevice({ memoryLimit });
  using model = await loadModel("demo", { device });
  await inFile(async (path) => {
    const controller = new AbortController(), { signal } = controller, guests: Disposable[] = [];
    const beforeStep: RunHooks["beforeStep"] = ({ step }) => {
      if (step !== 3) return;
      guests.push(device.createBuffer("guest", Math.floor((memoryLimit - device.bytes) / 4) * 4));
      controller.abort(new Error("enough"));
    };
    const checkpoint = { path, every: 1000 };
    using run = prune(model, { ...BASE, rows, checkpoint, signal, hooks: { beforeStep } });
    await assert.rejects(
      async () => {
        for await (const _ of run) { /* to its end */ }
      },
      (error) => error instanceof CompressoError && error.code === "gpu" && /memory/.test(error.message),
    );
    for (const guest of guests) guest[Symbol.dispose]();
    assert.ok((await positionsIn(path)).position.step <= 3);
  });
});

Deno.test("LoRA that runs away in the last step of a stage leaves the state before it, from which lower rates give a run that never ran away", async () => {
  await withShortDemo(async ({ model }) => {
    await inFile(async (path) => {
      const of = (lora: number) => ({ ...FEW, prefinetune: 1, steps: 2, postfinetune: 0, rates: { lora } }) as const;
      const checkpoint = { path, every: 1 };
      await rejects(drive(model, { ...of(1e38), checkpoint }), "numeric", { value: "NaN" });
      const { position, kept } = await positionsIn(path);
      assert.deepEqual([position.step, kept.map(({ step }) => step)], [0, [0]]);
      const sane = of(1e-4), goOn = { ...checkpoint, resume: true, mayDiffer: ["rates"] };
      const resumed = await drive(model, { ...sane, checkpoint: goOn });
      assert.deepEqual(resumed.result.changes.map(({ step }) => step), [0]);
      assert.equal(bitsOf(resumed), bitsOf(await drive(model, sane)));
    });
  });
});

Deno.test("LoRA that runs away in the last step of a run is found as the model is sliced, and leaves the state before it too", async () => {
  await withShortDemo(async ({ model }) => {
    await inFile(async (path) => {
      const of = (lora: number) =>
        ({ ...BASE, method: "magnitude", prefinetune: 0, steps: 0, postfinetune: 1, rates: { lora } }) as const;
      const checkpoint = { path, every: 1 };
      using run = prune(model, { ...of(1e38), checkpoint });
      for await (const _ of run) { /* to its end */ }
      assert.equal((await positionsIn(path)).position.step, 1);
      await rejects(run.slice(), "numeric", { value: "NaN" });
      assert.equal((await positionsIn(path)).position.step, 0);
      const goOn = { ...checkpoint, resume: true, mayDiffer: ["rates"] };
      using resumed = prune(model, { ...of(1e-4), checkpoint: goOn });
      for await (const _ of resumed) { /* to its end */ }
      assert.ok((await resumed.slice()).maskedVsSliced.maxAbs < 1e-3);
    });
  });
});

Deno.test("a run that is stopped while it goes back has gone back: its next state to go back to has the halved rates", async () => {
  await withShortDemo(async ({ model }) => {
    await inFile(async (path) => {
      const controller = new AbortController(), { signal } = controller;
      const options: Partial<RunOptions> = {
        ...FEW,
        ...{ method: "flap", prefinetune: 0, steps: 16, postfinetune: 0 },
        monitors: { divergence: { threshold: 0.1 } },
      };
      let scorings = 0;
      const onScoring = (share: number): void => {
        // The second time it scores for the state that it goes back to.
        if (scorings === 1 && share > 0.3) controller.abort(new Error("enough"));
        if (share === 1) scorings++;
      };
      const checkpoint = { path, every: 1000 };
      await assert.rejects(
        drive(model, { ...options, onScoring, checkpoint, signal, hooks: breaking() }),
        /enough/,
      );
      const { position, kept } = await positionsIn(path);
      assert.deepEqual([position.halvings, kept.at(-1)?.halvings], [1, 1]);
    });
  });
});

Deno.test("flap's compensation is there in the end though to score anew failed as the run went back", async () => {
  await withShortDemo(async ({ model }) => {
    const end = async (fails: boolean): Promise<Float32Array[]> => {
      let scorings = 0, failures = 0;
      const onScoring = (share: number): void => {
        if (share === 1) scorings++;
        if (!fails || scorings !== 2 || failures++ > 0) return;
        throw new Error("no room");
      };
      using run = prune(model, {
        ...BASE,
        ...FEW,
        ...{ method: "flap", prefinetune: 0, steps: 12, postfinetune: 0, onScoring, hooks: breaking() },
        monitors: { divergence: { threshold: 0.1 } },
      });
      const loop = async (): Promise<void> => {
        for await (const _ of run) { /* to its end */ }
      };
      if (fails) await assert.rejects(loop(), /no room/);
      await loop();
      assert.deepEqual([scorings, failures > 0], [2, fails]);
      const { source } = run.result();
      return await Promise.all(source.spec.layers.map((_, layer) => source.read(biasName(layer, "down"))));
    };
    const biases = await end(true);
    assert.ok(biases.every((values) => values.some((value) => value !== 0)));
    assert.deepEqual(biases, await end(false));
  });
});

Deno.test("records that the disk refuses are refused by their path", {
  ignore: Deno.build.os !== "linux",
}, async () => {
  using file = await RecordFile.open("/dev/full", { last: 0 });
  await assert.rejects(file.add(madeRecord(1)), { code: "input", message: /cannot write \/dev\/full.*free space/ });
});

Deno.test("an alarm is told once, also by a resumed run that goes back to where it was told before", () => {
  const alarm = (message: string): Alarm => ({
    ...{ monitor: "divergence", step: 9, action: "rollback", restored: 4 },
    ...{ message, change: "lower the rate", options: [] },
  });
  const first = alarm("first"), again: Alarm = JSON.parse(JSON.stringify(first)), told = new ShownAlarms();
  told.know([madeRecord(5, { alarms: [first] }), madeRecord(8, { alarms: [alarm("taken back")] })], 6);
  assert.deepEqual(told.fresh([again, alarm("taken back"), alarm("new")]).map(({ message }) => message), [
    "taken back",
    "new",
  ]);
  const now = alarm("now");
  assert.deepEqual([told.fresh([now]).length, told.fresh([now]).length], [1, 0]);
  assert.deepEqual(told.fresh([{ ...now }]), [], "as a checkpoint gives it back");
  // It goes back again, for the same in the same words: the next record says both.
  assert.deepEqual([told.fresh([now, { ...now }]).length, told.fresh([now, now]).length], [1, 0]);
  assert.deepEqual(allAlarms([[first, first], [now, first, first, first]]), [first, first, now, first]);
});
