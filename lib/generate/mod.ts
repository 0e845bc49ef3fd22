/**
 * Import this entry to write text with a model: prompts continued, chats, many texts at once, and rows to train on.
 *
 * @module
 */

// Continuing a prompt.
export { generateText, type GenerateTextOptions } from "./text.ts";
export { type FinishReason, generate, type GenerateOptions } from "./generate.ts";
export type { SamplingOptions } from "./sampling.ts";
export type { TokenTimes } from "./timed_tokens.ts";

// Many texts at once.
export { type BatchTextOptions, createTextBatch, type TextBatch, type TextBatchOptions } from "./text_batch.ts";
export { generateMany, type ManyRequest, type ManyText } from "./many.ts";

// Chats.
export { type Chat, type ChatAnswer, type ChatOptions, createChat } from "./chat.ts";
export type { ChatMessage } from "../text/chat_template.ts";

// Rows that a model writes.
export { type SelfDataOptions, type SelfDataSettings, type SelfText, writeTexts } from "./self_data.ts";
export { type SelfDataFileOptions, writeTextFile } from "./self_data_file.ts";
export { type AnswerSettings, type AnswersOptions, type OwnAnswer, writeAnswers } from "./answers.ts";
export { type AnswerFileOptions, writeAnswerFile } from "./answers_file.ts";
export type { SelfDataResult } from "./series_file.ts";
