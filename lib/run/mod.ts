/**
 * Import this entry to prune with more than the root has: memory planned beforehand, hooks, monitors, own methods,
 * several machines, and runs into sinks.
 *
 * @module
 */

// Memory and time beforehand.
export { forecast } from "./forecast.ts";
export { type MemoryPlan, planMemory } from "./memory/plan.ts";
export type { MemoryOptions } from "./options/options.ts";
export { adviseMemory, type MemoryAdvice } from "./memory/advice.ts";

// A run step by step.
export { prune } from "./prune.ts";
export { PruneSession } from "./session.ts";
export type { StepRecord } from "./contract.ts";
export type { RunHandle, RunHooks } from "./hooks.ts";
export type { PruneResult, RunSummary, SlicedModel } from "./result.ts";

// Into a folder, or another sink.
export { type FolderOptions, pruneToFolder, type PruneToFolderOptions } from "./prune_to_folder.ts";
export { runInto, type RunIntoOptions } from "./run_into.ts";
export type { RunSink } from "./sink/sink.ts";
export { folderSink } from "./sink/folder.ts";
export { memorySink } from "./sink/memory.ts";
export { CALIBRATION_SEQUENCES, writeCalibration } from "./calibration.ts";

// On several machines.
export { type MpiRanks, openMpi } from "../ranks/mpi.ts";

// Options.
export type { PruneOptions, ResolvedOptions } from "./options/options.ts";
export { defaultRates } from "./options/rates.ts";
export type { OwnMethod } from "./methods/method.ts";
export { presetOptions } from "./options/check.ts";
export { optionsOfRun } from "./options/again.ts";

// Monitors.
export type { Alarm, MonitorOptions } from "./monitors/alarm.ts";
export { AlarmError } from "./monitors/judge.ts";
