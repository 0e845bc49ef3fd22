// Runs that end in their midst by an error or an abort, and are taken up again, in the same program or from a checkpoint. On the demo model.
import assert from "node:assert/strict";
import { prune, type StepRecord } from "../../mod.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import type { WeightSource } from "../../lib/model/mod.ts";
import type { RunHooks } from "../../lib/run/mod.ts";
import { defineSchedule } from "../../lib/schedule/mod.ts";
import { biasName } from "../../lib/spec/decoder.ts";
import { refuses, rejects } from "../refuses.ts";
import { BASE, bitsOf, drive, FEW, ROUNDING, withShortDemo } from "./helpers/demo_run.ts";
import { Lair } from "./helpers/scripts.ts";

const FLAP = { method: "flap", ...FEW } as const;

const CASES: Readonly<Record<string, Partial<RunOptions> & { readonly sparsity?: number }>> = {
  "learned masks at the schedule's own β": {
    schedule: defineSchedule({ rates: { temperature: ({ progress }) => 2 - 1.5 * progress } }),
    keptMasks: "median",
  },
  "learned masks whose stage a schedule ended": { schedule: defineSchedule({ end: ({ step }) => step === 2 }) },
  gradual: { method: "gradual" },
  taylor: { method: "taylor" },
  flap: FLAP,
};

for (const [name, options] of Object.entries(CASES)) {
  Deno.test(`a run that is stopped in the hook after pruning makes its masks hard once: ${name}`, async () => {
    await withShortDemo(async ({ model }) => {
      const short = { ...options, sparsity: 0.3, steps: 4, postfinetune: 1 }, whole = await drive(model, short);
      const path = await Deno.makeTempFile(), controller = new AbortController(), { signal } = controller;
      await Deno.remove(path);
      const seen: StepRecord[] = [], checkpoint = { path, every: 1000 };
      const afterStage = (stage: string): void => {
        if (stage !== "prune") return;
        controller.abort(new Error("enough"));
        signal.throwIfAborted();
      };
      await assert.rejects(async () => {
        using run = prune(model, { ...BASE, ...short, signal, checkpoint, hooks: { afterStage } });
        for await (const record of run) seen.push(record);
      }, /enough/);
      // Another schedule finds the stage at its end, too.
      const other = options.schedule ? { schedule: defineSchedule({ sparsity: 0.3 }) } : {};
      const resumed = { ...checkpoint, resume: true, mayDiffer: ["schedule"] };
      const rest = await drive(model, { ...short, ...other, checkpoint: resumed });
      assert.equal(bitsOf({ ...rest, records: [...seen, ...rest.records] }), bitsOf(whole));
      await Deno.remove(path);
    });
  });
}

Deno.test("a schedule without targets of layers that takes a stage up in its midst is not held to those of the one before", async () => {
  await withShortDemo(async ({ model }) => {
    const path = await Deno.makeTempFile(), controller = new AbortController(), { signal } = controller;
    await Deno.remove(path);
    const layered = defineSchedule({ sparsity: 0.1, layers: ({ layers }) => layers.map(() => 0.1) });
    await assert.rejects(async () => {
      using run = prune(model, { ...BASE, schedule: layered, checkpoint: { path, every: 1000 }, signal });
      for await (const { stage, step } of run) {
        if (stage === "prune" && step === 4) controller.abort(new Error("enough"));
      }
    }, /enough/);
    const checkpoint = { path, every: 1000, resume: true, mayDiffer: ["schedule"] };
    const { result } = await drive(model, { schedule: defineSchedule({ sparsity: 0.3 }), checkpoint });
    assert.ok(result.sparsity.hard >= 0.3 - ROUNDING && result.sparsity.hard < 0.303, `${result.sparsity.hard}`);
    await Deno.remove(path);
  });
});

const HALF = `import { defineSchedule } from "compresso";
export default defineSchedule({ sparsity: ({ progress, sparsity }) => sparsity * progress });`;

/** A hook that throws at its first call of a step. */
function failingOnce(at: number): RunHooks {
  let hasFailed = false;
  return {
    beforeStep: ({ step }) => {
      if (step !== at || hasFailed) return;
      hasFailed = true;
      throw new Error("hiccup");
    },
  };
}

Deno.test("a run that an error of a hook has ended is taken up again by the next loop, with a script as its schedule too", async () => {
  await withShortDemo(async ({ model }) => {
    await using lair = new Lair();
    const schedule = await lair.write(HALF), options = { schedule, steps: 4, postfinetune: 1 };
    const whole = await drive(model, options);
    using run = prune(model, { ...BASE, ...options, hooks: failingOnce(3) });
    const records: StepRecord[] = [];
    const loop = async (): Promise<void> => {
      for await (const record of run) records.push(record);
    };
    await assert.rejects(loop(), /hiccup/);
    assert.equal(records.length, 3);
    await loop();
    assert.equal(bitsOf({ records, result: run.result() }), bitsOf(whole));
  });
});

