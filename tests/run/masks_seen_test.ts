// The masks as a program sees them while they are learned, and the loss on rows that are held out.
import assert from "node:assert/strict";
import { prune } from "../../mod.ts";
import { rowPerplexity } from "../../lib/eval/row_perplexity.ts";
import { type MaskSummary, maskSummary } from "../../lib/run/mask_summary.ts";
import { BASE, withShortDemo } from "./helpers/demo_run.ts";

Deno.test("onMasks is given open masks of every head at steps in order, and at the end those that were cut", async () => {
  await withShortDemo(async ({ model }) => {
    const seen: { readonly step: number; readonly masks: MaskSummary }[] = [];
    using run = prune(model, { ...BASE, onMasks: (step, masks) => seen.push({ step, masks }) });
    for await (const _ of run);
    const { masks } = run.result(), steps = seen.map(({ step }) => step);
    assert.ok(steps.length > 2 && steps.every((step, at) => at === 0 || step > (steps[at - 1] ?? 0)), steps.join());
    assert.ok(
      seen.some(({ masks: { ffn } }) => ffn.flat().some((share) => share > 0 && share < 1)),
      "on the way some are half open",
    );
    assert.deepEqual(seen.at(-1)?.masks, maskSummary(model.spec, masks));
  });
});

Deno.test("the loss on held-out rows is that of rowPerplexity() of the model before, and with masks and LoRA after", async () => {
  await withShortDemo(async ({ model }) => {
    const { rows, seq, prompt } = BASE, out = await Deno.makeTempDir();
    using run = prune(model, { ...BASE, packing: false });
    for await (const _ of run);
    const { masks, lora } = run.result();
    const { heldoutLoss, data } = await run.export(out, { formats: ["hf"] });
    assert.ok(heldoutLoss && data.heldOut > 0);
    const held = rows.slice(-data.heldOut);
    const before = await rowPerplexity(model, held, { seq, prompt });
    const after = await rowPerplexity(model, held, { seq, prompt, adapters: { masks, lora } });
    assert.ok(Math.abs(before.nll - heldoutLoss.before) < 1e-4, `${before.nll}, ${heldoutLoss.before}`);
    assert.ok(Math.abs(after.nll - heldoutLoss.after) < 1e-4, `${after.nll}, ${heldoutLoss.after}`);
    assert.equal(before.tokens, heldoutLoss.labels);
    await Deno.remove(out, { recursive: true });
  });
});
