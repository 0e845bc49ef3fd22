// Options for how tokens are chosen and where an answer ends.
import { CompressoError } from "../../lib/core/errors.ts";
import { MAX_SEED } from "../../lib/core/random.ts";
import type { SamplingOptions } from "../../lib/generate/sampling.ts";
import { realNumber, wholeNumber } from "./values.ts";

/** Declarations of the options, for every verb that generates text. */
export const TEMPERATURE_OPTION = [
  "--temperature <number>",
  "sampling temperature: 0 always takes the most likely token, 1 samples from the model's own distribution",
  realNumber("--temperature", { least: 0 }),
  0,
] as const;
/** See {@link TEMPERATURE_OPTION}. */
export const TOP_K_OPTION = [
  "--top-k <count>",
  "sample from this many of the most likely tokens",
  wholeNumber("--top-k", { least: 1 }),
] as const;
/** See {@link TEMPERATURE_OPTION}. */
export const TOP_P_OPTION = [
  "--top-p <share>",
  "sample from the most likely tokens that together have this probability",
  realNumber("--top-p", { above: 0, most: 1 }),
] as const;
/** See {@link TEMPERATURE_OPTION}. */
export const REPETITION_PENALTY_OPTION = [
  "--repetition-penalty <number>",
  "above 1: make tokens that occurred before less likely; below 1: more likely (default: 1)",
  realNumber("--repetition-penalty", { above: 0 }),
] as const;
/** See {@link TEMPERATURE_OPTION}. */
export const STOP_OPTION = [
  "--stop <text>",
  "end before this text; may be repeated; \\n is a line break, \\t a tab, \\\\ a backslash",
  (text: string, before: readonly string[] | undefined): readonly string[] => [...before ?? [], stopText(text)],
] as const;
/** See {@link TEMPERATURE_OPTION}. */
export const SEED_OPTION = [
  "--seed <number>",
  "seed of the sampling (default: 1)",
  wholeNumber("--seed", { most: MAX_SEED }),
] as const;

/** Values of the options. */
export interface SamplingSettings {
  readonly temperature: number;
  readonly topK?: number | undefined;
  readonly topP?: number | undefined;
  readonly repetitionPenalty?: number | undefined;
  readonly stop?: readonly string[] | undefined;
  readonly seed?: number | undefined;
}

/** The options as the library takes them. Throws `CompressoError("usage")` for options that have no effect. */
export function samplingOf(settings: SamplingSettings): SamplingOptions & { readonly stop: readonly string[] } {
  const { temperature, topK, topP, repetitionPenalty = 1, stop = [], seed } = settings;
  const drawing = [["--top-k", topK], ["--top-p", topP], ["--seed", seed]].filter(([, value]) => value !== undefined);
  if (temperature === 0 && drawing.length > 0) {
    throw new CompressoError("usage", {
      what: `cannot use ${drawing.map(([option]) => option).join(" and ")}`,
      rule: "--top-k, --top-p and --seed are for sampling, which needs a --temperature above 0",
      value: "the temperature is 0",
      fix: "add --temperature 1",
    });
  }
  return { temperature, topK: topK ?? 0, topP: topP ?? 1, repetitionPenalty, stop, seed: seed ?? 1 };
}

const ESCAPES: Readonly<Record<string, string>> = { "\\n": "\n", "\\t": "\t", "\\\\": "\\" };

function stopText(text: string): string {
  if (text !== "") return text.replace(/\\[nt\\]/g, (escape) => ESCAPES[escape] ?? escape);
  throw new CompressoError("usage", {
    what: "cannot use --stop without a text",
    rule: "--stop holds at least one character",
    value: "an empty one",
    fix: "leave it out, or give it a text",
  });
}
