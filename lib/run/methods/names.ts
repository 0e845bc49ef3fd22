// Names of the methods, and the stages of each.
import { ONE_SHOT_METHODS, type OneShotMethod } from "../../masks/baselines.ts";
import type { StartRule } from "../../masks/initial_log_alpha.ts";
import type { Rates, StagePlan } from "../contract.ts";

/** Methods: Compresso's learned masks; gradual saliency; and one-shot scores, whose steps are all recovery. */
export const METHODS = ["compresso", "gradual", ...ONE_SHOT_METHODS] as const satisfies readonly Method[];
/** Name of a method. */
export type Method = "compresso" | "gradual" | "magnitude" | "random" | "taylor" | "wanda-sp" | "flap";

/** What determines the stages of a run. */
export interface StageSteps {
  readonly method: Method;
  readonly prefinetune: number;
  readonly steps: number;
  readonly postfinetune: number;
}

/** Whether the units are chosen once, before any training. */
export function isOneShot(method: Method): method is OneShotMethod {
  return method !== "compresso" && method !== "gradual";
}

/** Whether a value read from a file names a one-shot method. */
export function namesOneShot(method: unknown): boolean {
  return METHODS.some((one) => one === method && isOneShot(one));
}

/** Default steps of the first stage, given those of the pruning stage. */
export function firstStageSteps(steps: number): number {
  return Math.round(steps * 0.1);
}

/** Default steps of the last stage, given those of the pruning stage. */
export function lastStageSteps(steps: number): number {
  return Math.round(steps * 0.3);
}

/** Stages of a method. A one-shot method uses the same total number of steps to train LoRA after the cut. */
export function stagesOf(
  { method, prefinetune, steps, postfinetune }: StageSteps,
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

/** Whether learned masks use calibration rows in addition to the training rows, see {@link PruneOptions.calibration}. */
export function learnsBesideCalibration(
  { method, start, rates: { prior } }: {
    readonly method: Method;
    readonly start: StartRule;
    readonly rates: Pick<Rates, "prior">;
  },
): boolean {
  return method === "compresso" && start === "saliency" && prior > 0;
}
