/**
 * Import this entry to run a grid of runs with their measures, or a sweep through sparsities, and report on all.
 *
 * @module
 */

// Defining.
export { defineExperiment } from "./definition.ts";
export { openExperiment } from "./open.ts";
export type {
  DataSource,
  Experiment,
  ExperimentDefinition,
  FileData,
  Filter,
  Grid,
  SelfAnsweredData,
  SelfWrittenData,
} from "./types.ts";
export type { CellOptions } from "./options.ts";

// Measures.
export type { ChoicesMeasure, EvaluateDefinition, RowsMeasure, TasksMeasure, TextMeasure } from "./types.ts";

// Running.
export { planExperiment, runExperiment } from "./run.ts";
export type {
  Cell,
  CellFailure,
  CellIdentity,
  CellModel,
  CellState,
  ExperimentOverrides,
  PlannedCell,
  RunExperimentOptions,
} from "./types.ts";

// Sweeps.
export { sweep, type SweepOptions } from "./sweep.ts";
export type { SweepPoint, SweepResult, SweepSize } from "./sweep_points.ts";

// Results.
export type { Contrast, ExperimentReport, ExperimentResult, Group, NumberName, ReportCell, Value } from "./types.ts";
export type { Difference, Spread } from "./statistics.ts";
