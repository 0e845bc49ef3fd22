// How decided learned masks are at the end of the pruning stage.
import { isScheduleName } from "../schedule/builtin.ts";
import type { UnitTable } from "../units/table.ts";
import type { Rates } from "./contract.ts";
import { kindOfMethod, type MethodChoice } from "./methods/all.ts";
import type { PruneOptions } from "./options/options.ts";

/** Shares of the units that learned masks leave undecided at the end of the pruning stage. */
export interface UndecidedUnits {
  /** Units whose probability of an open mask lies between 5 and 95 %. */
  readonly chance: number;
  /** Units whose mask without noise, clamp(1.2 · sigmoid(log α / β) − 0.1, 0, 1), lies between 0.05 and 0.95. */
  readonly value: number;
}

/** Measures log α at the end of the pruning stage; null if masks are not learned, or a script may have set β and noise. */
export function undecidedUnits(
  table: Pick<UnitTable, "count">,
  logAlpha: ArrayLike<number>,
  { method, schedule, rates: { temperature, noise } }: {
    readonly method: MethodChoice;
    readonly schedule: PruneOptions["schedule"];
    readonly rates: Pick<Rates, "temperature" | "noise">;
  },
): UndecidedUnits | null {
  const isKnown = schedule === undefined || (typeof schedule === "string" && isScheduleName(schedule));
  if (kindOfMethod(method) !== "learned" || !isKnown) return null;
  const between = (of: (logAlpha: number) => number): number => {
    let count = 0;
    for (let unit = 0; unit < table.count; unit++) {
      const value = of(logAlpha[unit] ?? 0);
      if (value > 0.05 && value < 0.95) count++;
    }
    return count / table.count;
  };
  return {
    // P(z > 0) as kernels/hard_concrete.wgsl has it.
    chance: between((one) => sigmoid((one + temperature * Math.log(11)) / Math.max(noise, 0.05))),
    // The bounds 0 and 1 of z make no difference between 0.05 and 0.95.
    value: between((one) => 1.2 * sigmoid(one / temperature) - 0.1),
  };
}

function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}
