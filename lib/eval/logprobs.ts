// Log-probabilities of the tokens of given texts.
import { refuse } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import type { Adapters, Model } from "../model/model.ts";

/** A token that the model finds likely. */
export interface LikelyToken {
  /** Its id. */
  readonly id: number;
  /** In nats. */
  readonly logprob: number;
}

/** The model's prediction for one place of a sequence, given the tokens before it. */
export interface PlaceLogprobs {
  /** Log-probability of the token at this place, in nats; null at the first place and after the last token. */
  readonly logprob: number | null;
  /** The most likely tokens there, most likely first, among equals the lowest id first; empty at the first place. */
  readonly top: readonly LikelyToken[];
}

/** Options of {@link tokenLogprobs}. */
export interface TokenLogprobsOptions {
  /** Likely tokens wanted at each place. Default 0. */
  readonly top?: number | undefined;
  /** Masks and LoRA. */
  readonly adapters?: Adapters | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
}

const NAMES: NamesOf<TokenLogprobsOptions> = { top: "number", adapters: true, signal: true };

/** Tokens of a pass, padding included. */
const BATCH_TOKENS = 2048;
/** Lengths are rounded up to this, so that texts of like length share a recorded pass. */
const LENGTH_STEP = 16;

/**
 * Log-probabilities of the tokens of one or more sequences: a sequence of T tokens has T + 1 places, the last one after its last token.
 * Sequences of like length share a forward pass.
 *
 * @throws CompressoError("input") for an empty sequence, one longer than the model's context, and ids outside the vocabulary.
 * @throws CompressoError("usage") for a `top` out of range.
 * @throws CompressoError("numeric") if a log-probability is not finite.
 */
export async function tokenLogprobs(
  model: Model,
  sequences: readonly (readonly number[])[],
  options: TokenLogprobsOptions = {},
): Promise<PlaceLogprobs[][]> {
  checkNames(options, NAMES, { whose: "tokenLogprobs" });
  const { top = 0, adapters, signal } = options, { maxPosition } = model.spec;
  checkLengths(sequences, maxPosition);
  const results: PlaceLogprobs[][] = sequences.map(() => []);
  for (const { indices, seq } of batches(sequences, maxPosition)) {
    signal?.throwIfAborted();
    const batch = indices.length;
    // Padding is on the right, where a causal model does not see it; token 0 exists in every vocabulary.
    const tokens = new Uint32Array(batch * seq), next = new Int32Array(batch * seq).fill(-1);
    indices.forEach((index, row) => {
      const own = sequences[index] ?? [];
      tokens.set(own, row * seq);
      next.set(own.slice(1), row * seq);
      next[row * seq + own.length - 1] = 0; // any label: after the last token only the likely tokens are read
    });
    const { chosen, ids, values } = await model.nextLogprobs(tokens, next, {
      batch,
      top,
      adapters,
      signal,
    });
    indices.forEach((index, row) => {
      const length = sequences[index]?.length ?? 0;
      const places = Array.from({ length }, (_, place): PlaceLogprobs => {
        const at = row * seq + place;
        return {
          logprob: place + 1 < length ? chosen[at] ?? NaN : null,
          top: Array.from(
            { length: top },
            (_, i) => ({ id: ids[at * top + i] ?? 0, logprob: values[at * top + i] ?? NaN }),
          ),
        };
      });
      results[index] = [{ logprob: null, top: [] }, ...places];
    });
  }
  return results;
}

interface Batch {
  /** Of the sequences. */
  readonly indices: readonly number[];
  /** Tokens of each with its padding. */
  readonly seq: number;
}

/** Sequences by length, the longest first, as many in a batch as {@link BATCH_TOKENS} allows. */
function batches(sequences: readonly (readonly number[])[], maxPosition: number): Batch[] {
  const lengthOf = (index: number): number => sequences[index]?.length ?? 0;
  const order = sequences.map((_, index) => index).sort((a, b) => lengthOf(b) - lengthOf(a));
  const made: Batch[] = [];
  for (let first = 0; first < order.length;) {
    const longest = lengthOf(order[first] ?? 0);
    const seq = Math.min(maxPosition, Math.ceil(longest / LENGTH_STEP) * LENGTH_STEP);
    const most = Math.max(1, Math.floor(BATCH_TOKENS / seq));
    // One of half the length would be padding for the most part.
    const fits = order.slice(first, first + most).filter((index) => 2 * lengthOf(index) > longest);
    made.push({ indices: fits, seq });
    first += fits.length;
  }
  return made;
}

function checkLengths(sequences: readonly (readonly number[])[], context: number): void {
  const what = "cannot tell log-probabilities of a text";
  for (const { length } of sequences) {
    if (length === 0) {
      const rule = "it has at least one token", fix = "give a text with one";
      refuse("input", what, { rule, value: "none", fix });
    }
    if (length <= context) continue;
    refuse("input", what, {
      rule: `it fits the model's context of ${context} tokens`,
      value: `${length} tokens`,
    });
  }
}

/** What the model thinks of a place whose logits [vocab] are at hand, and of the token chosen there; in f64. */
export function placeLogprobs(
  logits: Float32Array,
  { id, top }: { readonly id: number; readonly top: number },
): PlaceLogprobs & { readonly logprob: number } {
  let peak = -Infinity, sum = 0;
  for (const logit of logits) peak = Math.max(peak, logit);
  for (const logit of logits) sum += Math.exp(logit - peak);
  const total = Math.log(sum), logprobOf = (at: number): number => (logits[at] ?? NaN) - peak - total;
  // The list stays short, so most logits are compared with its last entry alone.
  const best: number[] = [];
  const value = (at: number | undefined): number => at === undefined ? -Infinity : logits[at] ?? NaN;
  for (let at = 0; top > 0 && at < logits.length; at++) {
    if (best.length === top && value(at) <= value(best.at(-1))) continue;
    const place = best.findIndex((other) => value(at) > value(other));
    best.splice(place < 0 ? best.length : place, 0, at);
    if (best.length > top) best.pop();
  }
  return { logprob: logprobOf(id), top: best.map((at) => ({ id: at, logprob: logprobOf(at) })) };
}
