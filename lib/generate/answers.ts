// Answers that a model gives to the instructions of rows, as data to train on.
import { refusal } from "../core/errors.ts";
import { checkNames, count, type NamesOf } from "../core/check_options.ts";
import { randomU32 } from "../core/random.ts";
import { encodePrefix, formatExample, type FormatOptions } from "../data/prompts/encode.ts";
import { checkPromptText, endToken } from "../data/prompts/format.ts";
import { type InstructRow, placeName, placeOf, type Row } from "../data/row.ts";
import type { Model } from "../model/model.ts";
import { sequencesAtOnce } from "../nn/decode/batch.ts";
import { gathered } from "../ranks/ranks.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { FinishReason } from "./generate.ts";
import { SAMPLING_NAMES } from "./sampling.ts";
import type { SelfDataOptions } from "./self_data.ts";
import { createTextBatch, type TextBatch } from "./text_batch.ts";

/** What decides on the answers; the same settings give the same answers. */
export interface AnswerSettings {
  /** Tokens of an answer at most. */
  readonly tokens: number;
  /** 0 always takes the likeliest token; else tokens are drawn from softmax(logits / temperature). Default 0. */
  readonly temperature?: number | undefined;
  /** Decides the draws. Default 1. */
  readonly seed?: number | undefined;
  /** Text put before each instruction; null for none. Default null. */
  readonly prompt?: string | null | undefined;
}

/** Options of {@link writeAnswers}; `skip` counts rows whose answers are there already. */
export interface AnswersOptions
  extends AnswerSettings, Pick<SelfDataOptions, "skip" | "cacheBytes" | "ranks" | "signal" | "onProgress"> {}

/** Names of what files of answers have too. */
export const ANSWER_NAMES: NamesOf<Omit<AnswersOptions, "skip">> = {
  tokens: count(1),
  temperature: SAMPLING_NAMES.temperature,
  seed: SAMPLING_NAMES.seed,
  prompt: true,
  cacheBytes: "number",
  ranks: true,
  signal: true,
  onProgress: true,
};

/** A row with the model's answer. */
export interface OwnAnswer {
  /** Place of the row among those given, from 0. */
  readonly index: number;
  /** The row's instruction. */
  readonly instruction: string;
  /** The row's input; empty if there is none. */
  readonly input: string;
  /** The answer, in place of the row's own; it may be empty. */
  readonly output: string;
  /** Tokens of the answer, without the end token. */
  readonly tokens: number;
  /** Whether the model ended it. Otherwise it was cut off at `tokens` or the end of the context: no end is learned after it. */
  readonly hasEnded: boolean;
}

/** The fields of an answer's row in a file. `ended: false` marks an answer that was cut off. */
export function answerFields({ instruction, input, output, hasEnded }: OwnAnswer): object {
  return { instruction, ...(input === "" ? {} : { input }), output, ...(hasEnded ? {} : { ended: false }) };
}

/** Answers of a round, for each that is decoded at once: the next round begins once all of them are on the disk. */
const ROUND = 2;
/** Stream of the random numbers. */
const DRAW_STREAM = 0x71a9;

/** A row that is asked. */
interface Question {
  readonly index: number;
  readonly row: InstructRow;
  readonly prompt: readonly number[];
}

/**
 * Lets a model answer the instructions of rows in its chat template or prompt style, so that a pruned model recovers on
 * answers of the dense one (self-data distillation, Thangarasa et al. 2024, arXiv 2410.09982). The rows' own answers are
 * not read. Answer n depends on the settings and row n alone, so that a series can be continued. Answers are decoded
 * together and come in the order of the rows.
 *
 * @throws CompressoError("usage") for options out of range.
 * @throws CompressoError("input") for a model without tokenizer, a row without an instruction, and an instruction that fills the model's context.
 * @throws CompressoError("numeric") if the logits are not finite.
 * @example
 * ```ts
 * import { demoData, loadModel, openDevice, readRows } from "compresso";
 * import { writeAnswers } from "compresso/generate";
 *
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * const { rows } = await readRows(demoData("train"), { limit: 2 });
 * for await (const { instruction, output } of writeAnswers(model, rows, { tokens: 8 })) {
 *   if (instruction === output) throw new Error(output);
 * }
 * ```
 */
