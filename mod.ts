/**
 * Compresso: structural pruning of large language models on WebGPU.
 *
 * @module
 */
export * from "./lib/errors.ts";
export { type AdapterFacts, Device, type DeviceOptions, openDevice } from "./lib/gpu/device.ts";
export {
  type DataReport,
  type DataSet,
  type InstructRow,
  readRows,
  type Row,
  type TextRow,
} from "./lib/io/datasets.ts";
export { demoData } from "./lib/io/open_model.ts";
export { COLLABORATIVE_PROMPT } from "./lib/io/prompts.ts";
export type { RowRange, WeightSource } from "./lib/io/source.ts";
export type { Tokenizer } from "./lib/io/tokenizer.ts";
export type { LoraConfig, LoraWeights } from "./lib/nn/lora.ts";
export type { MaskKind, MaskValues } from "./lib/nn/masks.ts";
export { type DecoderSpec, type LayerSpec, parameterCount, type Projection, type RopeScaling } from "./lib/nn/spec.ts";
export { magnitudeScores } from "./lib/prune/baselines.ts";
export { type Layout, padded, uniformMasks } from "./lib/prune/layouts.ts";
export { sliceModel } from "./lib/prune/slice.ts";
export {
  hardSparsity,
  selectionMasks,
  selectUnits,
  type UnitKind,
  type UnitTable,
  unitTable,
} from "./lib/prune/units.ts";
export { encodeChoices } from "./lib/run/choice_rows.ts";
export { exportModel, type ExportOptions, type ExportResult } from "./lib/run/export.ts";
export { generate, type GenerateOptions, generateText } from "./lib/run/generate.ts";
export {
  type Adapters,
  type GradientInput,
  type GradientResult,
  loadModel,
  loadModelFrom,
  type LoadModelOptions,
  type LoraInput,
  Model,
} from "./lib/run/model.ts";
export type { PruneOptions, Rates, ResolvedOptions } from "./lib/run/options.ts";
export { perplexity, type PerplexityOptions, type PerplexityResult } from "./lib/run/perplexity.ts";
export { compress, type CompressOptions } from "./lib/run/pipeline.ts";
export type { PruneResult } from "./lib/run/prune.ts";
export type { Stage, StepRecord } from "./lib/run/records.ts";
export { type ChoiceRow, scoreChoices, type ScoreOptions, type ScoreResult } from "./lib/run/score.ts";
export {
  prune,
  PruneSession,
  type RunSummary,
  type SessionExportOptions,
  type SlicedModel,
} from "./lib/run/session.ts";
export { type VerifyInput, type VerifyResult, verifySliced } from "./lib/run/verify.ts";
