/**
 * Import this entry to define, open or evaluate schedules. A schedule decides how a run reaches its target sparsity. It
 * is built in, defined in a program, or a script.
 *
 * @module
 */

// Defining.
export {
  type Curve,
  type CurveInput,
  defineSchedule,
  type FrozenUnits,
  type LastStageDefinition,
  type LoopNumber,
  type LoraCurves,
  type OuterStage,
  type RateName,
  type Schedule,
  type ScheduleDefinition,
  type SchedulePart,
  type StageDefinition,
} from "./definition.ts";

// Curves.
export {
  constant,
  cosine,
  cubic,
  type CurveFunction,
  exponential,
  type ExponentialOptions,
  linear,
  type RampOptions,
  steps,
} from "./curves.ts";

// What a schedule sees.
export type { LayerState, RecordView, ScheduleInput } from "./definition.ts";

// Opening and asking.
export { type OpenSchedule, type OpenScheduleOptions, type ScheduleSource } from "./open.ts";
export { openSchedule } from "./host.ts";
export type { IsolationLimits } from "./sandbox/process.ts";
export { builtinSchedule, type ScheduleName } from "./builtin.ts";
export { evaluateSchedule, type ScheduleOutput } from "./output.ts";

// Errors.
export { CompressoError } from "../core/errors.ts";
