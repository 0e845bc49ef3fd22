// The stages of a run by its method.
import type { StartRule } from "../../masks/initial_log_alpha.ts";
import type { Rates, StagePlan, StepKind } from "../contract.ts";
import { type MethodChoice, methodOf } from "./all.ts";
import type { Method } from "./method.ts";

/** What determines the stages of a run. */
export interface StageSteps {
  readonly method: MethodChoice;
  readonly prefinetune: number;
  readonly steps: number;
  readonly postfinetune: number;
}

/** Default steps of the first stage, given those of the pruning stage. */
export function firstStageSteps(steps: number): number {
  return Math.round(steps * 0.1);
}

/** Default steps of the last stage, given those of the pruning stage. */
export function lastStageSteps(steps: number): number {
  return Math.round(steps * 0.3);
}

/** Kind of step of the pruning stage, by kind of method; null for a one-shot method and one of experts, which have no such steps. */
export const CUTTING_STEPS = {
  learned: "masks",
  gradual: "gradual",
  "one-shot": null,
  experts: null,
} as const satisfies Record<
  Method["kind"],
  StepKind | null
>;

/** Stages of a method. A one-shot method uses the same total number of steps to train LoRA after the cut. */
export function stagesOf(
  { method, prefinetune, steps, postfinetune }: StageSteps,
): readonly StagePlan[] {
  const { kind } = methodOf(method);
  if (kind === "one-shot" || kind === "experts") {
    return [
      { stage: "prune", kind: "lora", steps: 0 },
      { stage: "postfinetune", kind: "lora", steps: prefinetune + steps + postfinetune },
    ];
  }
  return [
    { stage: "finetune", kind: "lora", steps: prefinetune },
    { stage: "prune", kind: CUTTING_STEPS[kind], steps },
    { stage: "postfinetune", kind: "lora", steps: postfinetune },
  ];
}

/** Whether learned masks use calibration rows in addition to the training rows, see {@link PruneOptions.calibration}. */
export function learnsBesideCalibration(
  { method, start, rates: { prior } }: {
    readonly method: MethodChoice;
    readonly start: StartRule;
    readonly rates: Pick<Rates, "prior">;
  },
): boolean {
  return methodOf(method).kind === "learned" && start === "saliency" && prior > 0;
}
