// The next token from logits.
//
// The definitions are those of transformers' generation/logits_process.py, in its order: RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper,
// TopKLogitsWarper, TopPLogitsWarper. The penalties of frequency and presence, which transformers has not, are those of OpenAI's API and come
// after that of repetition, as in vLLM. Penalties and distances are in f32, weights and sums in integers, as in
// kernels/shared/sample_next.wgsl, which draws the same tokens.
import { count, type NamesOf } from "../core/check_options.ts";
import {
  CHOICE_STREAM,
  CHOICE_UNIT,
  type DrawSettings,
  inverseTemperature,
  isPenalized,
  takenFrom,
  weightTable,
} from "../nn/decode/choice.ts";
import { notFinite } from "../nn/decode/pass.ts";
import { MAX_SEED, uniform } from "../core/random.ts";

/** How the next token is chosen from the logits; as transformers' logits processors define it. */
export interface SamplingOptions {
  /** 0 always takes the most likely token; else tokens are drawn from softmax(logits / temperature). Default 0. */
  readonly temperature?: number | undefined;
  /**
   * Draws among the tokens whose logit is at least that of the k-th largest (Fan et al. 2018, arXiv 1805.04833). With
   * equal logits these can be more than k tokens. 0 for all tokens. Default 0.
   */
  readonly topK?: number | undefined;
  /**
   * Draws among the fewest most likely tokens that together reach this probability, at least one, after top-k (Holtzman
   * et al. 2019, arXiv 1904.09751); 1 for all. Of tokens of equal probability the lower ids count first; torch leaves
   * their order open. Default 1.
   */
  readonly topP?: number | undefined;
  /**
   * Divides positive logits of the tokens in prompt and continuation by this, and multiplies negative ones (Keskar et al. 2019,
   * arXiv 1909.05858); above 1 against repetition, 1 for none. Default 1.
   */
  readonly repetitionPenalty?: number | undefined;
  /**
   * Taken from a token's logit for each time that the continuation has it, from −2 to 2, in parts of 2^−16, as OpenAI's
   * `frequency_penalty`; above 0 against repetition. The prompt does not count. All penalties together take at most 256.
   * Default 0.
   */
  readonly frequencyPenalty?: number | undefined;
  /**
   * Taken from the logit of each token that the continuation has, from −2 to 2, in parts of 2^−16, as OpenAI's
   * `presence_penalty`; above 0 for new words. Default 0.
   */
  readonly presencePenalty?: number | undefined;
  /** Seed of the draws, which depend on it and the token's position alone. Default 0, where the command line has 1. */
  readonly seed?: number | undefined;
}

/** Names and bounds of them. */
export const SAMPLING_NAMES: NamesOf<SamplingOptions> = {
  temperature: { type: "number", least: 0 },
  topK: count(0),
  topP: { type: "number", least: 0, most: 1 },
  repetitionPenalty: { type: "number", above: 0 },
  frequencyPenalty: { type: "number", least: -2, most: 2 },
  presencePenalty: { type: "number", least: -2, most: 2 },
  seed: count(0, MAX_SEED),
};

/** Chooses the tokens of one sequence. */
export interface Sampler {
  /** The token at a position, from its logits [vocab]. Throws `CompressoError("numeric")` if one is not finite. */
  choose(logits: Float32Array, position: number): number;
}

/** What one choice depends on. */
export interface ChoiceOptions extends Omit<SamplingOptions, "seed"> {
  /** Tokens that the repetition penalty counts. Default: none. */
  readonly seen?: Iterable<number> | undefined;
  /** How often tokens were chosen before, which the penalties of frequency and presence count. Default: none. */
  readonly chosen?: ReadonlyMap<number, number> | undefined;
  /** Uniform number in (0, 1) that draws. */
  readonly u: number;
}

/**
 * A sampler for the continuation of a prompt. Some of its tokens may have been chosen already. The options are within the
 * bounds of {@link SAMPLING_NAMES}.
 */
