// At which steps masks are looked at, and that masks which turn with any small period are seen turning there. Without a GPU.
import assert from "node:assert/strict";
import { lookStepsOf } from "../../lib/run/monitors/look_steps.ts";
import { watchTurns } from "../../lib/run/monitors/oscillation.ts";
import { turningLook } from "./helpers/looks.ts";
import type { MaskHistory } from "../../lib/run/contract.ts";

const STEPS = [12, 24, 33, 50, 64, 65, 96, 97, 130, 160, 161, 200, 280, 1000];
const setting = { action: "warn", threshold: 0.25 } as const;

/** Steps at which a run's masks are looked at. */
function looksOf(steps: number): number[] {
  const { looksAt } = lookStepsOf(steps);
  return Array.from({ length: steps }, (_, index) => index + 1).filter(looksAt);
}

/** The first look at which the masks are found to oscillate, one unit for each function of the step; null without one. */
function firstAlarm(looks: readonly number[], units: readonly ((step: number) => boolean)[]): number | null {
  let history: MaskHistory | null = null;
  for (const step of looks) {
    const closed = Uint8Array.from(units, (isClosed) => isClosed(step) ? 1 : 0);
    const watched = watchTurns(history, turningLook(closed), { isHard: false, setting });
    history = watched.history;
    if (watched.found.length > 0) return step;
  }
  return null;
}

Deno.test("masks that turn with any period up to 8 are found out in runs of any length, whatever the phase", () => {
  for (const steps of STEPS) {
    const looks = looksOf(steps);
    for (let period = 2; period <= 8; period++) {
      // Shorter runs have no three ways back to see.
      if (steps < 3 * period) continue;
      for (let phase = 0; phase < period; phase++) {
        const isClosed = (step: number): boolean => (step + phase) % period < period >> 1;
        const alarm = firstAlarm(looks, [isClosed, isClosed, () => false, () => true]);
        assert.ok(alarm !== null, `${steps} steps, period ${period}, phase ${phase}: no alarm`);
        assert.ok(alarm < 100, `${steps} steps, period ${period}, phase ${phase}: only at step ${alarm}`);
      }
      // Units that turn at different steps.
      const units = Array.from(
        { length: period },
        (_, phase) => (step: number): boolean => (step + phase) % period < period >> 1,
      );
      assert.ok(firstAlarm(looks, units) !== null, `${steps} steps, period ${period}, all phases: no alarm`);
    }
  }
});

Deno.test("masks that close one after the other, and some of them open once more, do not oscillate", () => {
  for (const steps of STEPS) {
    const units = Array.from({ length: 40 }, (_, unit) => (step: number): boolean => {
      const at = (unit + 1) * steps / 80;
      return step >= at && !(unit % 2 === 0 && step >= at + steps / 10 && step < at + steps / 5);
    });
    assert.equal(firstAlarm(looksOf(steps), units), null, `${steps} steps`);
  }
});

Deno.test("looks are few in long runs and at most 8 steps apart, states are kept every 4 to 8 steps and only where there is a look", () => {
  const distances = (steps: readonly number[]): number[] =>
    steps.slice(1).map((step, index) => step - (steps[index] ?? 0));
  for (const steps of STEPS) {
    const { looksAt, keepsAt } = lookStepsOf(steps), looks = looksOf(steps);
    assert.ok(looks.length <= Math.max(45, steps / 6), `${looks.length} looks in ${steps} steps`);
    assert.ok(Math.max(...distances(looks)) <= 8);
    const kept = Array.from({ length: steps + 1 }, (_, step) => step).filter(keepsAt);
    assert.ok(kept.every(looksAt));
    assert.ok(distances(kept).every((distance) => distance >= 4 && distance <= 8), `${steps} steps: ${kept}`);
  }
});
