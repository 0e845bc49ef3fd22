/**
 * Reports: finished runs as one HTML page.
 *
 * @module
 */

// Reports.
export { readRun, type ReportRun } from "./read_run.ts";
export { type Evaluation, readEvaluation, type Score, type ScoreChange } from "./evaluation.ts";
export { renderReport, type ReportOptions } from "./report.ts";
