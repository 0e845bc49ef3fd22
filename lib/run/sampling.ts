// The next token from logits. Owns penalty, temperature, top-k, top-p and the draw; refuses models and texts.
//
// The definitions are those of transformers' generation/logits_process.py, in its order: RepetitionPenaltyLogitsProcessor,
// TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper. Sums are in f64 here and in f32 there.
import { CompressoError } from "../errors.ts";
import { notFinite } from "../nn/decode_pass.ts";
import { checkSeed, uniform } from "../random.ts";

/** How the next token is chosen from the logits; as transformers' logits processors define it. */
export interface SamplingOptions {
  /** 0 always takes the most likely token; else tokens are drawn from softmax(logits / temperature). Default 0. */
  readonly temperature?: number;
  /**
   * Draws among the tokens whose logit is at least that of the k-th largest (Fan et al. 2018, arXiv 1805.04833), so among more than k
   * where some are equal to it; 0 for all. Default 0.
   */
  readonly topK?: number;
  /**
   * Draws among the most likely tokens that together reach this probability, after top-k, at least one (Holtzman et al. 2019, arXiv
   * 1904.09751); 1 for all. Of equal ones those with lower ids count first (torch leaves their order open). Default 1.
   */
  readonly topP?: number;
  /**
   * Divides positive logits of the tokens in prompt and continuation by this, and multiplies negative ones (Keskar et al. 2019,
   * arXiv 1909.05858); above 1 against repetition, 1 for none. Default 1.
   */
  readonly repetitionPenalty?: number;
  /** Seed of the draws, which depend on it and the token's position alone. Default 0. */
  readonly seed?: number;
}

/** Chooses the tokens of one sequence. */
export interface Sampler {
  /** The token at a position, from its logits [vocab]. Throws `CompressoError("numeric")` where one is not finite. */
  choose(logits: Float32Array, position: number): number;
}

/** What one choice depends on. */
export interface ChoiceOptions extends Omit<SamplingOptions, "seed"> {
  /** Tokens that the repetition penalty counts. Default: none. */
  readonly seen?: Iterable<number>;
  /** Uniform number in (0, 1) that draws. */
  readonly u: number;
}

/** Stream of the random numbers that choose tokens. */
const STREAM = 0x6e78;

/** A sampler behind a prompt. The options are those that {@link checkSampling} has passed. */
export function createSampler(options: SamplingOptions, prompt: readonly number[]): Sampler {
  const { repetitionPenalty = 1, seed = 0 } = options;
  const seen = new Set(repetitionPenalty === 1 ? [] : prompt);
  return {
    choose(logits, position): number {
      const id = sampleToken(logits, { ...options, seen, u: uniform(seed, STREAM, position) });
      if (repetitionPenalty !== 1) seen.add(id);
      return id;
    },
  };
}

/** Whether the choice is the largest logit as the model gives it: top-k and top-p keep it, and without draws the rest does not matter. */
export function isGreedy({ temperature = 0, repetitionPenalty = 1 }: SamplingOptions): boolean {
  return temperature === 0 && repetitionPenalty === 1;
}

/** Throws `CompressoError("usage")` for sampling options out of range. */
export function checkSampling(options: SamplingOptions): void {
  const { temperature = 0, topK = 0, topP = 1, repetitionPenalty = 1, seed = 0 } = options;
  const fail = (rule: string, value: number): never => {
    throw new CompressoError("usage", { what: "cannot generate with these settings", rule, value: String(value) });
  };
  if (!Number.isFinite(temperature) || temperature < 0) fail("temperature is a number, at least 0", temperature);
  if (!Number.isInteger(topK) || topK < 0) fail("topK is a whole number, at least 0", topK);
  if (!(topP >= 0 && topP <= 1)) fail("topP is a number from 0 to 1", topP);
  if (!Number.isFinite(repetitionPenalty) || repetitionPenalty <= 0) {
    fail("repetitionPenalty is a number above 0", repetitionPenalty);
  }
  checkSeed(seed);
}