Deno.test("a record whose hook throws is told once, and the next loop or a checkpoint goes on behind it", async () => {
  await withShortDemo(async ({ model }) => {
    const options = { steps: 4, postfinetune: 1 } as const, whole = await drive(model, options);
    for (const how of ["loop", "checkpoint"] as const) {
      const path = await Deno.makeTempFile(), controller = new AbortController(), { signal } = controller;
      await Deno.remove(path);
      let hasFailed = false;
      const afterStep = ({ step }: StepRecord): void => {
        if (step !== 3 || hasFailed) return;
        hasFailed = true;
        controller.abort(new Error("hiccup"));
        throw new Error("hiccup");
      };
      const checkpoint = { path, every: 1000 }, records: StepRecord[] = [];
      const given = how === "loop" ? options : { ...options, checkpoint };
      using run = prune(model, { ...BASE, ...given, hooks: { afterStep }, ...(how === "loop" ? {} : { signal }) });
      const loop = async (): Promise<void> => {
        for await (const record of run) records.push(record);
      };
      await assert.rejects(loop(), /hiccup/);
      assert.deepEqual(records.map(({ step }) => step), [1, 2, 3]);
      if (how === "loop") {
        await loop();
        assert.equal(bitsOf({ records, result: run.result() }), bitsOf(whole));
      } else {
        run[Symbol.dispose]();
        const rest = await drive(model, { ...options, checkpoint: { ...checkpoint, resume: true } });
        assert.equal(bitsOf({ ...rest, records: [...records, ...rest.records] }), bitsOf(whole));
        await Deno.remove(path);
      }
    }
  });
});

/** Without the alarms of a short model that these tests are not about. */
const CALM = { monitors: { divergence: { action: "off" }, oscillation: { action: "off" } } } as const;
/** Steps of the run below before the one that is stopped, of which the last one is broken. */
const LAST = 7;

for (const method of ["compresso", "flap"] as const) {
  Deno.test(`a run of ${method} that is stopped while numbers that are not finite wait to be read can be resumed`, async () => {
    await withShortDemo(async ({ model }) => {
      const path = await Deno.makeTempFile(), controller = new AbortController(), { signal } = controller;
      await Deno.remove(path);
      const options = { ...(method === "flap" ? FLAP : { method }), steps: 40, postfinetune: 1, ...CALM },
        checkpoint = { path, every: 1000 };
      const beforeStep: RunHooks["beforeStep"] = async (run) => {
        if (run.step === LAST) controller.abort(new Error("enough"));
        if (run.step !== LAST - 1) return;
        const weights = await run.lora();
        weights.get("lora.1.v.A")?.fill(NaN);
        run.setLora(weights);
      };
      // Where no time passes, numbers are read where masks are looked at, after step 6 and not 7.
      const { now } = performance;
      performance.now = () => 0;
      const seen: number[] = [];
      try {
        await assert.rejects(async () => {
          using run = prune(model, { ...BASE, ...options, checkpoint, signal, hooks: { beforeStep } });
          for await (const { step } of run) seen.push(step);
        }, /enough/);
      } finally {
        performance.now = now;
      }
      const { result, records } = await drive(model, { ...options, checkpoint: { ...checkpoint, resume: true } });
      assert.deepEqual([seen, records[0]?.step], [[1, 2, 3, 4, 5, 6], 6]);
      assert.ok(records.every(({ loss }) => Number.isFinite(loss)));
      assert.ok(Array.from(result.lora.weights.values(), (matrix) => matrix.every(Number.isFinite)).every(Boolean));
      await Deno.remove(path);
    });
  });
}

Deno.test("gradual saliency sees numbers that are not finite before it chooses by them, and goes back", async () => {
  await withShortDemo(async ({ model }) => {
    // Masks are chosen before steps 9 and 12; where no time passes, numbers are read as late as can be.
    for (const broken of [8, 11]) {
      let hasBroken = false;
      const beforeStep: RunHooks["beforeStep"] = async (run) => {
        if (run.step !== broken || hasBroken) return;
        hasBroken = true;
        const weights = await run.lora();
        weights.get("lora.1.v.A")?.fill(NaN);
        run.setLora(weights);
      };
      const { now } = performance;
      performance.now = () => 0;
      try {
        const { records } = await drive(model, {
          method: "gradual",
          prefinetune: 0,
          steps: 40,
          postfinetune: 0,
          ...CALM,
          hooks: { beforeStep },
        });
        const alarms = records.flatMap(({ alarms }) => alarms.map(({ monitor, action }) => `${monitor} ${action}`));
        assert.deepEqual(alarms, ["nan rollback"]);
        assert.ok(Number.isFinite(records.at(-1)?.loss));
      } finally {
        performance.now = now;
      }
    }
  });
});

