// What a resumed run is given anew, rates, sizes, calibration and schedules: it holds as it is given, and what it can no longer decide is refused. On the demo model.
import assert from "node:assert/strict";
import {
  type CompressoError,
  type Model,
  prune,
  type PruneOptions,
  type PruneResult,
  type StepRecord,
} from "../../mod.ts";
import type { WantedSize } from "../../lib/run/contract.ts";
import type { RunOptions, Target } from "../../lib/run/options/options.ts";
import { parameterCount } from "../../lib/model/mod.ts";
import type { CheckpointOptions } from "../../lib/types/mod.ts";
import { defineSchedule } from "../../lib/schedule/mod.ts";
import { rejects } from "../refuses.ts";
import { BASE, drive, withShortDemo } from "./helpers/demo_run.ts";

const CHECKPOINT = "checkpoint.safetensors";

/** Runs until the record of step `at`, and stops there after a checkpoint. */
async function stopAfter(model: Model, at: number, options: Partial<RunOptions>): Promise<void> {
  const controller = new AbortController();
  const hooks = {
    afterStep: ({ step }: { step: number }): void => {
      if (step === at) controller.abort(new Error("enough"));
    },
  };
  await assert.rejects(drive(model, { ...options, hooks, signal: controller.signal }), /enough/);
}