/**
 * Index chosen from logits: the largest at temperature 0, the first of equal ones; else the one that u draws from what penalty,
 * temperature, top-k and top-p leave. Throws `CompressoError("numeric")` where a logit is not finite.
 */
export function sampleToken(logits: Float32Array, options: ChoiceOptions): number {
  const { temperature = 0, topK = 0, topP = 1, u } = options;
  const scores = penalized(logits, options);
  const best = largest(scores), top = scores[best] ?? 0;
  if (temperature === 0) return best;
  const weights = scores.map((score) => Math.exp((score - top) / temperature));
  if (topK > 0 && topK < scores.length) keepLargest(weights, scores, topK);
  if (topP < 1) keepNucleus(weights, topP);
  return draw(weights, u);
}

function penalized(logits: Float32Array, { repetitionPenalty = 1, seen = [] }: ChoiceOptions): Float64Array {
  const scores = Float64Array.from(logits);
  for (const score of scores) if (!Number.isFinite(score)) throw notFinite();
  if (repetitionPenalty === 1) return scores;
  for (const id of new Set(seen)) {
    const score = scores[id];
    if (score !== undefined) scores[id] = score < 0 ? score * repetitionPenalty : score / repetitionPenalty;
  }
  return scores;
}

function largest(scores: Float64Array): number {
  let best = 0, top = -Infinity;
  for (const [id, score] of scores.entries()) if (score > top) [best, top] = [id, score];
  return best;
}

/** Index drawn in proportion to weights. */
function draw(weights: Float64Array, u: number): number {
  let total = 0;
  for (const weight of weights) total += weight;
  let left = u * total, last = 0;
  for (const [id, weight] of weights.entries()) {
    if (weight === 0) continue;
    last = id;
    left -= weight;
    if (left < 0) break;
  }
  return last; // rounding may leave a rest: then the last token that can be drawn
}

/** Sets the weights to 0 whose score lies below the k-th largest. */
function keepLargest(weights: Float64Array, scores: Float64Array, k: number): void {
  const least = scores[selectTop(scores, { need: k, mass: () => 1 }).at(-1) ?? 0] ?? 0;
  for (const [id, score] of scores.entries()) if (score < least) weights[id] = 0;
}

/** Sets all weights to 0 but the fewest of the largest whose share reaches p, at least one. */
function keepNucleus(weights: Float64Array, p: number): void {
  let total = 0;
  for (const weight of weights) total += weight;
  const kept = selectTop(weights, { need: p * total, mass: (id) => weights[id] ?? 0 });
  const values = [...kept].map((id) => weights[id] ?? 0);
  weights.fill(0);
  for (const [index, id] of kept.entries()) weights[id] = values[index] ?? 0;
}

/**
 * Ids of the largest values, as few as reach the needed mass, at least one; the least of them comes last, the others in no order.
 * Of equal values the lower id is the larger. Partitions as quickselect does (Hoare 1961): about 3 looks at each value, where sorting a
 * vocabulary would take 16.
 */
function selectTop(
  values: Float64Array,
  { need, mass }: { readonly need: number; readonly mass: (id: number) => number },
): Uint32Array {
  const ids = Uint32Array.from(values, (_, id) => id);
  const at = (index: number): number => ids[index] ?? 0;
  const swap = (a: number, b: number): void => {
    const id = at(a);
    ids[a] = at(b);
    ids[b] = id;
  };
  // All before `low` are kept, with `left` still to reach; none from `high` on is.
  let low = 0, high = ids.length, left = need;
  while (low < high) {
    swap((low + high) >>> 1, high - 1);
    const pivot = at(high - 1), value = values[pivot] ?? 0;
    let border = low, larger = 0;
    for (let index = low; index < high - 1; index++) {
      const id = at(index), own = values[id] ?? 0;
      if (own < value || (own === value && id > pivot)) continue;
      larger += mass(id);
      swap(index, border++);
    }
    swap(border, high - 1);
    const reached = larger + mass(pivot);
    if (larger >= left) high = border;
    else {
      low = border + 1;
      if (reached >= left) break;
      left -= reached;
    }
  }
  return ids.subarray(0, Math.max(1, low));
}
