// A size with all layers cut alike: the widths that the final model has are those that the run came to, not cut to in the end. On the demo model.
import assert from "node:assert/strict";
import { loadModel, prune } from "../../mod.ts";
import type { RunHooks } from "../../lib/run/mod.ts";
import type { MethodName } from "../../lib/types/mod.ts";
import type { MaskValues } from "../../lib/nn/mask_slots.ts";
import { expectedCuts } from "../../lib/run/layer_states.ts";
import { sharedDevice } from "../device.ts";
import { BASE } from "./helpers/demo_run.ts";

/** Widths of a layer and of the residual stream as a run has them at the end of its pruning stage, and in its masks. */
async function widths(
  method: MethodName,
  parameters: number,
): Promise<{ readonly last: readonly number[]; readonly final: readonly number[] }> {
  using model = await loadModel("demo", { device: await sharedDevice() });
  const { layers: [{ ffn = NaN } = {}], hidden } = model.spec;
  const kept = ({ ffn: columns, hidden: dims }: MaskValues): readonly number[] =>
    [columns?.subarray(0, ffn), dims?.subarray(0, hidden)].map((values) => values?.filter((z) => z > 0).length ?? NaN);
  let last: readonly number[] = [];
  const hooks: RunHooks = {
    afterStep: async (_, { table, logAlpha, masks }) => {
      if (method === "gradual") return void (last = kept(await masks()));
      const cuts = expectedCuts(await logAlpha(), { temperature: 0.1, noise: 0.1 });
      const alive = (from: number, end: number): number =>
        cuts.subarray(from, end).reduce((sum, cut) => sum + 1 - cut, 0);
      const {
        ranges: { ffn: { first: ffnFirst } },
        ranges: { hidden: { first: hiddenFirst } },
        ranges: { layers: { first: layerFirst } },
      } = table;
      last = [alive(ffnFirst, ffnFirst + ffn), alive(hiddenFirst, layerFirst)];
    },
  };
  const { sparsity: _, ...base } = BASE;
  using run = prune(model, {
    ...{ ...base, method, layout: "uniform", units: ["kv", "ffn", "hidden"], rules: { align: 16 }, hooks },
    // With 32 tokens a step the loss is no longer what it was, which is not what this is about.
    ...{ size: { parameters }, seq: 24, monitors: { divergence: { action: "off" } } },
    ...{ prefinetune: 0, steps: 20, postfinetune: 0 },
  });
  for await (const { step } of run) assert.ok(step > 0);
  return { last, final: kept(run.result().masks) };
}

for (const method of ["compresso", "gradual"] as const) {
  Deno.test(`layers that are cut alike to a size come to its widths within the stage: ${method}`, async () => {
    // By the sparsity that this size takes alone, other widths would do: 64 columns.
    const { last, final } = await widths(method, 524_000);
    assert.deepEqual(final, [80, 128]);
    last.forEach((width, index) => assert.ok(Math.abs(width - (final[index] ?? NaN)) < 1, `${last} and ${final}`));
  });
}