async function inFolder(work: (path: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await work(`${folder}/${CHECKPOINT}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("a run that went back and is given other rates goes on with just these, and may go back as often again", async () => {
  await withShortDemo(async ({ model }) => {
    await inFolder(async (path) => {
      const options = {
        packing: false,
        prefinetune: 6,
        steps: 2,
        postfinetune: 0,
        lora: { targets: ["q", "v"] },
      } as const;
      const checkpoint = { path, every: 1000 };
      const failed = drive(model, { ...options, checkpoint, rates: { lora: 1 }, monitors: { rollbacks: 1 } });
      await assert.rejects(failed, /runs away.*went back once before/);
      const again = { ...options, checkpoint: { ...checkpoint, resume: true, mayDiffer: ["rates"] } };
      const rate = async (lora: number, more: PruneOptions["rates"] = {}): Promise<number> => {
        const { records } = await drive(model, {
          ...again,
          rates: { lora, ...more },
          monitors: { divergence: { action: "off" } },
        });
        return Math.max(...records.map(({ learningRate }) => learningRate));
      };
      await Deno.copyFile(path, `${path}.copy`);
      assert.ok(Math.abs(await rate(1e-4) / 1e-4 - 1) < 1e-6, "the rate that is given");
      await Deno.copyFile(`${path}.copy`, path);
      assert.ok(Math.abs(await rate(1) / 0.5 - 1) < 1e-6, "of the rates as they were the halves stay");
      await Deno.copyFile(`${path}.copy`, path);
      assert.ok(
        Math.abs(await rate(1, { mask: 0.07 }) / 0.5 - 1) < 1e-6,
        "so they do beside others that are given anew",
      );
    });
  });
});

Deno.test("a rate that another schedule sets is given anew as well, and the same schedule's stays halved", async () => {
  await withShortDemo(async ({ model }) => {
    await inFolder(async (path) => {
      const options = {
        ...{ packing: false, prefinetune: 0, steps: 12, postfinetune: 1 },
        lora: { targets: ["q", "v"] },
      } as const;
      // Told apart by their text.
      const fast = defineSchedule({ rates: { lora: () => 1 } }), slow = defineSchedule({ rates: { lora: () => 1e-4 } });
      const checkpoint = { path, every: 1000 }, monitors = { rollbacks: 1 };
      const failed = drive(model, { ...options, checkpoint, schedule: fast, monitors });
      await assert.rejects(failed, /runs away.*went back once before/);
      await Deno.copyFile(path, `${path}.copy`);
      const rate = async (schedule: typeof fast, rates: PruneOptions["rates"] = {}): Promise<number> => {
        await Deno.copyFile(`${path}.copy`, path);
        const again = { ...checkpoint, resume: true, mayDiffer: ["schedule", "rates"] };
        const off = { divergence: { action: "off" }, oscillation: { action: "off" } } as const;
        const { records } = await drive(model, {
          ...{ ...options, checkpoint: again, schedule, rates, monitors: off },
        });
        return Math.max(...records.filter(({ stage }) => stage === "prune").map(({ learningRate }) => learningRate));
      };
      assert.ok(Math.abs(await rate(slow) / 1e-4 - 1) < 1e-6, "as the other schedule says");
      assert.ok(Math.abs(await rate(fast) - 0.5) < 1e-6, "as it was");
      // One that the run is given anew is for the stage in which the schedule has none.
      assert.ok(Math.abs(await rate(fast, { lora: 1e-5 }) - 0.5) < 1e-6, "as it was, beside one of the run's own");
    });
  });
});

Deno.test("a run of layers that are to be alike goes on with tracking where it had none", async () => {
  await withShortDemo(async ({ model }) => {
    await inFolder(async (path) => {
      const checkpoint = { path, every: 1000 }, layout = "uniform" as const;
      await stopAfter(model, 4, { layout, checkpoint, rates: { tracking: 0 } });
      const resumed = { ...checkpoint, resume: true };
      await assert.rejects(drive(model, { layout, checkpoint: resumed }), /tracking: 0 then, 1 now/);
      const { result } = await drive(model, { layout, checkpoint: { ...resumed, mayDiffer: ["rates"] } });
      assert.ok(result.sparsity.hard >= BASE.sparsity);
    });
  });
});

Deno.test("LoRA that a hook breaks after the last step ends the run by name, and going on without the hook fixes it", async () => {
  await withShortDemo(async ({ model }) => {
    await inFolder(async (path) => {
      const checkpoint = { path, every: 2 };
      const hooks: PruneOptions["hooks"] = {
        afterStage: async (stage, run) => {
          if (stage !== "postfinetune") return;
          const weights = await run.lora();
          weights.get("lora.1.q.B")?.fill(NaN, 3, 4);
          run.setLora(weights);
        },
      };
      await assert.rejects(drive(model, { checkpoint, hooks }), (error: CompressoError) => {
        assert.equal(error.code, "numeric");
        assert.match(error.message, /cannot finish the run; .*lora\.1\.q\.B.*3.* NaN/);
        return true;
      });
      const { result } = await drive(model, { checkpoint: { ...checkpoint, resume: true } });
      assert.ok([...result.lora.weights.values()].every((values) => values.every(Number.isFinite)));
    });
  });
});

Deno.test("a run goes on with another size, or without calibration, where just these may differ, whatever follows from them", async () => {
  await withShortDemo(async ({ model }) => {
    await inFolder(async (path) => {
      const size = (share: number): { readonly size: WantedSize } => ({
        size: { parameters: Math.round(share * parameterCount(model.spec)) },
      });
      const { sparsity: _sparsity, ...sized } = BASE;
      const run = async (options: Omit<RunOptions, "rows"> & Target, at?: number): Promise<PruneResult> => {
        const controller = new AbortController();
        const afterStep = ({ step }: StepRecord): void => {
          if (step === at) controller.abort(new Error("enough"));
        };
        using run = prune(model, { ...options, rows: BASE.rows, signal: controller.signal, hooks: { afterStep } });
        for await (const _ of run) { /* to its end */ }
        return run.result();
      };
      const checkpoint = { path, every: 1000 },
        may = (name: string): CheckpointOptions => ({
          ...checkpoint,
          resume: true,
          mayDiffer: [name],
        });
      const calibration = BASE.rows.slice(0, 4);
      await assert.rejects(run({ ...sized, ...size(0.85), calibration, checkpoint }, 1), /enough/);
      await rejects(run({ ...sized, ...size(0.85), checkpoint: may("size") }), "mismatch", { value: "calibration:" });
      await assert.rejects(run({ ...sized, ...size(0.85), checkpoint: may("calibration") }, 4), /enough/);
      const { sparsity } = await run({ ...sized, ...size(0.8), checkpoint: may("size") });
      using smaller = prune(model, { ...sized, ...size(0.8), rows: BASE.rows });
      assert.equal(sparsity.target, smaller.options.sparsity);
      assert.ok(sparsity.hard >= sparsity.target, `${sparsity.hard} of ${sparsity.target}`);
    });
  });
});

Deno.test("a run stopped as a schedule ended its stage counts all its steps again under one that does not", async () => {
  await withShortDemo(async ({ model }) => {
    await inFolder(async (path) => {
      const { sparsity: _sparsity, ...sized } = BASE, controller = new AbortController();
      const parameters = Math.round(0.85 * parameterCount(model.spec));
      const options = { ...sized, method: "gradual", size: { parameters }, prefinetune: 0, steps: 3 } as const;
      const checkpoint = { path, every: 1000 }, { signal } = controller;
      const stopped = prune(model, {
        ...options,
        schedule: defineSchedule({ end: () => true }),
        checkpoint,
        signal,
        onScoring: () => controller.abort(new Error("enough")),
      });
      await assert.rejects(async () => {
        for await (const _ of stopped) { /* to its end */ }
      }, /enough/);
      stopped[Symbol.dispose]();
      using run = prune(model, { ...options, checkpoint: { ...checkpoint, resume: true, mayDiffer: ["schedule"] } });
      await run.prepare();
      assert.equal(run.steps, 5);
      const steps: number[] = [];
      for await (const { step } of run) steps.push(step);
      assert.deepEqual([steps, run.steps], [[1, 2, 3, 4, 5], 5]);
    });
  });
});
