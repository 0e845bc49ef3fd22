/**
 * Import this entry to measure models: tasks, perplexity, choices, and whether two models differ.
 *
 * @module
 */

// Tasks.
export { type EvaluateOptions, type EvaluateResult, evaluateTasks } from "./evaluate.ts";
export type {
  AnswerItem,
  AnswerScore,
  ChoiceItem,
  ChoiceScore,
  CodeItem,
  CodeScore,
  ItemScore,
  TaskScore,
} from "./metrics.ts";
export {
  type AnswerQuestion,
  type AnswerRule,
  type CodeQuestion,
  defineTask,
  type GenerateAnswers,
  type TaskDefinition,
  type TaskItem,
  type TaskRow,
} from "./task.ts";
export { answerRows, type AnswerRowsOptions, type RowAnswers } from "./answer_rows.ts";
export { isSameNumber, lastNumber, markedNumber } from "./number_answer.ts";
export { wilson } from "./metrics.ts";
export { type AnswerPrompt, type AnswersOptions, greedyAnswers, isExactMatch } from "./answers.ts";

// Programs that a model writes.
export { type CodeLimits, openPython } from "./code/python.ts";
export type { CodeRunner, CodeVerdict } from "./code/runner.ts";

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
export type { Agreement } from "./agreement.ts";
export {
  type ComparedLoss,
  fidelity,
  type FidelityOptions,
  type FidelityReference,
  type FidelityResult,
  readReference,
  type ReferenceOptions,
} from "./fidelity.ts";
export {
  compareItems,
  comparePerplexity,
  type PairedDifference,
  type PerplexityRatio,
  type TaskDifference,
} from "./compare.ts";
