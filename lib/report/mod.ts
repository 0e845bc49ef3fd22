/**
 * Import this entry to make one HTML page of finished runs.
 *
 * @module
 */

// Reports.
export { readRun, type ReportRun } from "./read_run.ts";
export { type Evaluation, readEvaluation, type Score, type ScoreChange } from "./evaluation.ts";
export { renderReport, type ReportOptions } from "./report.ts";
