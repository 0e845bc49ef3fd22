// Units that a schedule freezes: whole kinds, layers, and single ones by their numbers. And, under gradual saliency, targets of single layers beside them.
import assert from "node:assert/strict";
import type { RunHooks } from "../../lib/run/mod.ts";
import { defineSchedule, type FrozenUnits, type ScheduleDefinition } from "../../lib/schedule/mod.ts";
import { rejects } from "../refuses.ts";
import { bitsOf, drive, interrupted, ROUNDING, withDemo, withShortDemo } from "./helpers/demo_run.ts";

Deno.test("hidden dims and whole layers that are frozen do not move, and the others make up for them", async () => {
  await withShortDemo(async ({ model }) => {
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
      const {
        ranges: { ffn: { first: ffn } },
        ranges: { hidden: { first: hidden } },
        ranges: { layers: { first: end } },
        layers,
      } = table;
      const { gate = NaN, ffn: { first: own, count } = { first: NaN, count: NaN } } = layers[1] ?? {};
      return [between(ffn, hidden), between(hidden, end), between(gate, gate + 1), between(own, own + count)];
    };
    assert.deepEqual(await moved([]), [true, true, true, true]);
    assert.deepEqual(await moved([{ kind: "hidden" }, { layer: 1, kind: "layer" }]), [true, false, false, false]);
    // Single ones, of a kind that has so many.
    const every = Array.from({ length: model.spec.hidden }, (_, unit) => unit);
    assert.deepEqual(await moved([{ kind: "hidden", units: every }]), [true, false, true, true]);
    const columns = Array.from({ length: model.spec.layers[1]?.ffn ?? 0 }, (_, unit) => unit);
    assert.deepEqual(await moved([{ layer: 1, kind: "ffn", units: columns }]), [true, true, true, false]);
    assert.deepEqual(await moved([{ layer: 1, kind: "ffn", units: columns.slice(1) }]), [true, true, true, true]);
    await rejects(moved([{ layer: 1, kind: "ffn", units: [columns.length] }]), "input", {
      names: ["step 0", 8, "layer 1"],
    });
  });
});

Deno.test("gradual saliency holds targets of single layers and frozen units, in training and in the hard masks", async () => {
  await withDemo(async ({ model }) => {
    const width = model.spec.layers[0]?.ffn ?? 0, shares = [null, 0.3, 0, null, null] as const;
    const drives = async (freeze: NonNullable<ScheduleDefinition["freeze"]>) => {
      const seen: number[][][] = [], cuts: (number | null)[] = [];
      const hooks: RunHooks = {
        afterStep: async ({ stage, expected }, { masks }) => {
          if (stage !== "prune") return;
          const { ffn } = await masks();
          seen.push(model.spec.layers.map((_, layer) => [...ffn.subarray(layer * width, (layer + 1) * width)]));
          cuts.push(expected);
        },
      };
      const schedule = defineSchedule({ sparsity: 0.2, layers: () => shares, freeze });
      const options = { method: "gradual", units: ["ffn"], steps: 12, schedule } as const;
      return { ...await drive(model, { ...options, hooks }), seen, cuts, options };
    };
    const cutOf = (columns: readonly number[] = []): number => columns.filter((z) => z === 0).length;
    // Chosen before steps 3, 6 and 9; from the second choice on the first layer is held.
    const held = await drives(({ step }) => step > 3 ? [{ layer: 0, kind: "ffn" }] : []);
    const free = await drives(() => []);
    assert.deepEqual(held.seen[0]?.map(cutOf), [0, 0, 0, 0, 0]);
    assert.ok(cutOf(held.seen[3]?.[0]) > 0);
    assert.deepEqual(held.seen[3], free.seen[3]);
    assert.deepEqual(held.seen[11]?.[0], held.seen[3]?.[0]);
    assert.notDeepEqual(free.seen[11]?.[0], free.seen[3]?.[0], "it would move");
    assert.notDeepEqual(held.seen[11]?.slice(3), held.seen[3]?.slice(3), "others do");
    for (const { seen, cuts, result: { table, masks, sparsity } } of [held, free]) {
      const { attention, ffn } = table.layers[1] ?? { attention: { total: NaN }, ffn: { total: NaN } };
      const goal = Math.ceil(0.3 * (attention.total + ffn.total) / 3);
      for (const step of [3, 6, 9, 11]) {
        assert.equal(cutOf(seen[step]?.[1]), goal, `layer 1 at step ${step}`);
        assert.equal(cutOf(seen[step]?.[2]), 0, `layer 2 at step ${step}`);
        assert.ok(Math.abs((cuts[step] ?? NaN) - 0.2) < 0.001, `${cuts[step]} at step ${step}`);
      }
      assert.equal(cutOf([...masks.ffn?.subarray(width, 2 * width) ?? []]), goal);
      assert.equal(cutOf([...masks.ffn?.subarray(2 * width, 3 * width) ?? []]), 0);
      assert.ok(sparsity.hard >= 0.2 - ROUNDING && sparsity.hard < 0.201, `${sparsity.hard}`);
    }
    const whole = await drive(model, held.options);
    assert.equal(bitsOf(await interrupted(model, held.options, 8)), bitsOf(whole));
  });
});

Deno.test("an alarm says what frozen units kept gradual saliency from, and what fell at once in the end", async () => {
  await withShortDemo(async ({ model }) => {
    const freeze = model.spec.layers.map((_, layer) => ({ layer, kind: "layer" }) as const);
    const schedule = defineSchedule({ freeze: () => freeze });
    const { records, result } = await drive(model, { method: "gradual", steps: 12, schedule });
    const expected = records.flatMap(({ stage, expected }) => stage === "prune" ? [expected] : []);
    assert.deepEqual(expected, new Array<number>(12).fill(0));
    const { sparsity: { hard }, alarms } = result;
    assert.ok(hard >= 0.2 - ROUNDING && hard < 0.21, `${hard}`);
    assert.deepEqual(alarms.map(({ monitor }) => monitor), ["collapse", "constraint"]);
    assert.match(alarms[0]?.change ?? "", /let the schedule freeze less/);
    assert.match(alarms[1]?.message ?? "", /20\.\d % were cut at once .* since frozen units or targets/);
  });
});
