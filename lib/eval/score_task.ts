// Scores the questions of a task by a model: likelihoods of choices, or answers that it generates.
import { type CompressoError, refusal, refuse } from "../core/errors.ts";
import { chatStyle } from "../data/prompts/format.ts";
import type { Ranks } from "../ranks/ranks.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import type { Model } from "../model/model.ts";
import type { CodeVerdict } from "./code/runner.ts";
import { greedyAnswers } from "./answers.ts";
import { answerEnds, type EncodedQuestion, encodeQuestion } from "./encode.ts";
import { judged } from "./judge.ts";
import type { EvaluateOptions } from "./evaluate.ts";
import { type ItemScore, pick } from "./metrics.ts";
import { logLikelihoods } from "./score.ts";
import type { AnswerSettings, LoadedTask, Question } from "./task_data.ts";

/** Options of {@link encodeTask}. */
export interface EncodeTaskOptions extends Pick<EvaluateOptions, "refuseLong" | "signal"> {
  /** Questions that need not be encoded and scored again, by their places. */
  readonly known?: ReadonlyMap<number, KnownQuestion> | undefined;
  /** Called now and then with the questions encoded so far. */
  readonly onEncoded?: ((done: number, total: number) => void) | undefined;
}

/** Options of {@link scoreTask}. */
export interface ScoreTaskOptions
  extends EncodeTaskOptions, Pick<EvaluateOptions, "adapters" | "ranks" | "onProgress" | "runCode"> {
  /** What {@link encodeTask} made of the questions that are not known. Default: they are encoded before the first is scored. */
  readonly encoded?: EncodedTask | undefined;
  /** Called for each question as soon as all its choices are scored, in no certain order; not for known ones. */
  readonly onItem?: ((place: number, item: TaskItemScore) => void) | undefined;
}

/** What the model made of one question, and whether it had to be cut. */
export type TaskItemScore = ItemScore & {
  /** Whether its context was cut from the left to fit the model. */
  readonly isTruncated: boolean;
};

/** What is known of a question that was scored or answered before. */
export interface KnownQuestion {
  readonly scores?: readonly number[];
  readonly text?: string;
  /** How the program of an answer that is code ended. */
  readonly verdict?: CodeVerdict;
  readonly isTruncated: boolean;
}

/** Questions that are ready to be scored, by their places. */
export type EncodedTask = ReadonlyMap<number, EncodedQuestion>;

/** Scores the questions of one task, or has them answered. */
export async function scoreTask(
  model: Model,
  task: LoadedTask,
  options: ScoreTaskOptions = {},
): Promise<TaskItemScore[]> {
  const encoded = options.encoded ?? await encodeTask(model, task, options);
  return task.generate
    ? await answerTask(model, task, { ...options, encoded, ...task.generate })
    : await scoreChoices(model, task, { ...options, encoded });
}

/** Options with the questions encoded. */
type Encoded = ScoreTaskOptions & { readonly encoded: EncodedTask };

async function answerTask(
  model: Model,
  task: LoadedTask,
  { encoded, known, onItem, onProgress, maxTokens, until: ends, rule, chat, runCode, ...options }:
    & Encoded
    & AnswerSettings,
): Promise<TaskItemScore[]> {
  const { questions } = task, open = [...encoded], texts = questions.map((_, place) => known?.get(place)?.text ?? "");
  const tokenizer = tokenizerFor(model, task), isCode = rule === "code";
  const itemAt = async (place: number): Promise<TaskItemScore> => {
    const { accepted = [], subset = "", program } = questions[place] ?? {}, text = texts[place] ?? "";
    const { isTruncated = false } = encoded.get(place) ?? known?.get(place) ?? {}, rest = { subset, isTruncated };
    if (!isCode) return { text, ...judged(text, accepted, rule), ...rest };
    const verdict = known?.get(place)?.verdict ?? await ran(task, { text, program, runCode, signal: options.signal });
    return { text, ...verdict, ...rest };
  };
  if (isCode && options.ranks) throw noRanks(task, options.ranks);
  // In chat, code ends with its block.
  const until = isCode && chat && chatStyle(tokenizer) !== null ? [...ends, "```"] : ends;
  let done = questions.length - open.length;
  const how = { maxTokens, until, endTokens: answerEnds(tokenizer, task) };
  const prompts = open.map(([, { sequences }]) => ({ prompt: sequences[0]?.prefix ?? [], ...how }));
  const items = new Map<number, Promise<TaskItemScore>>();
  const judge = async (place: number): Promise<TaskItemScore> => {
    const item = await itemAt(place);
    onItem?.(place, item);
    onProgress?.(++done, questions.length, task.name);
    return item;
  };
  try {
    await greedyAnswers(model, prompts, {
      ...options,
      tokenizer,
      onAnswer: (index, text) => {
        const place = open[index]?.[0] ?? -1;
        texts[place] = text;
        const judging = judge(place);
        judging.catch(() => {}); // it may fail before it is awaited
        items.set(place, judging);
      },
    });
  } finally {
    // What was answered before an error is judged, and kept.
    await Promise.allSettled(items.values());
  }
  return await Promise.all(questions.map((_, place) => items.get(place) ?? itemAt(place)));
}

