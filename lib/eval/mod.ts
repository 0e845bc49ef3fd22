/**
 * Measuring models: tasks, perplexity, choices, and whether two models differ.
 *
 * @module
 */

// Tasks.
export { type EvaluateOptions, type EvaluateResult, evaluateTasks } from "./evaluate.ts";
export type { ItemScore, TaskScore } from "./metrics.ts";
export { defineTask, type TaskDefinition, type TaskItem, type TaskRow } from "./task.ts";

// Perplexity.
export { perplexity, type PerplexityOptions, type PerplexityResult, type WindowLoss } from "./perplexity.ts";
export { rowPerplexity, type RowPerplexityOptions, type RowPerplexityResult } from "./row_perplexity.ts";

// Choices and likelihoods.
export { type ChoiceOptions, encodeChoices } from "./choice_rows.ts";
export {
  type ChoiceRow,
  type LikelihoodOptions,
  logLikelihoods,
  type RowScore,
  scoreChoices,
  type ScoreOptions,
  type ScoreResult,
} from "./score.ts";
export type { Sequence } from "../nn/token_tree.ts";
export { type LikelyToken, type PlaceLogprobs, tokenLogprobs, type TokenLogprobsOptions } from "./logprobs.ts";

// Two models.
export { compareItems, comparePerplexity, type PairedDifference, type PerplexityRatio } from "./compare.ts";
