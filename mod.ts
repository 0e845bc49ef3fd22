/**
 * Import this entry in programs that load a model, prune it, write the smaller model and generate text, and in schedule
 * scripts. Compresso prunes large language models structurally on WebGPU. The other entries have more of each part.
 *
 * @example
 * ```ts
 * import { demoData, loadModel, openDevice, prune, readRows } from "compresso";
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * const { rows } = await readRows(demoData("train"));
 * using run = prune(model, { rows, sparsity: 0.3, steps: 80, batch: 8, seq: 240 });
 * for await (const { step, loss } of run) console.log(step, loss);
 * await run.export("runs/mine");
 * ```
 *
 * @module
 */

// The GPU, and a model on it.
export { Device, openDevice } from "./lib/gpu/device.ts";
export { loadModel } from "./lib/local/load_model.ts";
export { loadModelFrom, type LoadModelOptions, Model } from "./lib/model/model.ts";

// Rows to learn from.
export { readRows } from "./lib/local/rows.ts";
export { demoData } from "./lib/local/open_model.ts";
export { type Row, toRow } from "./lib/data/row.ts";

// Pruning: a run step by step, or into a folder.
export { prune } from "./lib/run/prune.ts";
export { PruneSession } from "./lib/run/session.ts";
export type { PruneOptions } from "./lib/run/options/options.ts";
export type { StepRecord } from "./lib/run/contract.ts";
export { pruneToFolder, type PruneToFolderOptions } from "./lib/run/prune_to_folder.ts";
export type { PruneResult, RunSummary, SlicedModel } from "./lib/run/result.ts";

// Schedules, also for scripts.
export { defineSchedule } from "./lib/schedule/definition.ts";
export { constant, cosine, cubic, exponential, linear, steps } from "./lib/schedule/curves.ts";

// Cutting by masks of your own, and files.
export { type SliceInput, sliceModel } from "./lib/slice/slice.ts";
export { exportModel } from "./lib/local/export_model.ts";
export { type ExportResult } from "./lib/slice/export.ts";
export type { ExportOptions } from "./lib/slice/export_options.ts";

// Text.
export { generateText, type GenerateTextOptions } from "./lib/generate/text.ts";
export { type Chat, type ChatOptions, createChat } from "./lib/generate/chat.ts";

// Errors.
export { CompressoError, type ErrorCode, type ErrorParts, type SpellOption } from "./lib/core/errors.ts";
