// Quality of the demo after short runs: methods choose useful units, and recovery lowers the loss.
import assert from "node:assert/strict";
import { type Model, prune, type PruneOptions, readRows } from "../../mod.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { rowPerplexity } from "../../lib/eval/mod.ts";
import { demoData } from "../../lib/model/mod.ts";
import { withDemo, withShortDemo } from "./helpers/demo_run.ts";

const { rows } = await readRows(demoData("train"), { limit: 400 }),
  { rows: heldout } = await readRows(demoData("heldout"));
/** As scripts/experiments/methods.ts has it. */
const OPTIONS = {
  rows,
  sparsity: 0.4,
  steps: 8,
  prefinetune: 1,
  postfinetune: 4,
  batch: 4,
  seq: 48,
  seed: 1,
  units: ["kv", "ffn"],
  prompt: null,
  rates: { lora: 2e-3 },
} as const satisfies PruneOptions;

/** Mean loss, in nats, of the answers to 32 questions that were not trained on, by the masked model. */
async function answersAfter(model: Model, options: Partial<RunOptions>): Promise<number> {
  using run = prune(model, { ...OPTIONS, ...options });
  for await (const _ of run);
  const { masks, lora } = run.result();
  return (await rowPerplexity(model, heldout.slice(-32), { seq: 256, adapters: { masks, lora } })).nll;
}

Deno.test("what chooses in training leaves far more of the demo than a cut at random or by magnitude", async () => {
  await withDemo(async ({ model }) => {
    const learned = await answersAfter(model, {}), gradual = await answersAfter(model, { method: "gradual" });
    const blind = [await answersAfter(model, { method: "random" }), await answersAfter(model, { method: "magnitude" })];
    const said = `${learned} and ${gradual} beside ${blind}`;
    assert.ok(Math.max(learned, gradual) < 0.5 * Math.min(...blind), said);
  });
});

Deno.test("recovery by LoRA brings a one-shot cut nearer to what it was", async () => {
  await withDemo(async ({ model }) => {
    const bare = { batch: 2, prefinetune: 0, steps: 0, postfinetune: 0 };
    const cut = await answersAfter(model, { method: "taylor", ...bare, rates: {} });
    const recovered = await answersAfter(model, { method: "taylor", ...bare, postfinetune: 12 });
    assert.ok(recovered < 0.8 * cut, `${recovered} after ${cut}`);
  });
});

Deno.test("all methods train on the same rows in the same order, as many tokens in as many steps", async () => {
  await withShortDemo(async ({ model }) => {
    const seen = new Map<string, number[]>();
    for (const method of ["compresso", "gradual", "magnitude", "random", "taylor", "wanda-sp", "flap"] as const) {
      // Rows of different lengths, so that another order has other counts.
      const how = { method, prefinetune: 1, steps: 2, postfinetune: 1, packing: false, seq: 96, batch: 2 };
      using run = prune(model, { ...OPTIONS, ...how });
      const tokens: number[] = [];
      for await (const record of run) tokens.push(record.tokens);
      seen.set(method, tokens);
    }
    const first = seen.get("compresso") ?? [];
    assert.equal(first.length, 4);
    assert.ok(new Set(first).size > 2, String(first));
    for (const [method, tokens] of seen) assert.deepEqual(tokens, first, method);
  });
});
