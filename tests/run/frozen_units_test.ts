// Units that a schedule freezes: whole kinds, layers, and single ones by their numbers.
import assert from "node:assert/strict";
import { defineSchedule, type FrozenUnits, type RunHooks } from "../../mod.ts";
import { drive, withDemo } from "./helpers/demo_run.ts";

Deno.test("hidden dims and whole layers that are frozen do not move, and the others make up for them", async () => {
  await withDemo(async ({ model }) => {
    const units = ["ffn", "hidden", "layers"] as const;
    const moved = async (freeze: readonly FrozenUnits[]): Promise<readonly boolean[]> => {
      const states: Float32Array[] = [];
      const hooks: RunHooks = {
        afterStep: async ({ stage }, { logAlpha }) => {
          if (stage === "prune") states.push(new Float32Array(await logAlpha()));
        },
      };
      const schedule = defineSchedule({ freeze: () => freeze });
      const { result: { table } } = await drive(model, { units, prefinetune: 0, postfinetune: 0, schedule, hooks });
      const [first, last] = [states[0], states.at(-1)];
      const between = (from: number, end: number): boolean =>
        first?.subarray(from, end).some((value, unit) => value !== last?.[from + unit]) ?? false;
      const { ffnFirst: ffn, hiddenFirst: hidden, layerFirst: end, layers } = table;
      const { gate = NaN, ffn: { first: own, count } = { first: NaN, count: NaN } } = layers[2] ?? {};
      return [between(ffn, hidden), between(hidden, end), between(gate, gate + 1), between(own, own + count)];
    };
    assert.deepEqual(await moved([]), [true, true, true, true]);
    assert.deepEqual(await moved([{ kind: "hidden" }, { layer: 2, kind: "layer" }]), [true, false, false, false]);
    // Single ones, of a kind that has so many.
    const every = Array.from({ length: model.spec.hidden }, (_, unit) => unit);
    assert.deepEqual(await moved([{ kind: "hidden", units: every }]), [true, false, true, true]);
    const columns = Array.from({ length: model.spec.layers[2]?.ffn ?? 0 }, (_, unit) => unit);
    assert.deepEqual(await moved([{ layer: 2, kind: "ffn", units: columns }]), [true, true, true, false]);
    assert.deepEqual(await moved([{ layer: 2, kind: "ffn", units: columns.slice(1) }]), [true, true, true, true]);
    await assert.rejects(
      moved([{ layer: 2, kind: "ffn", units: [columns.length] }]),
      /step 0 of 8: cannot freeze units.*units of ffn in layer 2 have numbers from 0 to \d+; now: \d+;/,
    );
  });
});
