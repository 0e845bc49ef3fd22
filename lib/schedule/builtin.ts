// The built-in schedules, by name.
import { checkNames } from "../core/check_options.ts";
import { checkWarmup, constant, cosine, cubic, described, exponential, linear } from "./curves.ts";
import { WARMUP } from "./ramp.ts";
import { defineSchedule, type Schedule, type ScheduleDefinition } from "./definition.ts";

/** Names of the built-in schedules, the default first. */
export const SCHEDULE_NAMES = [
  "cubic",
  "linear",
  "cosine",
  "exponential",
  "step",
  "constant",
] as const satisfies readonly ScheduleName[];
/** Name of a built-in schedule. */
export type ScheduleName = "cubic" | "linear" | "cosine" | "exponential" | "step" | "constant";

/** The schedule of a run that gives none, in words. */
export const DEFAULT_SCHEDULE = "cubic, the default";

/** Whether a text is the name of a built-in schedule. */
export function isScheduleName(text: string): text is ScheduleName {
  return SCHEDULE_NAMES.some((name) => name === text);
}

/**
 * A built-in schedule by name. It rises from 0 to the run's target sparsity, which it reaches at progress `warmup`, in
 * [0, 1]. "step" starts at a quarter of the target; "constant" holds the target from the first step.
 *
 * @throws CompressoError("usage") for a `warmup` out of range, and for other options.
 * @example
 * ```ts
 * import { builtinSchedule, evaluateSchedule } from "compresso/schedule";
 * const now = { stage: "prune", step: 9, steps: 10, progress: 1, sparsity: 0.3, records: [], layers: [] } as const;
 * if (evaluateSchedule(builtinSchedule("linear"), now).sparsity !== 0.3) throw new Error("target not reached");
 * ```
 */
export function builtinSchedule(name: ScheduleName, options: { readonly warmup?: number } = {}): Schedule {
  checkNames(options, { warmup: "number" }, { whose: "builtinSchedule" });
  const { warmup = WARMUP } = options;
  const ramp = { to: "target", warmup } as const;
  checkWarmup(name, warmup);
  const curves: { readonly [name in ScheduleName]: () => ScheduleDefinition["sparsity"] } = {
    cubic: () => cubic(ramp),
    linear: () => linear(ramp),
    cosine: () => cosine(ramp),
    exponential: () => exponential(ramp),
    // Four stairs of the same height, the last from the end of the warm-up on.
    step: () =>
      described(
        "step",
        ramp,
        ({ progress, sparsity }) =>
          warmup > 0 ? sparsity * Math.min(4, 1 + Math.floor(3 * (progress / warmup))) / 4 : sparsity,
      ),
    constant: () => constant("target"),
  };
  return defineSchedule({ sparsity: curves[name]() ?? 0 });
}
