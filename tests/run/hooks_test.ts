// Hooks where a run breaks, and around its files: of which state their handle is, what is in the folder, and that a run waits for what it calls. On the demo model.
import assert from "node:assert/strict";
import { prune, pruneToFolder, type PruneToFolderOptions, type StepRecord } from "../../mod.ts";
import type { RunHandle, RunHooks } from "../../lib/run/mod.ts";
import { exists } from "../../lib/files/exists.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { BASE, drive, withShortDemo } from "./helpers/demo_run.ts";

const SHORT = { ...BASE, steps: 1, prefinetune: 1, postfinetune: 1, seq: 32 } as const;

Deno.test("after a step whose numbers are not finite the handle has step and LoRA of the state that was kept", async () => {
  await withShortDemo(async ({ model }) => {
    let isBroken = false;
    const seen: { readonly step: number; readonly at: number; readonly isFinite: boolean }[] = [];
    const beforeStep = async (run: RunHandle): Promise<void> => {
      if (run.step !== 2 || isBroken) return;
      isBroken = true;
      const weights = await run.lora();
      weights.get("lora.0.q.B")?.fill(NaN);
      run.setLora(weights);
    };
    const afterStep = async ({ step }: StepRecord, run: RunHandle): Promise<void> => {
      const isFinite = [...(await run.lora()).values()].every((values) => values.every(Number.isFinite));
      seen.push({ step, at: run.step, isFinite });
    };
    await drive(model, { ...SHORT, prefinetune: 4, hooks: { beforeStep, afterStep } });
    const places = seen.slice(0, 6).map(({ step, at }) => [step, at]);
    // The first state is that before the first step.
    assert.deepEqual(places, [[1, 1], [2, 2], [3, 0], [1, 1], [2, 2], [3, 3]]);
    assert.ok(seen.every(({ isFinite }) => isFinite));
  });
});

Deno.test("hooks of a class keep what they write in their object", async () => {
  class Told implements RunHooks {
    readonly #told: string[] = [];
    get all(): string {
      return this.#told.join(" ");
    }
    beforeStage(stage: string): void {
      this.#told.push(stage);
    }
    afterStage(stage: string): void {
      this.#told.push(`/${stage}`);
    }
    beforeStep({ step }: RunHandle): void {
      this.#told.push(`${step}`);
    }
    afterStep({ step }: StepRecord): void {
      this.#told.push(`/${step}`);
    }
  }
  await withShortDemo(async ({ model }) => {
    const hooks = new Told();
    await drive(model, { ...SHORT, hooks });
    assert.equal(hooks.all, "finetune 0 /1 /finetune prune 1 /2 /prune postfinetune 2 /3 /postfinetune");
  });
});

Deno.test("hooks around the export get its folder, first without the model's files and last with all of them", async () => {
  await inTemporaryFolder(async (folder) => {
    await withShortDemo(async ({ model }) => {
      const dir = `${folder}/run`, called: (readonly [string, string, boolean, boolean])[] = [];
      const look = async (hook: string, given: string): Promise<void> => {
        const files = ["model/model.safetensors", "model/config.json", "records.jsonl"];
        const there = await Promise.all(files.map((file) => exists(`${dir}/${file}`)));
        assert.equal(new Set(there).size, 1, `${hook}: ${there}`);
        called.push([hook, given, there[0] === true, await exists(`${dir}/run.json`)]);
      };
      const beforeExport = (given: string): Promise<void> => look("before", given);
      const afterExport = (given: string): Promise<void> => look("after", given);
      using run = prune(model, { ...SHORT, hooks: { beforeExport, afterExport } });
      for await (const _ of run);
      assert.deepEqual(called, []);
      await run.export(dir, { formats: ["hf"] });
      assert.deepEqual(called, [["before", dir, false, false], ["after", dir, true, true]]);
    });
  });
});

Deno.test("a run waits for what its caller does at its start and with each record, and ends where that is rejected", async () => {
  await inTemporaryFolder(async (folder) => {
    await withShortDemo(async ({ model }) => {
      const told: string[] = [];
      const later = async (text: string, fails: boolean): Promise<void> => {
        told.push(`${text} begins`);
        await new Promise((resolve) => setTimeout(resolve, 20));
        if (fails) throw new Error(`${text} failed`);
        told.push(`${text} ends`);
      };
      const options: PruneToFolderOptions = { ...SHORT, out: `${folder}/run`, calibration: "none" };
      const onStart = (): Promise<void> => later("start", false);
      const onRecord = ({ step }: StepRecord): Promise<void> => later(`record ${step}`, step === 2);
      await assert.rejects(pruneToFolder(model, { ...options, onStart, onRecord }), /record 2 failed/);
      const records = ["record 1 begins", "record 1 ends", "record 2 begins"];
      assert.deepEqual(told, ["start begins", "start ends", ...records]);
      const failing = { ...options, out: `${folder}/other`, onRecord, onStart: () => later("start", true) };
      await assert.rejects(pruneToFolder(model, failing), /start failed/);
      assert.deepEqual(told.slice(5), ["start begins"]);
    });
  });
});
