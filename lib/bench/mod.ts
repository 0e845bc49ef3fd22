/**
 * Import this entry to measure how fast models are.
 *
 * @module
 */

// Latency and throughput.
export {
  benchModels,
  type ModelBenchOptions,
  type ModelBenchResult,
  type ModelBenchRow,
  type ModelFigures,
  type NamedModel,
} from "./models.ts";
export type { Repeats } from "./stats.ts";
