// What a run makes of its options and its place: the numbers of a step, its record, and what a checkpoint is bound to. Owns these forms; refuses the loop.
import type { StepState } from "../nn/step_state.ts";
import type { Batch } from "./batches.ts";
import type { RunIdentity, RunPosition } from "./checkpoint.ts";
import type { Model } from "./model.ts";
import type { PruneOptions, Rates, ResolvedOptions } from "./options.ts";
import type { Stage, StepRecord } from "./records.ts";
import { digestOf, type RunData } from "./run_data.ts";
import { adapterOf, type StepNumbers } from "./trainer.ts";

/** A step whose numbers are still on the GPU. */
export interface PendingStep {
  readonly index: number;
  readonly stage: Stage;
  readonly target: number | null;
  readonly rate: number;
  readonly batch: Batch;
  /** Sparsity of masks that are hard already; else null. */
  readonly hard: number | null;
}

/** The numbers of the step at a position; its batch decides the loss scale. */
export function stepStateOf(
  { seed }: Pick<ResolvedOptions, "seed">,
  { step, loraUpdates, maskUpdates }: Pick<RunPosition, "step" | "loraUpdates" | "maskUpdates">,
  { rate, target, rates }: { readonly rate: number; readonly target: number; readonly rates: Rates },
): StepState {
  return {
    seed,
    step,
    lossScale: 1,
    target,
    loraRate: rate,
    maskRate: rates.mask,
    lambdaRate: rates.lambda,
    noise: rates.noise,
    temperature: rates.temperature,
    loraUpdates: loraUpdates + 1,
    maskUpdates: maskUpdates + 1,
    clipNorm: rates.clipNorm,
    weightDecay: rates.weightDecay,
    tracking: rates.tracking,
    limit: rates.limit,
  };
}

/** The record of a step, once its numbers were read. */
export function recordOf(
  { stage, target, rate, batch, index, hard }: PendingStep,
  numbers: StepNumbers | undefined,
  run: Pick<StepRecord, "steps" | "tokensPerSecond" | "gpuBytes" | "plannedGpuBytes">,
): StepRecord {
  return {
    stage,
    step: index + 1,
    steps: run.steps,
    loss: numbers?.loss ?? NaN,
    target,
    expected: target === null ? null : hard ?? numbers?.projected ?? NaN,
    lambda1: numbers?.lambda1 ?? NaN,
    lambda2: numbers?.lambda2 ?? NaN,
    gradNorm: numbers?.gradNorm ?? NaN,
    learningRate: rate,
    tokens: batch.realTokens,
    labelTokens: batch.labelTokens,
    tokensPerSecond: run.tokensPerSecond,
    gpuBytes: run.gpuBytes,
    plannedGpuBytes: run.plannedGpuBytes,
  };
}

/** What a resumed run must share with its checkpoint. Whether layers are computed anew does not change a bit, and is no part of it. */
export function identityOf(
  { spec, weights, device }: Model,
  { report, digest }: Pick<RunData, "report" | "digest">,
  { options, schedule, given }: {
    readonly options: ResolvedOptions;
    readonly schedule: string;
    readonly given: PruneOptions;
  },
): RunIdentity {
  const { rows: _rows, recompute: _recompute, rates, lora, units, rules, size, ...plain } = options;
  return {
    ...plain,
    units: units.join(","),
    lora: JSON.stringify(lora),
    rates: JSON.stringify(rates),
    rules: JSON.stringify(rules),
    size: JSON.stringify(size),
    schedule,
    examples: `${report.examples} examples, ${report.tokens} tokens, ${digest}`,
    model: digestOf([JSON.stringify(spec)]),
    baseDtype: weights.baseDtype,
    adapter: adapterOf(device),
    ...given.checkpoint?.identity,
  };
}