export function writeAnswers(
  model: Model,
  rows: readonly Row[],
  options: AnswersOptions,
): AsyncGenerator<OwnAnswer, void, undefined> {
  checkNames(options, { ...ANSWER_NAMES, skip: count(0) }, { whose: "writeAnswers" });
  const { tokens, temperature = 0, seed = 1, prompt = null, skip = 0, cacheBytes, ranks, signal, onProgress } = options;
  const { tokenizer, spec } = model;
  if (!tokenizer) throw noTokenizer("cannot let the model answer");
  checkPromptText(prompt);
  const format = { tokenizer, prompt }, end = endToken(format), endTokens = end === null ? [] : [end];
  const questions = rows.map((row, index) => questionOf(row, index, { ...format, maxPosition: spec.maxPosition }));
  return answers(questions.slice(skip), tokenizer);

  async function* answers(
    asked: readonly Question[],
    tokenizer: Tokenizer,
  ): AsyncGenerator<OwnAnswer, void, undefined> {
    if (asked.length === 0) return;
    const longest = asked.reduce((most, { prompt }) => Math.max(most, prompt.length), 0);
    const capacity = Math.min(spec.maxPosition, longest + tokens);
    const own = sequencesAtOnce(model.device, model.weights, { capacity, bytes: cacheBytes });
    const { rank, size } = ranks ?? { rank: 0, size: 1 };
    const most = ROUND * Math.min(...await allOf([own]));
    await using batch = createTextBatch(model, { sequences: own, capacity, cacheBytes });
    for (let from = 0; from < asked.length;) {
      const each = Math.min(most, Math.ceil((asked.length - from) / size)),
        after = Math.min(asked.length, from + size * each);
      const first = from + rank * each, round = asked.slice(first, Math.min(after, first + each));
      let ended = 0;
      const written = await Promise.all(round.map(async (question) => {
        const answer = await answerTo(question, batch, tokenizer);
        ended++;
        onProgress?.((from + ended / Math.max(1, round.length) * (after - from)) / asked.length);
        return answer;
      }));
      yield* await allOf(written);
      from = after;
    }
  }

  /** What all ranks have, in their order. */
  async function allOf<T>(own: readonly T[]): Promise<readonly T[]> {
    return ranks ? (await gathered(ranks, own)).flat() : own;
  }

  async function answerTo(
    { index, row, prompt }: Question,
    batch: TextBatch,
    tokenizer: Tokenizer,
  ): Promise<OwnAnswer> {
    const how = { maxTokens: tokens, temperature, seed: randomU32(seed, DRAW_STREAM, index), endTokens, signal };
    const ids: number[] = [], text = batch.generate(prompt, how);
    let reason: FinishReason | null = null;
    while (reason === null) {
      const next = await text.next();
      if (next.done) reason = next.value;
      else ids.push(next.value);
    }
    // The last token may end within a character.
    const output = tokenizer.decode(ids, { skipSpecial: true }).replace(/\uFFFD+$/, "");
    const { instruction, input } = row;
    return { index, instruction, input, output, tokens: ids.length, hasEnded: reason === "end" };
  }
}

/** The prompt of a row. Throws `CompressoError("input")` for a row that cannot be asked. */
function questionOf(row: Row, index: number, options: FormatOptions & { readonly maxPosition: number }): Question {
  const at = placeName(placeOf(row, index)), what = "cannot let the model answer";
  if (row.kind !== "instruct") {
    const rule = "each row has an instruction", value = `a row of kind ${row.kind}`;
    throw refusal("input", what, { rule, value, fix: "give rows with the fields instruction and output" }).with({ at });
  }
  const prompt = encodePrefix(formatExample({ ...row, output: "" }, options).prefix, options);
  if (prompt.length < options.maxPosition) return { index, row, prompt };
  throw refusal("input", what, {
    rule: `the model's context of ${options.maxPosition} tokens has room for an answer`,
    value: `an instruction of ${prompt.length} tokens`,
    fix: "shorten or remove the row",
  }).with({ at });
}