export function createSampler(
  options: SamplingOptions,
  prompt: readonly number[],
  { chosen = [] }: { readonly chosen?: readonly number[] } = {},
): Sampler {
  const { seed = 0 } = options, counts = isPenalized(options);
  const seen = new Set(counts ? prompt : []), times = new Map<number, number>();
  const count = (id: number): void => {
    seen.add(id);
    times.set(id, (times.get(id) ?? 0) + 1);
  };
  if (counts) chosen.forEach(count);
  return {
    choose(logits, position): number {
      const u = uniform(seed, CHOICE_STREAM, position),
        id = sampleToken(logits, { ...options, seen, chosen: times, u });
      if (counts) count(id);
      return id;
    },
  };
}

/** Whether the largest logit of the model is always chosen: the temperature is 0 and no penalty changes the logits. */
export function isGreedy(options: SamplingOptions): boolean {
  const { temperature = 0 } = options;
  return temperature === 0 && !isPenalized(options);
}

/**
 * Index chosen from logits. At temperature 0: the largest logit, the first of equal ones. Otherwise u draws from what penalty,
 * temperature, top-k and top-p leave.
 *
 * @throws CompressoError("numeric") if a logit is not finite.
 */
export function sampleToken(logits: Float32Array, options: ChoiceOptions): number {
  const { temperature = 0, topK = 0, topP = 1, u } = options;
  const scores = penalized(logits, options);
  const best = largest(scores), top = scores[best] ?? 0;
  if (temperature === 0) return best;
  if (topK > 0 && topK < scores.length) keepLargest(scores, topK);
  const inverse = inverseTemperature(temperature), weights = new Float64Array(scores.length);
  for (let id = 0; id < weights.length; id++) {
    const score = scores[id] ?? 0;
    if (score > -Infinity) weights[id] = weightOf(Math.fround(Math.fround(top - score) * inverse));
  }
  if (topP < 1) keepNucleus(weights, topP);
  return draw(weights, u);
}

const TABLE = weightTable();

/** 2^30·2^−y, rounded down as {@link weightTable} says. */
function weightOf(y: number): number {
  if (!(y < 30)) return 0;
  const fixed = Math.floor(y * 2 ** 20),
    coarse = TABLE[(fixed >> 10) & 1023] ?? 0,
    fine = TABLE[1024 + (fixed & 1023)] ?? 0;
  return Math.floor((coarse - Math.floor(coarse * fine / 2 ** 26)) / 2 ** (fixed >> 20));
}

/** ⌊whole·part⌋, with the part in whole units of 2^−25. */
function partOf(whole: number, part: number): number {
  return Number(BigInt(whole) * BigInt(Math.round(part * CHOICE_UNIT)) / BigInt(CHOICE_UNIT));
}

/** The settings of a sampler on the GPU, as {@link createSampler} has them; null for the most likely tokens. */
export function drawSettings(
  options: SamplingOptions,
  prompt: readonly number[],
  { chosen = [] }: { readonly chosen?: readonly number[] } = {},
): DrawSettings | null {
  if (isGreedy(options)) return null;
  const { temperature = 0, topK = 0, topP = 1, repetitionPenalty = 1, seed = 0 } = options;
  const { frequencyPenalty = 0, presencePenalty = 0 } = options;
  return { temperature, topK, topP, repetitionPenalty, frequencyPenalty, presencePenalty, seed, prompt, chosen };
}

// The loops below pass over a whole vocabulary for each token: they count indices, as iterators take several times as long.

function penalized(logits: Float32Array, options: ChoiceOptions): Float64Array {
  const { repetitionPenalty = 1, seen = [], chosen = new Map() } = options;
  const scores = new Float64Array(logits.length);
  for (let id = 0; id < scores.length; id++) {
    const logit = logits[id] ?? NaN;
    if (!Number.isFinite(logit)) throw notFinite();
    scores[id] = logit;
  }
  if (!isPenalized(options)) return scores;
  const penalty = Math.fround(repetitionPenalty), reciprocal = Math.fround(1 / repetitionPenalty);
  for (const id of new Set(seen)) {
    const score = scores[id];
    if (score !== undefined) scores[id] = Math.fround(score * (score < 0 ? penalty : reciprocal));
  }
  for (const [id, times] of chosen) scores[id] = Math.fround((scores[id] ?? 0) - takenFrom(times, options));
  return scores;
}

