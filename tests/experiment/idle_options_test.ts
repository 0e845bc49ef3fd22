// Options of an experiment that would change nothing. Without a GPU.
import assert from "node:assert/strict";
import { defineExperiment, type ExperimentDefinition } from "../../lib/experiment/definition.ts";
import { pruneOptions } from "../../lib/experiment/options.ts";
import { refuses } from "../io/files.ts";

const PLAIN: ExperimentDefinition = {
  name: "idle",
  model: "demo",
  base: { sparsity: 0.2, steps: 4, prompt: false, seq: 48 },
  grid: { seed: [1] },
};

Deno.test("cells without LoRA do not differ in what is LoRA's alone", () => {
  const wrong = (change: Partial<ExperimentDefinition>, said: RegExp): void =>
    refuses(() => defineExperiment({ ...PLAIN, ...change }), "usage", /without LoRA have a grid/, said);
  wrong({ grid: { lora: [false], rank: [2, 4] } }, /now: lora false and several of 'rank'/);
  wrong({ grid: [{ seed: [1] }, { lora: [true, false], loraRate: [1e-3, 1e-4] }] }, /several of 'loraRate'/);
  wrong({ base: { ...PLAIN.base, lora: false }, grid: { postfinetune: [1, 2] } }, /several of 'postfinetune'/);
  defineExperiment({ ...PLAIN, base: { ...PLAIN.base, loraRate: 1e-3 }, grid: { lora: [false], seed: [1, 2] } });
  defineExperiment({ ...PLAIN, base: { ...PLAIN.base, lora: false }, grid: { lora: [true], rank: [2, 4] } });
});

Deno.test("a prompt at inference is refused where nothing is measured behind one", () => {
  const perplexity = [{ name: "text", text: "x.txt", window: 8 }], rows = [{ name: "r", file: "a.json", seq: 48 }];
  const define = (evaluate: ExperimentDefinition["evaluate"]): unknown => defineExperiment({ ...PLAIN, evaluate });
  refuses(() => define({ perplexity, prompt: [false, true] }), "usage", /rows, choices or tasks/, /prompt has true/);
  define({ perplexity, prompt: [false] });
  define({ perplexity, rows, prompt: [false, true] });
});

Deno.test("what a cell of a grid has no use for is left out of its run", () => {
  const about = { prompt: null, layers: 4 }, plain = { sparsity: 0.2, steps: 4 };
  const { rates } = pruneOptions({ ...plain, lora: false, recoveryRate: 1e-4 }, about);
  assert.deepEqual(rates, { lora: 0 });
  const trusted = (schedule?: string): boolean | undefined =>
    pruneOptions({ ...plain, trust: true, ...(schedule === undefined ? {} : { schedule }) }, about).trustSchedule;
  assert.deepEqual([trusted(), trusted("linear"), trusted("./mine.ts")], [undefined, undefined, true]);
});
