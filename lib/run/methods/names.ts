// How units are chosen: learned masks, gradual saliency, or a score in one shot. Owns the names and what each method does to the stages; refuses the loop.
import { ONE_SHOT_METHODS, type OneShotMethod } from "../../masks/baselines.ts";
import type { StepKind } from "../trainer.ts";
import type { ResolvedOptions } from "../options/options.ts";
import type { Stage } from "../records.ts";

/** Methods: Compresso's learned masks; gradual saliency; and one-shot scores, whose steps are all recovery. */
export const METHODS = ["compresso", "gradual", ...ONE_SHOT_METHODS] as const;
/** Name of a method. */
export type Method = typeof METHODS[number];

/** A stage of a run. */
export interface StagePlan {
  readonly stage: Stage;
  readonly kind: StepKind;
  readonly steps: number;
}

/** Whether the units are chosen once, before any training. */
export function isOneShot(method: Method): method is OneShotMethod {
  return method !== "compresso" && method !== "gradual";
}

/** Whether a value, as files have it, names a one-shot method. */
export function namesOneShot(method: unknown): boolean {
  return METHODS.some((one) => one === method && isOneShot(one));
}

/** Steps of the first stage where nothing is said of them, for so many of the pruning stage. */
export function firstStageSteps(steps: number): number {
  return Math.round(steps * 0.1);
}

/** Steps of the last stage where nothing is said of them, for so many of the pruning stage. */
export function lastStageSteps(steps: number): number {
  return Math.round(steps * 0.3);
}

/** Stages of a method: a one-shot method gives the same number of steps to the recovery of LoRA. */
export function stagesOf(
  { method, prefinetune, steps, postfinetune }: Pick<
    ResolvedOptions,
    "method" | "prefinetune" | "steps" | "postfinetune"
  >,
): readonly StagePlan[] {
  if (isOneShot(method)) {
    return [
      { stage: "prune", kind: "lora", steps: 0 },
      { stage: "postfinetune", kind: "lora", steps: prefinetune + steps + postfinetune },
    ];
  }
  return [
    { stage: "finetune", kind: "lora", steps: prefinetune },
    { stage: "prune", kind: method === "gradual" ? "gradual" : "masks", steps },
    { stage: "postfinetune", kind: "lora", steps: postfinetune },
  ];
}
