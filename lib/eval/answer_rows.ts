// Exact match on instructions: the model answers each row greedily, and the answer is compared with the row's output.
import { type CompressoError, type Reasons, refusal } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import { kindName, placeName, placeOf, type Row } from "../data/row.ts";
import { encodePrefix, encodeResponse, endToken, formatExample } from "../data/prompts/encode.ts";
import { checkPromptText } from "../data/prompts/format.ts";
import type { Model } from "../model/model.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import { type AnswerPrompt, type AnswersOptions, greedyAnswers, isExactMatch } from "./answers.ts";

/** Options of {@link answerRows}. */
export interface AnswerRowsOptions extends Pick<AnswersOptions, "adapters" | "ranks" | "signal"> {
  /** Text before every instruction, such as the collaborative prompt. Default null: none. */
  readonly prompt?: string | null | undefined;
  /** Tokens of an answer at most. Default: 8 more than the row's output has. */
  readonly maxTokens?: number | undefined;
  /** Called with the rows answered so far. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

const NAMES: NamesOf<AnswerRowsOptions> = {
  adapters: true,
  ranks: true,
  signal: true,
  prompt: true,
  maxTokens: "number",
  onProgress: true,
};

/** What the model answered to rows. */
export interface RowAnswers {
  /** Share of the rows whose answer equals the output; see {@link isExactMatch}. */
  readonly exactMatch: number;
  /** Rows. */
  readonly n: number;
  /** The answers. */
  readonly perRow: readonly { readonly text: string; readonly isExact: boolean }[];
}

/**
 * Lets the model answer instructions in its own words, decoded greedily up to an end token, and compares the answers
 * with the rows' outputs.
 *
 * @throws CompressoError("input") for no rows, for rows that are not instructions or do not fit the model's context,
 * and for a model without tokenizer.
 * @throws CompressoError("usage") for options out of range or that do not exist.
 * @example
 * ```ts
 * import { loadModel, openDevice } from "compresso";
 * import { answerRows } from "compresso/evaluate";
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * const input = "Story: Max saw two stars. John went to Essen. Where is John?";
 * const instruction = "Answer the question.", output = "in Essen";
 * const row = { kind: "instruct", instruction, input, output, choices: null, extra: {} } as const;
 * const { perRow } = await answerRows(model, [row]);
 * console.log(perRow[0]?.text);
 * ```
 */
export async function answerRows(
  model: Model,
  rows: readonly Row[],
  options: AnswerRowsOptions = {},
): Promise<RowAnswers> {
  checkNames(options, NAMES, { whose: "answerRows" });
  const { prompt, maxTokens, onProgress, ...own } = options, { tokenizer, spec } = model;
  if (!tokenizer) throw noTokenizer("cannot have the model answer rows");
  const prompts = answerPrompts(rows, { tokenizer, spec, prompt, maxTokens });
  let done = 0;
  const answers = await greedyAnswers(model, prompts, {
    ...own,
    tokenizer,
    onAnswer: () => onProgress?.(++done, rows.length),
  });
  const perRow = rows.map((row, index) => {
    const text = answers[index] ?? "";
    return { text, isExact: row.kind === "instruct" && isExactMatch(text, [row.output]) };
  });
  return { exactMatch: perRow.filter(({ isExact }) => isExact).length / perRow.length, n: perRow.length, perRow };
}

/** Checks rows, and encodes what the model continues; throws as {@link answerRows} does. */
export function answerPrompts(
  rows: readonly Row[],
  { tokenizer, spec, prompt = null, maxTokens: most }: {
    readonly prompt?: string | null | undefined;
    readonly maxTokens?: number | undefined;
    readonly tokenizer: Tokenizer;
    readonly spec: Pick<DecoderSpec, "maxPosition">;
  },
): AnswerPrompt[] {
  checkPromptText(prompt);
  const format = { tokenizer, prompt }, end = endToken(format);
  if (rows.length === 0) throw unanswerable("the data", { rule: "there is at least one row", value: "none" });
  return rows.map((row, index) => {
    const where = placeName(placeOf(row, index));
    if (row.kind !== "instruct") {
      throw unanswerable(where, { rule: "it is an instruction with an output", value: kindName(row.kind) });
    }
    const { prefix, response } = formatExample(row, format), ids = encodePrefix(prefix, format);
    const maxTokens = most ?? encodeResponse(prefix, response, format).length + 8;
    if (ids.length + maxTokens > spec.maxPosition) {
      throw unanswerable(where, {
        rule: `instruction and answer fit the model's context of ${spec.maxPosition} tokens`,
        value: `${ids.length} and up to ${maxTokens} tokens`,
      });
    }
    return { prompt: ids, maxTokens, until: [], endTokens: end === null ? [] : [end] };
  });
}

function unanswerable(where: string, reasons: Reasons): CompressoError {
  const fix = "leave the row out, or take another measure";
  return refusal("input", `cannot have the model answer ${where}`, { ...reasons, fix });
}