Deno.test("a state of other shapes is refused where options that change them may differ", async () => {
  await withShortDemo(async ({ model }) => {
    const path = await Deno.makeTempFile(), controller = new AbortController(), { signal } = controller;
    await Deno.remove(path);
    const options = { steps: 4, lora: { rank: 4 } }, checkpoint = { path, every: 1 };
    const afterStep = ({ step }: StepRecord): void => {
      if (step === 2) controller.abort(new Error("enough"));
    };
    await assert.rejects(drive(model, { ...options, checkpoint, signal, hooks: { afterStep } }), /enough/);
    const resumed = { ...checkpoint, resume: true, mayDiffer: ["lora"] };
    await rejects(drive(model, { ...options, lora: { rank: 8 }, checkpoint: resumed }), "mismatch", {
      value: "numbers",
    });
    for (const every of [-1, 2.5, NaN]) {
      refuses(() => prune(model, { ...BASE, checkpoint: { path, every } }), "usage", { option: "checkpoint.every" });
    }
    await Deno.remove(path);
  });
});

Deno.test("a run whose script was changed since its error is not taken up with the other one", async () => {
  await withShortDemo(async ({ model }) => {
    await using lair = new Lair();
    const schedule = await lair.write(HALF);
    using run = prune(model, { ...BASE, schedule, steps: 4, hooks: failingOnce(3) });
    const loop = async (): Promise<void> => {
      for await (const _ of run);
    };
    await assert.rejects(loop(), /hiccup/);
    await lair.write(HALF.replace("* progress", "* progress ** 2"));
    await rejects(loop(), "mismatch", { value: "script" });
    await lair.write(HALF);
    await loop();
    assert.ok(run.result().sparsity.hard > 0.19);
  });
});

Deno.test("a run that numbers which are not finite have stopped is taken up by the next loop from the last good state", async () => {
  await withShortDemo(async ({ model }) => {
    const options = { steps: 8, postfinetune: 1, monitors: { nan: { action: "stop" } } } as const;
    const whole = await drive(model, options), records: StepRecord[] = [];
    let isBroken = false;
    const beforeStep: RunHooks["beforeStep"] = async (run) => {
      if (run.step !== 6 || isBroken) return;
      isBroken = true;
      const weights = await run.lora();
      weights.get("lora.1.v.A")?.fill(NaN);
      run.setLora(weights);
    };
    using run = prune(model, { ...BASE, ...options, hooks: { beforeStep } });
    const loop = async (): Promise<void> => {
      for await (const record of run) {
        while ((records.at(-1)?.step ?? 0) >= record.step) records.pop();
        records.push(record);
      }
    };
    await rejects(loop(), "numeric", { names: ["nan", "step 7"] });
    await loop();
    assert.equal(bitsOf({ records, result: run.result() }), bitsOf(whole));
  });
});

Deno.test("flap's compensation follows masks that a hook writes once they are hard, and a resumed run has the same", async () => {
  await withShortDemo(async ({ model }) => {
    const path = await Deno.makeTempFile();
    await Deno.remove(path);
    /** Brings the first cut column back. */
    const afterStage: RunHooks["afterStage"] = async (stage, run) => {
      if (stage !== "prune") return;
      const { ffn } = await run.masks();
      ffn[ffn.indexOf(0)] = 1;
      run.setMasks({ ffn });
    };
    const options = { ...FLAP, sparsity: 0.3, postfinetune: 3 }, hooks = { afterStage };
    const whole = await drive(model, { ...options, hooks }), controller = new AbortController();
    const seen: StepRecord[] = [], checkpoint = { path, every: 1000 }, { signal } = controller;
    await assert.rejects(async () => {
      using run = prune(model, { ...BASE, ...options, hooks, checkpoint, signal });
      for await (const record of run) {
        seen.push(record);
        if (record.stage === "postfinetune") controller.abort(new Error("enough"));
      }
    }, /enough/);
    const rest = await drive(model, { ...options, hooks, checkpoint: { ...checkpoint, resume: true } });
    assert.equal(bitsOf({ ...rest, records: [...seen, ...rest.records] }), bitsOf(whole));
    const biases = async (source: WeightSource): Promise<Float32Array[]> =>
      await Promise.all(source.spec.layers.map((_, layer) => source.read(biasName(layer, "down"))));
    assert.deepEqual(await biases(rest.result.source), await biases(whole.result.source));
    await Deno.remove(path);
  });
});

Deno.test("gradual says what was cut before its last choice, and warns where that makes up for the stage", async () => {
  await withShortDemo(async ({ model }) => {
    const { result: { sparsity, alarms } } = await drive(model, { method: "gradual", steps: 2, sparsity: 0.2 });
    assert.equal(sparsity.expected, 0);
    assert.ok(sparsity.hard >= 0.2 - ROUNDING);
    const alarm = alarms.find(({ monitor }) => monitor === "constraint");
    assert.match(alarm?.message ?? "", /\b0\.0 %.*\b20\.\d %/);
    assert.match(alarm?.change ?? "", /\bsteps\b/);
  });
});
