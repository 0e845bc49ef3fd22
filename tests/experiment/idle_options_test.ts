// Options of an experiment that would change nothing. Without a GPU.
import assert from "node:assert/strict";
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { type CellOptions, pruneOptions } from "../../lib/experiment/options.ts";
import { planCells } from "../../lib/experiment/plan.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { Store } from "../../lib/experiment/store.ts";
import { CHECKPOINT_FILE } from "../../lib/run/folder.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import type { Alarm } from "../../lib/run/monitors/alarm.ts";
import { finishCell } from "./finish_cell.ts";
import { PLAIN } from "./plain.ts";
import type { ExperimentDefinition, PlannedCell } from "../../lib/experiment/types.ts";
import { type Refusal, refuses } from "../refuses.ts";

Deno.test("cells without LoRA do not differ in what is LoRA's alone", () => {
  const wrong = (change: Partial<ExperimentDefinition>, said: Refusal): void =>
    refuses(() => defineExperiment({ ...PLAIN, ...change }), "usage", said);
  wrong({ grid: { lora: [false], rank: [2, 4] } }, { value: "rank" });
  wrong({ grid: [{ seed: [1] }, { lora: [true, false], loraRate: [1e-3, 1e-4] }] }, { value: "loraRate" });
  const ranks = [{ rank: [2], seed: [1] }, { rank: [4], seed: [1] }];
  wrong({ base: { ...PLAIN.base, lora: false }, grid: ranks }, { value: "rank" });
  wrong({ grid: [{ lora: [false], seed: [1] }, { lora: [false], rank: [4] }] }, { value: "rank" });
  defineExperiment({ ...PLAIN, grid: [{ lora: [false], seed: [1] }, ...ranks] });
  wrong({ base: { ...PLAIN.base, lora: false }, grid: { postfinetune: [1, 2] } }, { value: "postfinetune" });
  defineExperiment({ ...PLAIN, base: { ...PLAIN.base, loraRate: 1e-3 }, grid: { lora: [false], seed: [1, 2] } });
  defineExperiment({ ...PLAIN, base: { ...PLAIN.base, lora: false }, grid: { lora: [true], rank: [2, 4] } });
});

Deno.test("the shape of LoRA is no part of what a cell without LoRA is, and part of all others", async () => {
  await inTemporaryFolder(async (folder) => {
    const store = new Store(folder);
    const plan = async (base: CellOptions): Promise<PlannedCell> => {
      const definition = { ...PLAIN, base: { ...PLAIN.base, ...base } };
      const [cell] = (await planCells(resolveExperiment(defineExperiment(definition)), store)).all;
      assert(cell);
      return cell;
    };
    const shape: CellOptions = { rank: 3, alpha: 5, rslora: true, loraTargets: "q,v", dropout: 0.1 };
    const others: CellOptions = { ...shape, clipNorm: 2, weightDecay: 0.1 };
    const finish = async (base: CellOptions, alarms: readonly Alarm[]): Promise<void> =>
      await finishCell(store, await plan(base), { alarms });
    const kindOf = async (base: CellOptions): Promise<string> => (await plan(base)).state.kind;
    const restored = {
      monitor: "divergence",
      step: 3,
      action: "rollback",
      restored: 1,
      message: "",
      change: "",
      options: [],
    } as const;
    // Also where alarms sent the run back.
    for (const alarms of [[], [restored]]) {
      await finish({ lora: false }, alarms);
      for (const base of [{}, shape, others, { ...others, postfinetuneRate: 1 }]) {
        assert.equal(await kindOf({ lora: false, ...base }), "done");
      }
      assert.equal(await kindOf({ lora: false, maskRate: 0.5 }), "changed");
      assert.equal(await kindOf({}), "changed");
    }
    const { folder: stopped, identity } = await plan({ lora: false });
    await store.begin(stopped, identity, { restarts: true });
    await Deno.writeTextFile(`${store.cell(stopped)}/${CHECKPOINT_FILE}`, "");
    assert.deepEqual([await kindOf({ lora: false }), await kindOf({ lora: false, rank: 3 })], ["stopped", "stopped"]);
    // Without a rate, but with a last stage that has one, or a script, which may go by the norm of LoRA's gradients.
    const script = `${folder}/mine.ts`, alone = { loraRate: 0, prefinetune: 0, postfinetune: 0 };
    await Deno.writeTextFile(script, "export default { rates: { lora: () => 1e-3 } };");
    for (
      const trained of [{}, { loraRate: 0, postfinetuneRate: 1e-3 }, { loraRate: 0 }, { ...alone, schedule: script }]
    ) {
      await finish(trained, []);
      assert.deepEqual([await kindOf(trained), await kindOf({ ...trained, rank: 3 })], ["done", "changed"]);
    }
  });
});

Deno.test("a prompt at inference is refused where nothing is measured behind one", () => {
  const perplexity = [{ name: "text", text: "x.txt", window: 8 }], rows = [{ name: "r", file: "a.json", seq: 48 }];
  const define = (evaluate: ExperimentDefinition["evaluate"]): unknown => defineExperiment({ ...PLAIN, evaluate });
  refuses(() => define({ perplexity, prompt: [false, true] }), "usage", { value: "evaluate.prompt" });
  define({ perplexity, prompt: [false] });
  define({ perplexity, rows, prompt: [false, true] });
});

Deno.test("what a cell of a grid has no use for is left out of its run", () => {
  const about = { prompt: null, layers: 4 }, plain = { sparsity: 0.2, steps: 4 };
  const others = { clipNorm: 2, weightDecay: 0.1 };
  const { rates } = pruneOptions({ ...plain, lora: false, postfinetuneRate: 1e-4 }, about);
  assert.deepEqual(rates, { lora: 0 });
  const atOnce = pruneOptions({ ...plain, method: "flap", lora: false, loraRate: 1e-3, ...others }, about);
  assert.deepEqual(atOnce.rates, { lora: 0 });
  const cut = pruneOptions({ ...plain, steps: 0, method: "flap", loraRate: 1e-3, ...others }, about);
  assert.equal(cut.rates, undefined);
  const trusted = (schedule?: string): boolean | undefined =>
    pruneOptions({ ...plain, trust: true, ...(schedule === undefined ? {} : { schedule }) }, about).trustSchedule;
  assert.deepEqual([trusted(), trusted("linear"), trusted("./mine.ts")], [undefined, undefined, true]);
});
