/**
 * Import this entry to read rows to learn from: files of datasets, single rows, and the prompt before them.
 *
 * @module
 */

// Files.
export { type DataReport, type DataSet, type LeftOut, type ReadOptions } from "./rows.ts";
export { readRows } from "../local/rows.ts";
export type { Compression } from "./readers/bytes.ts";
export type { TextFormat } from "./readers/split.ts";

// Rows.
export { type ChatRow, type InstructRow, type Row, type RowFields, type TextRow, toRow } from "./row.ts";
export type { ChatMessage } from "../text/chat_template.ts";
export type { Json } from "../core/guards.ts";

// Prompts.
export { COLLABORATIVE_PROMPT } from "./prompts/encode.ts";
export type { PromptStyle } from "./prompts/format.ts";
export type { EncodeReport } from "./encode_report.ts";