function largest(scores: Float64Array): number {
  let best = 0, top = -Infinity;
  for (let id = 0; id < scores.length; id++) {
    const score = scores[id] ?? NaN;
    if (score <= top) continue;
    best = id;
    top = score;
  }
  return best;
}

/** Index drawn in proportion to weights. */
function draw(weights: Float64Array, u: number): number {
  let left = partOf(sum(weights), u), last = 0;
  for (let id = 0; id < weights.length; id++) {
    const weight = weights[id] ?? 0;
    if (weight === 0) continue;
    last = id;
    left -= weight;
    if (left < 0) break;
  }
  return last;
}

/** Sets the scores below the k-th largest to −∞. */
function keepLargest(scores: Float64Array, k: number): void {
  const ids = idsFrom(scores, -Infinity);
  const least = scores[ids[selectTop(ids, scores, { need: k, masses: null }) - 1] ?? 0] ?? 0;
  for (let id = 0; id < scores.length; id++) if ((scores[id] ?? 0) < least) scores[id] = -Infinity;
}

/** Sets all weights to 0 but the fewest of the largest whose share reaches p, at least one. */
function keepNucleus(weights: Float64Array, p: number): void {
  const total = sum(weights);
  // All weights below this together do not reach 1 − p, so they are dropped; mostly few are left. The factor is for rounding.
  const least = (1 - 1e-9) * (1 - p) * total / weights.length;
  const ids = idsFrom(weights, least);
  const count = selectTop(ids, weights, { need: Math.max(1, partOf(total, p)), masses: weights });
  for (let index = count; index < ids.length; index++) weights[ids[index] ?? 0] = 0;
  for (let id = 0; id < weights.length; id++) if ((weights[id] ?? 0) < least) weights[id] = 0;
}

function sum(values: Float64Array): number {
  let total = 0;
  for (let index = 0; index < values.length; index++) total += values[index] ?? 0;
  return total;
}

/** Ids of the values from `least` on. */
function idsFrom(values: Float64Array, least: number): Uint32Array {
  const ids = new Uint32Array(values.length);
  let count = 0;
  for (let id = 0; id < values.length; id++) if ((values[id] ?? 0) >= least) ids[count++] = id;
  return ids.subarray(0, count);
}

/**
 * Moves the ids of the largest values to the front and returns their number: the fewest, but at least one, whose masses
 * sum to the needed mass (each has mass 1 if `masses` is null). The id of the least of them comes last, the others in
 * no order. Of equal values the lower id counts as larger. Partitions like quickselect (Hoare 1961), which looks about
 * 3 times at each value, where sorting a vocabulary would take 16.
 */
function selectTop(
  ids: Uint32Array,
  values: Float64Array,
  { need, masses }: { readonly need: number; readonly masses: Float64Array | null },
): number {
  // Ids before `low` are kept, and `left` is the mass still to reach. Ids from `high` on are not kept.
  let low = 0, high = ids.length, left = need;
  while (low < high) {
    swap(ids, (low + high) >>> 1, high - 1);
    const pivot = ids[high - 1] ?? 0, value = values[pivot] ?? 0;
    let border = low, larger = 0;
    for (let index = low; index < high - 1; index++) {
      const id = ids[index] ?? 0, own = values[id] ?? 0;
      if (own < value || (own === value && id > pivot)) continue;
      larger += masses ? masses[id] ?? 0 : 1;
      swap(ids, index, border++);
    }
    swap(ids, border, high - 1);
    if (larger >= left) {
      high = border;
      continue;
    }
    low = border + 1;
    left -= larger + (masses ? masses[pivot] ?? 0 : 1);
    if (left <= 0) break;
  }
  return Math.max(1, low);
}

function swap(ids: Uint32Array, a: number, b: number): void {
  const id = ids[a] ?? 0;
  ids[a] = ids[b] ?? 0;
  ids[b] = id;
}
