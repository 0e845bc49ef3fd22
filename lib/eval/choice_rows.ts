// Rows with choices as token ids for scoring.
import { type CompressoError, refusal } from "../core/errors.ts";
import { checkNames, count, type NamesOf } from "../core/check_options.ts";
import { kindName, placeName, placeOf, type Row } from "../data/row.ts";
import { encodePrefix, encodeResponse, endToken, formatExample } from "../data/prompts/encode.ts";
import { checkPromptText } from "../data/prompts/format.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { ChoiceRow } from "./score.ts";

/** Options of {@link encodeChoices}. */
export interface ChoiceOptions {
  /** Tokenizer of the model. */
  readonly tokenizer: Tokenizer;
  /** Text before every instruction, such as the collaborative prompt. Default null: none. */
  readonly prompt?: string | null | undefined;
  /** Rows that are taken at most, from the first. Default: all. */
  readonly limit?: number | undefined;
}

const NAMES: NamesOf<ChoiceOptions> = { tokenizer: true, prompt: true, limit: { ...count(1), endless: true } };

/**
 * Encodes every row as its prompt and its choices. Each choice ends with the end token, if the tokenizer has one.
 *
 * @throws CompressoError("input") for rows without choices, or whose output is not among them.
 * @throws CompressoError("usage") for options that do not exist, a limit out of range or an empty prompt.
 */
export function encodeChoices(rows: readonly Row[], options: ChoiceOptions): ChoiceRow[] {
  checkNames(options, NAMES, { whose: "encodeChoices" });
  const { tokenizer, prompt = null, limit = Infinity } = options;
  checkPromptText(prompt);
  const format = { tokenizer, prompt };
  const end = endToken(format);
  return rows.slice(0, limit).map((row, index) => {
    const place = placeOf(row, index), number = place.row, where = placeName(place);
    if (row.kind !== "instruct") throw unscorable(where, `it is ${kindName(row.kind)}`);
    const choices = row.choices ?? [], answer = choices.indexOf(row.output);
    if (choices.length < 2) throw unscorable(where, `${choices.length} choices`);
    if (answer < 0) throw unscorable(where, `the output ${JSON.stringify(row.output)} is no choice`);
    const { prefix } = formatExample(row, format);
    return {
      prefix: encodePrefix(prefix, format),
      choices: choices.map((choice) => {
        const { response } = formatExample({ ...row, output: choice }, format);
        return [...encodeResponse(prefix, response, format), ...(end === null ? [] : [end])];
      }),
      answer,
      number,
    };
  });
}

function unscorable(where: string, value: string): CompressoError {
  return refusal("input", `cannot score ${where}`, {
    rule: 'a row has "choices", a list of strings with the output among them',
    value,
    fix: "add choices to the rows, or take another measure",
  });
}
