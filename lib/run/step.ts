// One step of a run as numbers: its aim, its input for the GPU, its record, and the position after it.
import type { StepState } from "../nn/train/step_state.ts";
import { heldUnits } from "./frozen.ts";
import { GRADUAL_EVERY } from "../masks/gradual.ts";
import { progressOf, stageRate } from "../schedule/ramp.ts";
import { leastUniform } from "../units/uniform.ts";
import { hardSparsity } from "../units/selection.ts";
import { keptUnits, type UnitTable } from "../units/table.ts";
import { kindOfMethod, type MethodChoice } from "./methods/all.ts";
import type { Batch } from "../data/batches.ts";
import type { StepToSearch } from "./monitors/find_cause.ts";
import { type MaskSummary, openMasks } from "./mask_summary.ts";
import { cutsOf, lookAtMasks } from "./monitors/mask_look.ts";
import type { ResolvedOptions } from "./options/options.ts";
import { slowedRates } from "./options/rates.ts";
import type { RunSetup } from "./allocate.ts";
import type { Steered, Steering } from "./steering.ts";
import type {
  MaskLook,
  PruneAim,
  Rates,
  RunPosition,
  Stage,
  StagePlan,
  StepNumbers,
  StepRates,
  StepRecord,
  TrainerArrays,
} from "./contract.ts";

/** A step whose numbers are still on the GPU. */
export interface PendingStep {
  readonly index: number;
  readonly stage: Stage;
  readonly target: number | null;
  readonly rate: number;
  readonly batch: Batch;
  /** Sparsity of masks that are hard already; else null. */
  readonly hard: number | null;
  /** Its aim in the pruning stage; otherwise null. */
  readonly aim: PruneAim | null;
}

/** A step before it runs. */
export interface PreparedStep extends StepToSearch, PendingStep {
  readonly layers: Steering["layers"];
}

/** How monitors judge a step of the pruning stage. */
export function aimOf(
  { rates: { temperature, noise, warmup }, layers, freeze }: Steering,
  { step, steps, last, method, table }: {
    readonly step: number;
    readonly steps: number;
    /** Aim of the previous step. */
    readonly last: PruneAim | null;
    readonly method: MethodChoice;
    readonly table: UnitTable;
  },
): PruneAim {
  const isGradual = kindOfMethod(method) === "gradual";
  // Gradual saliency has cut nothing before it chooses for the first time.
  const isWarm = progressOf(step, steps) >= warmup && (!isGradual || step >= GRADUAL_EVERY);
  // Between choices, its masks are those of an earlier step.
  const isOld = isGradual && step % GRADUAL_EVERY !== 0 && last !== null;
  const isBound = isOld ? last.isBound : !layers?.some((goal) => goal !== null) && !heldUnits(table, freeze);
  return { temperature, noise, isWarm, isBound };
}

/**
 * The aim at which masks are made hard: that of the last step, or 0 if a schedule ended the stage before its first
 * step. `isSkipped` means that nothing is cut then. A uniform layout still makes all layers alike.
 */
export function lastAim(
  { layerTargets: layers, aim, target, leftOut, stageStep }: RunPosition,
  { table, options: { size, sparsity, rates, layout } }: Pick<RunSetup, "table" | "options">,
): Pick<Steering, "target" | "layers"> & Pick<Rates, "temperature"> & { readonly isSkipped: boolean } {
  const isOver = stageStep === 0 && leftOut > 0 && !size, { temperature } = aim ?? rates;
  const isSkipped = isOver && !(layout === "uniform" && leastUniform(table) > 0);
  return { isSkipped, target: isOver ? 0 : target ?? sparsity, layers, temperature };
}

/**
 * Numbers of a step, halved as often as the run's rates are: the rates with what a schedule sets outside the pruning
 * stage; LoRA's learning rate, by default that of the stage; the target, null outside the pruning stage; and the share
 * of the labels that it learns from.
 */
export function stepNumbers(
  { stage, steps }: Pick<StagePlan, "stage" | "steps">,
  position: Pick<RunPosition, "stageStep" | "halvings" | "halvedBefore">,
  { options, steering, set }: Pick<Steered, "steering" | "set"> & {
    readonly options: Pick<ResolvedOptions, "rates" | "focus">;
  },
): Pick<PreparedStep, "rate" | "target" | "focus"> & { readonly rates: StepRates } {
  const isLast = stage === "postfinetune", { focus = isLast ? options.focus : 1, ...numbers } = set;
  const { lora } = numbers, own = lora === undefined ? {} : { postfinetune: lora };
  const rates = slowedRates<StepRates>({ ...steering?.rates ?? options.rates, ...numbers, ...own }, position);
  const rate = lora === undefined
    ? stageRate(stage, rates)(progressOf(position.stageStep, steps))
    : isLast
    ? rates.postfinetune
    : rates.lora;
  return { rates, rate, target: steering?.target ?? null, focus };
}

/** The numbers of the step at a position; its batch decides the loss scale. */
export function stepStateOf(
  { seed, lambdaRule, lora }: Pick<ResolvedOptions, "seed" | "lambdaRule" | "lora">,
  { step, loraUpdates, maskUpdates }: Pick<RunPosition, "step" | "loraUpdates" | "maskUpdates">,
  { rate, target, rates }: { readonly rate: number; readonly target: number; readonly rates: StepRates },
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
    limit: rates.logAlphaLimit,
    lambdaAdam: lambdaRule === "adam",
    dropout: rates.dropout ?? lora.dropout,
  };
}

/** The records of steps that took so many seconds, once their numbers were read. */
export function recordsOf(
  pending: readonly PendingStep[],
  numbers: readonly StepNumbers[],
  { seconds, ...run }: Pick<StepRecord, "steps" | "gpuBytes" | "plannedGpuBytes"> & { readonly seconds: number },
): StepRecord[] {
  const tokens = pending.reduce((sum, { batch }) => sum + batch.realTokens, 0);
  const tokensPerSecond = tokens / Math.max(1e-6, seconds);
  return pending.map((step, index) => recordOf(step, numbers[index], { ...run, tokensPerSecond }));
}

function recordOf(
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
    layers: null,
    alarms: [],
  };
}

/** The masks of a run at a position. */
export function lookOf(
  { table, options: { method } }: Pick<RunSetup, "table" | "options">,
  arrays: TrainerArrays,
  { aim }: RunPosition,
): MaskLook {
  return lookAtMasks(table, arrays, { learned: kindOfMethod(method) === "learned" ? aim : null });
}

/** The expected share that stays of each head, and of ranges of the other units, at a position. */
export function masksOf(
  { table, options: { method } }: Pick<RunSetup, "table" | "options">,
  arrays: TrainerArrays,
  { aim }: RunPosition,
): MaskSummary {
  return openMasks(table, cutsOf(table, arrays, { learned: kindOfMethod(method) === "learned" ? aim : null }));
}

/** Hard masks of a run at a position, and their sparsity. */
export function hardLookOf(
  parts: Pick<RunSetup, "table" | "options">,
  arrays: TrainerArrays,
  position: RunPosition,
): { readonly look: MaskLook; readonly hard: number } {
  const { table } = parts;
  return { look: lookOf(parts, arrays, position), hard: hardSparsity(table, keptUnits(table, arrays.slots)) };
}
