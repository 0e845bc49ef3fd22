/**
 * Import this entry to name a type that a signature of another entry mentions. It holds types alone.
 *
 * @module
 */

// Models.
export type { BaseDtype } from "../nn/weights.ts";
export type { AdapterOffer } from "../gpu/adapter.ts";
export type { LoraInput, ModelCallOptions } from "../model/input.ts";
export type { TopLogprobs } from "../nn/top_pass.ts";
export type { Convolution, ExpertCounts, Rope, RopeScaling, Router } from "../spec/decoder.ts";
export type { RowRange } from "../spec/source.ts";
export type { Provenance } from "../spec/provenance.ts";
export type { PeftAdapter, PeftWriteOptions } from "../formats/peft/adapter.ts";

// The Hugging Face Hub.
export type { HubFetched, HubProgress } from "../hub/fetch.ts";
export type { HubListener } from "../hub/http.ts";
export type { HubUse } from "../hub/name.ts";
export type { Uploaded, UploadOptions } from "../hub/upload.ts";

// Files.
export type {
  ByteSource,
  FileInfo,
  FolderOptions as StagedFolderOptions,
  Staged,
  StagedFile,
} from "../files/system.ts";

// Memory of a run.
export type { MemoryChange } from "../run/memory/plan.ts";
export type { MemoryBudget } from "../run/memory/advice.ts";
export type { MEMORY_PARTS as MemoryParts, MemoryPart } from "../gpu/memory_parts.ts";
export type { PlannedAdapter } from "../run/contract.ts";

// Options of a run.
export type { CheckpointOptions, Preset, RunOptions, Target, VocabularyOptions } from "../run/options/options.ts";
export type { Rates, RunChange, Stage, WantedSize } from "../run/contract.ts";
export type { Evaluation as RunEvaluation } from "../run/evaluation.ts";
export type { MethodChoice, MethodName, METHODS as Methods } from "../run/methods/all.ts";
export type { Objective } from "../nn/train/objective.ts";
export type { LOSSES as Losses, LossName } from "../../kernels/mod.ts";
export type { OptimizerName, OPTIMIZERS as Optimizers } from "../nn/train/optimizer.ts";
export type { UNIT_MEASURES as UnitMeasures, UnitMeasure, UnitSaliency } from "../masks/unit_saliency.ts";
export type { KINDS as UnitKinds } from "../units/kinds/all.ts";
export type { KeptRule } from "../masks/harden.ts";
export type { LambdaRule } from "../masks/lambda_rule.ts";
export type { StartRule } from "../masks/initial_log_alpha.ts";
export type { Check, CHECKS as Checks } from "../slice/verify.ts";
export type { SliceOptions } from "../run/session.ts";
export type { RunPhase, SinkOptions } from "../run/run_into.ts";
export type { ExpectedCut } from "../run/expected_cut.ts";
export type { UniformCounts } from "../units/uniform.ts";
export type { SavedScores } from "../run/experts/scores_file.ts";
export type { ExpertScores } from "../run/methods/experts.ts";
export type { ExpertsSummary } from "../run/experts/summary.ts";
export type { Ranked } from "../run/prune_to_folder.ts";
export type { Ranks } from "../ranks/ranks.ts";

// Sinks of a run.
export type { Beginning, DoneRun } from "../run/sink/sink.ts";
export type { FolderSinkOptions } from "../run/sink/folder.ts";
export type { MemorySinkOptions } from "../run/sink/memory.ts";
export type { RunOfMany, SharedWork } from "../run/shared_work.ts";

// Results of a run.
export type { FileBytes, MaskSummary, ModelBefore } from "../run/mask_summary.ts";
export type { PartSeconds, RUN_PARTS as RunParts, RunPart } from "../run/parts_of_time.ts";
export type { LossChange, QualityChange, TaskChange } from "../run/quality.ts";
export type { BitsPerByte, VocabularySummary } from "../run/vocabulary.ts";
export type { SizeResult } from "../run/size_goal.ts";
export type { OriginFile } from "../slice/export_options.ts";
export type { UndecidedUnits } from "../run/undecided.ts";
export type { HeldOutPoint, ValidationState } from "../run/contract.ts";
export type { ValidationSummary } from "../run/validation.ts";

// Monitors.
export type {
  AlarmAction,
  MonitorName,
  MonitorSetting,
  ResolvedMonitor,
  ResolvedMonitors,
} from "../run/monitors/alarm.ts";
export type { NamedOption, SpellOption } from "../core/errors.ts";
