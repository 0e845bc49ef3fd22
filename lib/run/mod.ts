/**
 * Pruning runs: memory beforehand, options, steps, monitors, results.
 *
 * @module
 */

// Memory beforehand.
export { type MemoryChange, type MemoryPlan, planMemory } from "./memory/plan.ts";
export type { PlannedAdapter } from "./contract.ts";
export type { MemoryOptions } from "./options/options.ts";
export type { MemoryPart } from "../gpu/memory_parts.ts";
export { adviseMemory, type MemoryAdvice, type MemoryBudget } from "./memory/advice.ts";

// A run step by step.
export { prune } from "./prune.ts";
export { PruneSession, type SliceOptions } from "./session.ts";
export type { Evaluation } from "./evaluation.ts";
export type { LossChange, QualityChange, TaskChange } from "./quality.ts";
export type { Stage, StepRecord } from "./contract.ts";
export type { RecordView } from "../schedule/definition.ts";
export type { OriginFile } from "../slice/export_options.ts";
export type { RunHandle, RunHooks } from "./hooks.ts";
export type { FileBytes, MaskSummary, ModelBefore } from "./mask_summary.ts";

// Into a folder.
export { type FolderOptions, pruneToFolder, type PruneToFolderOptions } from "./prune_to_folder.ts";
export { runInto, type RunIntoOptions, type RunPhase, type SinkOptions } from "./run_into.ts";
export type { PruneResult, RunSummary, SlicedModel } from "./result.ts";
export type { UndecidedUnits } from "./undecided.ts";
export { CALIBRATION_SEQUENCES, writeCalibration } from "./calibration.ts";

// On several machines.
export { type MpiRanks, openMpi } from "../ranks/mpi.ts";
export type { Ranks } from "../ranks/ranks.ts";

// The vocabulary.
export type { BitsPerByte, VocabularySummary } from "./vocabulary.ts";
export type { VocabularyOptions } from "./options/options.ts";
export { chooseVocabulary, countTokens, type VocabularyChoice } from "../slice/vocabulary/choose.ts";
export { cutVocabulary } from "../slice/vocabulary/cut.ts";
export { cutModel } from "../slice/vocabulary/cut_model.ts";

// Options.
export type { CheckpointOptions, PruneOptions, ResolvedOptions, RunOptions, Target } from "./options/options.ts";
export type { Rates, RunChange, WantedSize } from "./contract.ts";
export { defaultRates } from "./options/rates.ts";
export type { MethodChoice, MethodName } from "./methods/all.ts";
export type { OwnMethod } from "./methods/method.ts";
export type { UnitMeasure, UnitSaliency } from "../masks/unit_saliency.ts";
export { presetOptions } from "./options/check.ts";
export type { Preset } from "./options/options.ts";
export type { KeptRule } from "../masks/harden.ts";
export type { LambdaRule } from "../masks/lambda_rule.ts";
export type { StartRule } from "../masks/initial_log_alpha.ts";
export type { SizeResult } from "./size_goal.ts";

// Monitors.
export type {
  Alarm,
  AlarmAction,
  MonitorName,
  MonitorOptions,
  MonitorSetting,
  ResolvedMonitor,
  ResolvedMonitors,
} from "./monitors/alarm.ts";
export { AlarmError } from "./monitors/judge.ts";
export type { NamedOption } from "../core/errors.ts";
