/**
 * Import this entry in a browser, or wherever there is WebGPU but no disk: it opens a model from bytes, files or URLs,
 * prunes it, and returns files in memory or keeps them in the origin's private file system. It uses nothing of Deno or Node.js.
 *
 * @module
 */

// The GPU, and a model on it.
export { Device, openDevice } from "../gpu/device.ts";
export type { DeviceOptions } from "../gpu/types.ts";
export { type ModelFile, openModel, openModelFiles } from "./open.ts";
export { loadModelFrom, type LoadModelOptions, Model } from "../model/model.ts";

// Pruning.
export { prune, type PrunedFiles, pruneInMemory, pruneToFiles, type PruneToFilesOptions } from "./prune.ts";
export type { PlaceOptions, Unsaved } from "../run/sink/files.ts";
export type { PruneSession } from "../run/session.ts";
export type { PruneOptions } from "../run/options/options.ts";
export type { RunIntoOptions } from "../run/run_into.ts";
export type { PruneResult, RunSummary, SlicedModel } from "../run/result.ts";
export type { StepRecord } from "../run/contract.ts";
export { constant, cosine, cubic, exponential, linear, steps } from "../schedule/curves.ts";
export { defineSchedule } from "../schedule/definition.ts";

// Rows to learn from.
export { readRows } from "./open.ts";
export { type Row, toRow } from "../data/row.ts";

// Text.
export { generateText, type GenerateTextOptions } from "../generate/text.ts";
export { type Chat, type ChatOptions, createChat } from "../generate/chat.ts";

// Files.
export type { FileSystem } from "../files/system.ts";
export { type MemoryFiles, memoryFiles } from "../files/memory.ts";
export { originFiles } from "./origin.ts";
export {
  type DirectoryFiles,
  directoryFiles,
  type DirectoryHandle,
  type FileHandle,
  type FileWriter,
} from "../files/directory.ts";

// Errors.
export { CompressoError } from "../core/errors.ts";
