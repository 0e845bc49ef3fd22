/**
 * Import this entry to cut by a choice of your own: units, masks, vocabularies, slicing, and writing the result.
 *
 * @module
 */

// Units.
export { type LayerPart, type LayerUnits, type UnitGroup, type UnitTable, unitTable } from "../units/table.ts";
export type { UnitKind } from "../units/kinds/all.ts";
export type { MinimumWidths, ResolvedRules, UnitRules } from "../units/rules.ts";
export type { HeldUnits } from "../units/blocks.ts";
export type { Measure } from "../units/cut_state.ts";

// Choosing.
export { magnitudeScores, type Ranking, rankWithin } from "./baselines.ts";
export { hardSparsity, type SelectOptions, selectUnits, type SizeTarget } from "../units/selection.ts";
export type { Selection } from "../units/table.ts";
export { parameterTarget } from "../units/target_size.ts";
export { type UniformInput, uniformMasks } from "../slice/layouts.ts";
export type { Layout } from "../units/layout.ts";

// Masks.
export { selectionMasks } from "../units/table.ts";
export type { MaskKind, MaskValues, SlotLayout } from "../nn/mask_slots.ts";

// Slicing.
export { type MergeLora, type SliceInput, sliceModel } from "../slice/slice.ts";
export { keepExperts, type KeptExperts } from "../slice/experts.ts";
export { type ExpertUse, type ExpertUseOptions, type LayerUse, measureExperts } from "../slice/expert_use.ts";
export { padded, shallow } from "../slice/layouts.ts";
export { shallowLora, type SlicedLora, sliceLora } from "../slice/lora.ts";
export { type ImportanceOptions, measureImportance } from "../slice/importance.ts";
export type { Importance } from "../formats/gguf/importance.ts";
export { type VerifyInput, type VerifyResult, verifySliced } from "../slice/verify.ts";

// Vocabularies.
export { chooseVocabulary, countTokens, type VocabularyChoice } from "../slice/vocabulary/choose.ts";
export { cutVocabulary } from "../slice/vocabulary/cut.ts";
export { cutModel } from "../slice/vocabulary/cut_model.ts";

// Files.
export { exportModel } from "../local/export_model.ts";
export { type ExportResult } from "../slice/export.ts";
export type { ExportFormat, ExportOptions, GgufDtype, SessionExportOptions } from "../slice/export_options.ts";
export type { FileKind } from "../units/file_size.ts";
export type { GgufWriteType } from "../formats/gguf/mixes.ts";
export type { HfDtype } from "../formats/hf/export.ts";
