// Where a run stands: functions from a position and an event to the next position. A run is resumed by taking up a position.
import type { LayerState, RecordView } from "../schedule/definition.ts";
import { RECORDS_SEEN } from "../schedule/definition.ts";
import type { BatchCursor } from "../data/batches.ts";
import { GRADUAL_EVERY } from "../masks/gradual.ts";
import { kindOfMethod, type MethodChoice } from "./methods/all.ts";
import { FRESH_MONITORS } from "./monitors/watch.ts";
import type { PruneAim, RunPosition, Stage, StagePlan } from "./contract.ts";

/** Nothing was done yet for the next step. */
const NOTHING_DONE: Pick<RunPosition, "begun" | "seen"> = { begun: null, seen: null };

/** What a step changes in the position. */
export interface StepDone extends Pick<StagePlan, "stage" | "kind"> {
  /** Sparsity that it aimed at; null outside the pruning stage. */
  readonly target: number | null;
  readonly layers: RunPosition["layerTargets"];
  readonly aim: PruneAim | null;
  /** Its tokens without padding. */
  readonly tokens: number;
  readonly seconds: number;
  /** Where the batches stand after it. */
  readonly cursor: BatchCursor;
}

/** Position at the start of a run. */
export function firstPosition(cursor: BatchCursor): RunPosition {
  return {
    stage: 0,
    stageStep: 0,
    step: 0,
    loraUpdates: 0,
    maskUpdates: 0,
    cursor,
    records: 0,
    expected: null,
    target: null,
    layerTargets: null,
    ...NOTHING_DONE,
    leftOut: 0,
    recent: [],
    seconds: {},
    tokens: 0,
    aim: null,
    halvings: 0,
    alarms: [],
    unsaid: [],
    looked: 0,
    monitors: FRESH_MONITORS,
  };
}

/** Whether the next step is the first of its stage, and nothing of it was done yet. */
export function isBefore({ stageStep, begun }: RunPosition): boolean {
  return stageStep === 0 && begun === null;
}

/** Position after the start of a stage, or after the hook before a step. */
export function begun(position: RunPosition, what: "stage" | "step"): RunPosition {
  return { ...position, begun: what };
}

/** Position after a schedule has seen the layers. */
export function seeing(position: RunPosition, seen: readonly LayerState[]): RunPosition {
  return { ...position, seen };
}

/** Position after a step. */
export function afterStep(
  position: RunPosition,
  { stage, kind, target, layers, aim, tokens, seconds, cursor }: StepDone,
): RunPosition {
  return {
    ...position,
    ...NOTHING_DONE,
    target: target ?? position.target,
    layerTargets: target === null ? position.layerTargets : layers,
    aim,
    stageStep: position.stageStep + 1,
    step: position.step + 1,
    loraUpdates: position.loraUpdates + 1,
    maskUpdates: position.maskUpdates + (kind === "masks" ? 1 : 0),
    cursor,
    seconds: { ...position.seconds, [stage]: (position.seconds[stage] ?? 0) + seconds },
    tokens: position.tokens + tokens,
  };
}

/** Position after a schedule has ended a stage before its next step. */
export function endedEarly(position: RunPosition, { stage, steps }: Pick<StagePlan, "stage" | "steps">): RunPosition {
  const left = steps - position.stageStep;
  if (stage === "prune") return { ...position, leftOut: left };
  return { ...position, leftOutside: { ...position.leftOutside, [stage]: left } };
}

/** Position after the masks became hard. */
export function hardened(
  position: RunPosition,
  { target, expected }: { readonly target: number; readonly expected: number },
): RunPosition {
  return { ...position, target, expected, aim: null, begun: "hard" };
}

/** Position after the end of a stage. */
export function nextStage(position: RunPosition): RunPosition {
  return { ...position, stage: position.stage + 1, stageStep: 0, ...NOTHING_DONE };
}

/** Whether the masks were looked at after the last step. */
export function isLookedAt({ looked, step }: RunPosition): boolean {
  return looked === step;
}

/** Position after a look at the masks. */
export function lookedAt(position: RunPosition): RunPosition {
  return { ...position, looked: position.step };
}

/** Position from which a stage continues: its schedule may end it again, or not. */
export function reopened(position: RunPosition, stage: Stage | undefined): RunPosition {
  if (stage === undefined || position.begun === "hard") return position;
  if (stage === "prune") return { ...position, leftOut: 0 };
  const { [stage]: _ended, ...others } = position.leftOutside ?? {}, { leftOutside: _before, ...rest } = position;
  return Object.keys(others).length > 0 ? { ...rest, leftOutside: others } : rest;
}

/** Position at which a schedule sees the last of these records up to its step. */
export function recalling(position: RunPosition, records: readonly RecordView[]): RunPosition {
  const recent = records.filter((record) => record.step <= position.step).slice(-RECORDS_SEEN);
  return { ...position, recent };
}

/** Steps of a run, without the steps that a schedule has skipped so far. */
export function stepsOf(stages: readonly StagePlan[], { leftOut, leftOutside = {} }: RunPosition): number {
  return stages.reduce((sum, { stage, steps }) => sum + steps - (leftOutside[stage] ?? 0), -leftOut);
}

/** Whether the method chooses masks before the next step from the results of earlier steps, which must be finite then. */
export function choosesNext(
  { stageStep }: RunPosition,
  { stage, method }: { readonly stage: Stage | undefined; readonly method: MethodChoice },
): boolean {
  return kindOfMethod(method) === "gradual" && stage === "prune" && stageStep % GRADUAL_EVERY === 0;
}
