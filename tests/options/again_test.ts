// The options of a run's summary make the same run again, and are no more than those that differ from their defaults.
import assert from "node:assert/strict";
import { nameOfMethod } from "../../lib/run/methods/all.ts";
import { optionsOfRun } from "../../lib/run/options/again.ts";
import type { PruneOptions } from "../../lib/run/options/options.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import type { RunSummary } from "../../lib/run/result.ts";
import { refuses } from "../refuses.ts";

const HALF = { rows: [], sparsity: 0.5 } as const;
const SETS: readonly PruneOptions[] = [
  { ...HALF, steps: 80 },
  { ...HALF, steps: 700, preset: "paper" },
  { ...HALF, steps: 700, preset: "paper", rates: { mask: 0.2 }, units: ["ffn"] },
  { ...HALF, steps: 0, method: "taylor", rounds: 3, ranking: "all", prompt: null },
  // The default of both rates is another one for this optimizer.
  { ...HALF, steps: 20, optimizer: "lion", rates: { lora: 1e-3 } },
  { ...HALF, steps: 20, optimizer: "lion" },
  { ...HALF, steps: 20, rates: { lora: 5e-4, postfinetune: 1e-3 }, lora: { rank: 4, targets: ["q", "v"] } },
  { ...HALF, steps: 20, layout: "uniform", units: ["ffn"], method: "wanda-sp", postfinetune: 7, focus: 0.5 },
  { ...HALF, steps: 20, objective: { crossEntropy: 0, distillation: 1 }, prompt: "Be brief.", packing: false },
  { ...HALF, steps: 20, rules: { protect: [0, -1], minimum: { heads: 2 }, align: 16 }, monitors: { rollbacks: 1 } },
  { ...HALF, steps: 20, monitors: { divergence: { action: "off" }, constraint: { action: "stop", threshold: 0.3 } } },
  { rows: [], steps: 20, size: { parameters: 700_000 } },
  { rows: [], steps: 20, size: { bytes: 700_000, file: { format: "gguf", dtype: "q8_0" }, name: "small" } },
  { rows: [], steps: 0, units: ["vocab"], vocab: { size: 400 } },
  { rows: [], steps: 30, sparsity: 0, rates: { lora: 2e-3 }, batch: 2 },
  { rows: [], steps: 30, units: ["vocab"], lora: { rank: 2 } },
  { rows: [], steps: 0, units: ["experts"], sparsity: 0.25, method: "frequency", seed: 5 },
];

/** Options as run.json has them. */
function written(options: PruneOptions): RunSummary["options"] {
  const { rows: _, method, ...others } = resolveOptions(options);
  return JSON.parse(JSON.stringify({ ...others, method: nameOfMethod(method) }));
}

Deno.test("the options of a summary resolve to those of the run, whatever its method, target and units", () => {
  for (const set of SETS) {
    const then = written(set), again = optionsOfRun(then);
    assert.deepEqual(written(again), then, JSON.stringify(set));
  }
});

Deno.test("options at their default are left out, so that those that depend on others follow them", () => {
  const again = optionsOfRun(written({ ...HALF, steps: 80, seed: 3 }));
  assert.deepEqual(again, { rows: [], sparsity: 0.5, steps: 80, seed: 3 });
  const { rates, prefinetune } = resolveOptions({ ...again, steps: 400 });
  assert.deepEqual([rates.mask, prefinetune], [20 / 400, 40]);
  const lion = optionsOfRun(written({ ...HALF, steps: 20, optimizer: "lion" }));
  assert.equal(lion.rates, undefined);
});

Deno.test("a run whose method was a function of a program is not repeated", () => {
  const then = { ...written({ ...HALF, steps: 80 }), method: "mine" };
  refuses(() => optionsOfRun(then), "usage", { option: "method", value: "mine" });
});
