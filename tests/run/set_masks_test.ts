// Masks that a program sets while masks are still chosen: the next step runs at them, and interrupted runs do so too. On the demo model.
import assert from "node:assert/strict";
import type { RunOptions } from "../../lib/run/options/options.ts";
import type { MaskValues } from "../../lib/model/mod.ts";
import type { RunHandle, RunHooks } from "../../lib/run/mod.ts";
import { bitsOf, drive, interrupted, withShortDemo } from "./helpers/demo_run.ts";

const METHODS = ["compresso", "gradual"] as const;

/** A pattern of zeros and ones that no method chooses. */
function everyThird(values: ArrayLike<number>, from: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: values.length }, (_, column) => (column + from) % 3 === 0 ? 0 : 1);
}

/** Sets the masks of FFN columns at some steps of the pruning stage: before two of them, and after one. */
function setting(told: Map<number, Float32Array> = new Map()): RunHooks {
  const set = async (run: RunHandle): Promise<void> => {
    const ffn = everyThird((await run.masks()).ffn, run.step);
    run.setMasks({ ffn });
    told.set(run.step + 1, ffn);
  };
  return {
    // Steps 2 to 9 are of the pruning stage; "gradual" chooses before the fifth and the eighth.
    beforeStep: (run) => run.step === 2 || run.step === 4 ? set(run) : undefined,
    afterStep: (_, run) => run.step === 6 ? set(run) : undefined,
  };
}

for (const method of METHODS) {
  Deno.test(`the step after masks were set runs at them, and the one after that at its own: ${method}`, () =>
    withShortDemo(async ({ model }) => {
      const told = new Map<number, Float32Array>(), seen = new Map<number, MaskValues>(), hooks = setting(told);
      const watching: RunHooks = {
        ...hooks,
        afterStep: async (record, run) => {
          seen.set(run.step, await run.masks());
          await hooks.afterStep?.(record, run);
        },
      };
      const { records, result } = await drive(model, { method, hooks: watching });
      assert.deepEqual([...told.keys()], [3, 5, 7]);
      for (const [step, ffn] of told) assert.deepEqual(seen.get(step)?.ffn, ffn, `step ${step}`);
      // After the third and the seventh step "gradual" has nothing to choose yet.
      for (const step of method === "compresso" ? [4, 6, 8] : [8]) {
        const before = told.get(step - 1) ?? told.get(7);
        assert.notDeepEqual(seen.get(step)?.ffn, before, `step ${step}`);
      }
      assert.ok(Math.abs(result.sparsity.hard - 0.2) < 0.002, `${result.sparsity.hard}`);
      assert.deepEqual(records.map(({ step }) => step), Array.from({ length: 11 }, (_, index) => index + 1));
    }));

  Deno.test(`a run whose hooks set masks ends with the same bits where it was interrupted: ${method}`, () =>
    withShortDemo(async ({ model }) => {
      const options = (): Partial<RunOptions> => ({ method, hooks: setting() });
      const want = bitsOf(await drive(model, options()));
      // Within the step that was to run at them, and between what set them and that step.
      for (const at of [{ within: 4 }, 6]) {
        assert.equal(bitsOf(await interrupted(model, options(), at)), want, JSON.stringify(at));
      }
      assert.notEqual(bitsOf(await drive(model, { method })), want, "without hooks");
    }));
}
