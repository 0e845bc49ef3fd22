export { defaultRates } from "./lib/run/options/rates.ts";
/**
 * Compresso: structural pruning of large language models on WebGPU.
 *
 * @module
 */
export {
  benchModels,
  type ModelBenchOptions,
  type ModelBenchResult,
  type ModelBenchRow,
  type ModelFigures,
  type NamedModel,
} from "./lib/bench/models.ts";
export type { Repeats } from "./lib/bench/stats.ts";
export * from "./lib/core/errors.ts";
export { compareItems, comparePerplexity, type PairedDifference, type PerplexityRatio } from "./lib/eval/compare.ts";
export { type EvaluateOptions, type EvaluateResult, evaluateTasks } from "./lib/eval/evaluate.ts";
export type { ItemScore, TaskScore } from "./lib/eval/metrics.ts";
export { TASK_NAMES } from "./lib/eval/registry.ts";
export { defineTask, type TaskDefinition, type TaskItem, type TaskRow } from "./lib/eval/task.ts";
export { type AdapterOffer, describeAdapter } from "./lib/gpu/adapter.ts";
export {
  type AdapterFacts,
  type DeviceBuffer,
  type DeviceLimits,
  type DeviceOptions,
  type DeviceTexture,
  type MemoryUse,
  type Resource,
  type TexelRows,
} from "./lib/gpu/types.ts";
export { Device, openDevice } from "./lib/gpu/device.ts";
export type { BufferRange } from "./lib/gpu/read_back.ts";
export type { MemoryShortage } from "./lib/gpu/shortage.ts";
export type { ChatMessage } from "./lib/text/chat_template.ts";
export {
  type ChatRow,
  type DataReport,
  type DataSet,
  type InstructRow,
  type LeftOut,
  type ReadOptions,
  readRows,
  type Row,
  type TextRow,
} from "./lib/data/rows.ts";
export { type RowFields, toRow } from "./lib/data/row.ts";
export type { Compression } from "./lib/data/readers/bytes.ts";
export type { TextFormat } from "./lib/data/readers/split.ts";
export type { FileKind } from "./lib/units/file_size.ts";
export type { GgufWriteType } from "./lib/formats/gguf/quant.ts";
export type { HfDtype } from "./lib/formats/hf/export.ts";
export { demoData, type ModelFiles, openModelFiles } from "./lib/formats/open_model.ts";
export { openSpec } from "./lib/formats/open_spec.ts";
export {
  type PeftAdapter,
  type PeftWriteOptions,
  readPeftAdapter,
  writePeftAdapter,
} from "./lib/formats/peft/adapter.ts";
export { COLLABORATIVE_PROMPT, type PromptStyle } from "./lib/data/prompts/encode.ts";
export type { BlockOptions, RowRange, WeightSource } from "./lib/spec/source.ts";
export type { Tokenizer } from "./lib/text/tokenizer.ts";
export type { Json } from "./lib/core/guards.ts";
export { type LoraConfig, loraScale, type LoraWeights } from "./lib/spec/lora.ts";
export {
  type MaskKind,
  type MaskValues,
  packMasks,
  type SlotLayout,
  slotLayout,
  unpackMasks,
} from "./lib/nn/mask_slots.ts";
export type { Matrix, MatrixDtype, MatrixPlacement, MatrixShard } from "./lib/nn/products/matrix.ts";
export type { QuantRows } from "./lib/spec/quant.ts";
export { createTreeBuilder, type Sequence, type TokenTree, type TreeBuilder } from "./lib/nn/token_tree.ts";
export type { LayerWeights, Weights } from "./lib/nn/weights.ts";
export { type Evaluation, readEvaluation, type Score, type ScoreChange } from "./lib/report/evaluation.ts";
export { type LineChart, lineChart } from "./lib/report/line_chart.ts";
export type { Axis, LineSeries, PanelMark, Point, SeriesStyle } from "./lib/report/line_panel.ts";
export { readRun, type ReportRun, type ReportSummary } from "./lib/report/read_run.ts";
export { renderReport, type ReportOptions } from "./lib/report/report.ts";
export type { TopLogprobs } from "./lib/nn/top_pass.ts";
export {
  type DecoderSpec,
  type LayerSpec,
  parameterCount,
  type Projection,
  projectionName,
  PROJECTIONS,
  type RopeScaling,
  tensorShapes,
} from "./lib/spec/decoder.ts";
export { magnitudeScores, type Ranking, RANKINGS, rankWithin } from "./lib/masks/baselines.ts";
export { type Layout, LAYOUTS } from "./lib/units/layout.ts";
export { padded, shallow, type UniformInput, uniformMasks } from "./lib/slice/layouts.ts";
export { builtinSchedule, SCHEDULE_NAMES, type ScheduleName } from "./lib/schedule/builtin.ts";
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
} from "./lib/schedule/curves.ts";
export { evaluateSchedule, type ScheduleOutput } from "./lib/schedule/output.ts";
export {
  type Curve,
  type CurveInput,
  defineSchedule,
  type FrozenUnits,
  type LastStageDefinition,
  type LayerState,
  type LoopNumber,
  LORA_RATES,
  type LoraCurves,
  OUTER_RATES,
  OUTER_STAGES,
  type OuterStage,
  RATE_NAMES,
  type RateName,
  RECORDS_SEEN,
  type RecordView,
  type Schedule,
  type ScheduleDefinition,
  type ScheduleInput,
  type SchedulePart,
  type StageDefinition,
} from "./lib/schedule/definition.ts";
export { type MergeLora, type SliceInput, sliceModel } from "./lib/slice/slice.ts";
export { shallowLora, type SlicedLora, sliceLora } from "./lib/slice/lora.ts";
export { KEPT_RULES, type KeptRule } from "./lib/masks/harden.ts";
export { LAMBDA_RULES, type LambdaRule } from "./lib/masks/lambda_rule.ts";
export { START_RULES, type StartRule } from "./lib/masks/start.ts";
export {
  hardSparsity,
  keptUnits,
  type Selection,
  selectionMasks,
  selectUnits,
  UNIT_KINDS,
  type UnitGroup,
  type UnitKind,
  type UnitTable,
  unitTable,
} from "./lib/units/units.ts";
export type { EncodeReport } from "./lib/data/encode_report.ts";
export { type Chat, type ChatAnswer, type ChatOptions, createChat } from "./lib/generate/chat.ts";
export { type ChoiceOptions, encodeChoices } from "./lib/eval/choice_rows.ts";
export { exportModel, type ExportResult } from "./lib/slice/export.ts";
export { type FinishReason, generate, type GenerateOptions } from "./lib/generate/generate.ts";
export { generateText, type GenerateTextOptions } from "./lib/generate/text.ts";
export { type MemoryChange, type MemoryPlan, planMemory } from "./lib/run/memory/plan.ts";
export { adviseMemory, fits, type MemoryAdvice, type MemoryBudget } from "./lib/run/memory/advice.ts";
export { MEMORY_PARTS, type MemoryPart } from "./lib/run/memory/parts.ts";
export {
  type Adapters,
  type GradientInput,
  type GradientResult,
  loadModel,
  loadModelFrom,
  type LoadModelOptions,
  type LoraInput,
  Model,
  type ModelCallOptions,
} from "./lib/model/model.ts";
export type { RunHandle, RunHooks } from "./lib/run/hooks.ts";
export type { FileBytes, MaskSummary, ModelBefore } from "./lib/run/mask_summary.ts";
export { type Method, METHODS } from "./lib/run/methods/names.ts";
export type { CheckpointOptions, PruneOptions, ResolvedOptions } from "./lib/run/options/options.ts";
export {
  type Alarm,
  ALARM_ACTIONS,
  type AlarmAction,
  MONITOR_NAMES,
  type MonitorName,
  type MonitorOptions,
  type MonitorSetting,
  type ResolvedMonitor,
  type ResolvedMonitors,
} from "./lib/run/monitors/alarm.ts";
export { AlarmError } from "./lib/run/monitors/judge.ts";
export { type Preset, type PresetOptions, presetOptions, PRESETS } from "./lib/run/options/presets.ts";
export type { SizeResult } from "./lib/run/size_goal.ts";
export { perplexity, type PerplexityOptions, type PerplexityResult, type WindowLoss } from "./lib/eval/perplexity.ts";
export { pruneToFolder, type PruneToFolderOptions } from "./lib/run/prune_to_folder.ts";
export type { PreparedRun, PruneResult, PruneRun } from "./lib/run/prune_result.ts";
export type {
  MemoryOptions,
  PlannedAdapter,
  Rates,
  RunChange,
  Stage,
  StepRecord,
  WantedSize,
} from "./lib/run/contract.ts";
export type { SamplingOptions } from "./lib/generate/sampling.ts";
export type { TokenTimes } from "./lib/generate/timed_tokens.ts";
export { type OpenSchedule, openSchedule, type OpenScheduleOptions, type ScheduleSource } from "./lib/schedule/host.ts";
export type { IsolationLimits } from "./lib/schedule/sandbox/process.ts";
export {
  type ChoiceRow,
  type LikelihoodOptions,
  logLikelihoods,
  type RowScore,
  scoreChoices,
  type ScoreOptions,
  type ScoreResult,
} from "./lib/eval/score.ts";
export { CALIBRATION_SEQUENCES, writeCalibration } from "./lib/run/calibration.ts";
export { type SelfDataOptions, type SelfDataSettings, type SelfText, writeTexts } from "./lib/generate/self_data.ts";
export { type SelfDataFileOptions, type SelfDataResult, writeTextFile } from "./lib/generate/self_data_file.ts";
export type { ExportFormat, ExportOptions, SessionExportOptions } from "./lib/slice/export_options.ts";
export { prune, PruneSession, type RunSummary, type SlicedModel } from "./lib/run/session.ts";
export { type VerifyInput, type VerifyResult, verifySliced } from "./lib/slice/verify.ts";
export { type LikelyToken, type PlaceLogprobs, tokenLogprobs, type TokenLogprobsOptions } from "./lib/eval/logprobs.ts";
export type { RequestRecord } from "./lib/serve/handler.ts";
export type { ServeLimits } from "./lib/serve/limits.ts";
export { type ModelServer, serveModel, type ServeOptions } from "./lib/serve/serve.ts";
export type { Subgroups } from "./lib/gpu/subgroups.ts";
export type { HeldUnits } from "./lib/units/pieces.ts";
export type { SelectOptions, SizeTarget } from "./lib/units/selection.ts";
export { parameterTarget, restPerDim } from "./lib/units/target_size.ts";
export type { Measure } from "./lib/units/tally.ts";
export type { MinimumWidths, ResolvedRules, UnitRules } from "./lib/units/rules.ts";
export type { LayerPart, LayerUnits } from "./lib/units/table.ts";
export { defineExperiment } from "./lib/experiment/definition.ts";
export { openExperiment } from "./lib/experiment/open.ts";
export type { CellOptions } from "./lib/experiment/options.ts";
export { planExperiment, runExperiment } from "./lib/experiment/run.ts";
export type { Difference, Spread } from "./lib/experiment/statistics.ts";
export { rowPerplexity, type RowPerplexityOptions, type RowPerplexityResult } from "./lib/eval/row_perplexity.ts";
export type {
  Cell,
  CellFailure,
  CellIdentity,
  CellModel,
  CellState,
  ChoicesMeasure,
  Contrast,
  DataSource,
  EvaluateDefinition,
  Experiment,
  ExperimentDefinition,
  ExperimentOverrides,
  ExperimentReport,
  ExperimentResult,
  FileData,
  Filter,
  Grid,
  Group,
  NumberName,
  PlannedCell,
  ReportCell,
  RowsMeasure,
  RunExperimentOptions,
  SelfWrittenData,
  TasksMeasure,
  TextMeasure,
  Value,
} from "./lib/experiment/types.ts";
