// Options for how tokens are chosen and where an answer ends.
import { flagNamed } from "./spelling.ts";
import { refuse } from "../../lib/core/errors.ts";
import { MAX_SEED } from "../../lib/core/random.ts";
import type { SamplingOptions } from "../../lib/generate/sampling.ts";
import type { FlagRow, FlagTable, FlagValues } from "./flags.ts";

/** `--compare` of the verbs that generate text. */
export const COMPARE_FLAG = {
  type: "value",
  placeholder: "model",
  help: "a second model that answers too, without the --adapter; a terminal shows both side by side, with tokens/s",
} as const satisfies FlagRow;

/** Flags of every verb that generates text. */
export const SAMPLING_FLAGS = {
  temperature: {
    type: "number",
    least: 0,
    initially: 0,
    help: "sampling temperature; 0 always takes the most likely token, 1 samples from the model's own distribution",
  },
  topK: { type: "count", least: 1, help: "sample from this many of the most likely tokens" },
  topP: {
    type: "number",
    above: 0,
    most: 1,
    placeholder: "share",
    help: "sample from the fewest most likely tokens that together have at least this probability",
  },
  repetitionPenalty: {
    type: "number",
    above: 0,
    defaultText: "1",
    help: "factor that makes tokens that occurred before less likely (above 1) or more likely (below 1)",
  },
  frequencyPenalty: {
    ...{ type: "number", least: -2, most: 2, defaultText: "0" },
    help: "taken from a token's logit for each time that the answer has it; above 0 against repetition",
  },
  presencePenalty: {
    ...{ type: "number", least: -2, most: 2, defaultText: "0" },
    help: "taken from the logit of each token that the answer has; above 0 for new words",
  },
  stop: {
    type: "value",
    placeholder: "text",
    parse: (text: string, before?: readonly string[]): readonly string[] => [...before ?? [], stopText(text)],
    help: "end the answer before this text; may be repeated; \\n is a line break, \\t a tab, \\\\ a backslash",
  },
  seed: { type: "count", most: MAX_SEED, placeholder: "number", defaultText: "1", help: "seed of the sampling" },
} as const satisfies FlagTable;

/** Values of the flags. */
export type SamplingSettings = FlagValues<typeof SAMPLING_FLAGS>;

/** The options as the library takes them. Throws `CompressoError("usage")` for options that have no effect. */
export function samplingOf(settings: SamplingSettings): SamplingOptions & { readonly stop: readonly string[] } {
  const { temperature, topK, topP, repetitionPenalty = 1, stop = [], seed } = settings;
  const { frequencyPenalty = 0, presencePenalty = 0 } = settings;
  const drawing = Object.entries({ topK, topP, seed }).flatMap(([name, value]) => value === undefined ? [] : [name]);
  if (temperature === 0 && drawing.length > 0) {
    refuse("usage", `cannot use ${drawing.map(flagNamed).join(" and ")}`, {
      rule: "--top-k, --top-p and --seed are for sampling, which needs a --temperature above 0",
      value: "the temperature is 0",
      fix: "add --temperature 1",
      option: drawing.length === 1 ? drawing[0] : undefined,
    });
  }
  const penalties = { repetitionPenalty, frequencyPenalty, presencePenalty };
  return { temperature, topK: topK ?? 0, topP: topP ?? 1, ...penalties, stop, seed: seed ?? 1 };
}

const ESCAPES: Readonly<Record<string, string>> = { "\\n": "\n", "\\t": "\t", "\\\\": "\\" };

function stopText(text: string): string {
  if (text !== "") return text.replace(/\\[nt\\]/g, (escape) => ESCAPES[escape] ?? escape);
  return refuse("usage", "cannot use --stop without a text", {
    rule: "--stop holds at least one character",
    value: "an empty one",
    option: "stop",
  });
}