/** Runs the program of an answer. */
async function ran(
  { name }: LoadedTask,
  { text, program, runCode, signal }:
    & Pick<EvaluateOptions, "runCode" | "signal">
    & { readonly text: string; readonly program: Question["program"] },
): Promise<CodeVerdict> {
  if (runCode && program) return await runCode.run(program.before + text + program.after, { signal });
  refuse("usage", `cannot score the task ${name}`, {
    rule: "its answers are programs, which are run only where that is asked for",
    value: "no runner",
    option: "runCode",
  });
}

function noRanks({ name }: LoadedTask, { size }: Ranks): CompressoError {
  return refusal("usage", `cannot score the task ${name}`, {
    rule: "the programs that a model writes are run by one process",
    value: `${size} ranks`,
    fix: "start one process",
  });
}

async function scoreChoices(
  model: Model,
  task: LoadedTask,
  { adapters, ranks, signal, onProgress, known, onItem, encoded }: Encoded,
): Promise<TaskItemScore[]> {
  const { questions } = task;
  const own = questions.map((question, place) => {
    const scores = knownScores(question, known?.get(place));
    return scores ? [...scores] : new Array<number>(question.choices.length).fill(NaN);
  });
  const isDone = (place: number): boolean => own[place]?.every((score) => !Number.isNaN(score)) ?? false;
  const itemAt = (place: number): TaskItemScore => {
    const { choices = [], answer = null, subset = "" } = questions[place] ?? {}, scores = own[place] ?? [];
    const { isTruncated = false } = encoded.get(place) ?? known?.get(place) ?? {};
    return { scores, ...pick(scores, choices), answer, subset, isTruncated };
  };
  const open = [...encoded].flatMap(([place, { sequences }]) =>
    sequences.map((sequence, choice) => ({ place, choice, sequence }))
  );
  let done = questions.length - new Set(open.map(({ place }) => place)).size;
  await logLikelihoods(model, open.map(({ sequence }) => sequence), {
    adapters,
    signal,
    ranks,
    onScores: (indices, scores) => {
      indices.forEach((index, at) => {
        const { place, choice } = open[index] ?? { place: -1, choice: -1 }, row = own[place];
        if (row) row[choice] = scores[at] ?? NaN;
        if (!isDone(place)) return;
        done++;
        onItem?.(place, itemAt(place));
      });
      onProgress?.(done, questions.length, task.name);
    },
  });
  return questions.map((_, place) => itemAt(place));
}

/** Milliseconds for which questions are encoded at a stretch. */
const ENCODING_MS = 50;

/**
 * Encodes the questions of a task that are not known. That may take minutes: now and then others get their turn, an abort among them. Throws
 * `CompressoError("input")` as {@link encodeQuestion} does, and for a model without tokenizer.
 */
export async function encodeTask(
  model: Pick<Model, "spec" | "tokenizer">,
  task: LoadedTask,
  { known, refuseLong, signal, onEncoded }: EncodeTaskOptions = {},
): Promise<EncodedTask> {
  const tokenizer = tokenizerFor(model, task), context = model.spec.maxPosition;
  const isKnown = (place: number, question: Question): boolean =>
    task.generate ? known?.get(place)?.text !== undefined : knownScores(question, known?.get(place)) !== null;
  const open = [...task.questions.entries()].filter(([place, question]) => !isKnown(place, question));
  const encoded = new Map<number, EncodedQuestion>();
  let since = performance.now();
  for (const [place, question] of open) {
    encoded.set(place, encodeQuestion(task, question, { tokenizer, context, refuseLong }));
    if (performance.now() - since < ENCODING_MS) continue;
    onEncoded?.(encoded.size, open.length);
    await new Promise((resolve) => setTimeout(resolve));
    signal?.throwIfAborted();
    since = performance.now();
  }
  return encoded;
}

/** The scores of all choices; null if they are not known. */
function knownScores({ choices }: Question, { scores = [] }: Partial<KnownQuestion> = {}): readonly number[] | null {
  return scores.length === choices.length && !scores.some(Number.isNaN) ? scores : null;
}

function tokenizerFor({ tokenizer }: Pick<Model, "tokenizer">, { name }: LoadedTask): Tokenizer {
  if (tokenizer) return tokenizer;
  throw noTokenizer(`cannot score the task ${name}`);
}
