// Methods that score whole experts. They are measured on rows, layer by layer, without gradients.
import { randomScores } from "../../masks/baselines.ts";
import type { ExpertUse, LayerUse } from "../../slice/expert_use.ts";
import type { ExpertMethod } from "./method.ts";

/** Mean over the tokens that chose an expert of its router weight times the norm of its output (REAP, arXiv 2510.13999). */
export const reap: ExpertMethod = { name: "reap", kind: "experts" };

/** The same summed over the tokens, so that an expert that is chosen often is worth more. */
export const reapSum: ExpertMethod = { name: "reap-sum", kind: "experts" };

/** How many tokens chose an expert. */
export const frequency: ExpertMethod = { name: "frequency", kind: "experts" };

/** A score for each expert of each layer, null for a dense layer; experts of the lowest scores are cut. */
export type ExpertScores = readonly (readonly number[] | null)[];

/** What scores of experts are made of. */
export interface ExpertMeasures {
  /** Number of experts of each layer; 0 for a dense one. */
  readonly counts: readonly number[];
  /** Seed of random scores. */
  readonly seed: number;
  /** How the experts are used on rows. */
  readonly use: () => Promise<ExpertUse>;
  /** Mean square of the weights of each expert. */
  readonly magnitude: () => Promise<ExpertScores>;
}

const ofUse =
  (score: (use: LayerUse, expert: number) => number) => async ({ use }: ExpertMeasures): Promise<ExpertScores> =>
    (await use()).layers.map((layer) => layer && layer.tokens.map((_, expert) => score(layer, expert)));

/** How each method scores experts. */
export const EXPERT_SCORES = {
  reap: ofUse(({ output }, expert) => output[expert] ?? NaN),
  "reap-sum": ofUse(({ output, tokens }, expert) => (output[expert] ?? NaN) * (tokens[expert] ?? NaN)),
  frequency: ofUse(({ tokens }, expert) => tokens[expert] ?? NaN),
  magnitude: ({ magnitude }: ExpertMeasures) => magnitude(),
  random: ({ counts, seed }: ExpertMeasures): Promise<ExpertScores> => {
    const all = randomScores(counts.reduce((sum, count) => sum + count, 0), { seed });
    let first = 0;
    return Promise.resolve(counts.map((count) => {
      const own = [...all.slice(first, first += count)];
      return count > 0 ? own : null;
    }));
  },
} as const satisfies Readonly<Record<string, (measures: ExpertMeasures) => Promise<ExpertScores>>>;

/** Name of a method that scores experts. */
export type ExpertMethodName = keyof typeof EXPERT_SCORES;

/** Their names. */
export const EXPERT_METHODS: readonly string[] = Object.keys(EXPERT_SCORES);

/** Whether a method scores experts by their use on rows. */
export function scoresUse(name: ExpertMethodName): boolean {
  return name !== "magnitude" && name !== "random";
}

/** Whether a value names a method that scores experts. */
export function scoresExperts(name: unknown): name is ExpertMethodName {
  return typeof name === "string" && EXPERT_METHODS.includes(name);
}
