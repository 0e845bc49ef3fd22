// The proof that a sliced model is the masked one: equal logits on held-out tokens. Owns the comparison and the name of the layer that breaks it.
import { CompressoError } from "../errors.ts";
import type { Adapters, Model } from "./model.ts";

/** What {@link verifySliced} runs. */
export interface VerifyInput {
  /** Masks and LoRA of the masked model; the sliced one runs bare. */
  readonly adapters: Adapters;
  /** Held-out sequences of token ids; long ones are cut into pieces of `window` tokens. */
  readonly tokens: readonly (readonly number[])[];
  /** Default 256. */
  readonly window?: number;
  /** Largest difference of a logit, as part of the logits' range; default 1e-3. */
  readonly tolerance?: number;
  /** Stops the work. */
  readonly signal?: AbortSignal;
}

/** How far the two are from each other. */
export interface VerifyResult {
  /** Largest difference of a logit. */
  readonly maxAbs: number;
  /** Largest minus smallest logit of the masked model. */
  readonly range: number;
  /** Tokens compared. */
  readonly tokens: number;
}

/**
 * Compares the logits of a masked model and of the model sliced from it.
 *
 * Load both with `baseDtype: "f32"`: W and B·A are merged before rounding in the sliced model, but apart in the masked one, so with an f16 base the
 * two differ by the rounding of weights to f16, far more than a fault in one unit may show.
 *
 * Throws `CompressoError("mismatch")` naming the layer that first differs where they differ by more than the tolerance or either gives NaN,
 * and `CompressoError("input")` where there is nothing to compare.
 */
export async function verifySliced(masked: Model, sliced: Model, input: VerifyInput): Promise<VerifyResult> {
  const { adapters, window = 256, tolerance = 1e-3, signal } = input;
  const pieces = input.tokens.flatMap((sequence) => cut(sequence, window));
  if (pieces.length === 0) {
    throw new CompressoError("input", {
      what: "cannot compare the masked with the sliced model",
      rule: "there are held-out tokens",
      value: "none",
    });
  }
  let maxAbs = 0, low = Infinity, high = -Infinity, worst = pieces[0] ?? [];
  for (const piece of pieces) {
    signal?.throwIfAborted();
    const expected = await masked.logits(piece, adapters), actual = await sliced.logits(piece);
    const difference = largestDifference(expected, actual);
    // Written so that NaN counts as larger than any number, and stays.
    if (!(difference <= maxAbs) && !Number.isNaN(maxAbs)) [maxAbs, worst] = [difference, piece];
    for (const value of expected) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  const range = high - low;
  if (!(maxAbs <= tolerance * range)) {
    throw new CompressoError("mismatch", {
      what: "the sliced model does not compute what the masked model does",
      rule: `logits differ by at most ${tolerance} of their range, ${range.toPrecision(4)}`,
      value: `${maxAbs.toPrecision(3)}, first in ${await firstDifference(masked, sliced, {
        adapters,
        piece: worst,
        tolerance,
      })}`,
      mend: "load both with an f32 base; if they still differ, report this",
    });
  }
  return { maxAbs, range, tokens: pieces.reduce((sum, piece) => sum + piece.length, 0) };
}

/** The part whose output first differs, on the residual stream's kept dims. */
async function firstDifference(
  masked: Model,
  sliced: Model,
  { adapters, piece, tolerance }: {
    readonly adapters: Adapters;
    readonly piece: readonly number[];
    readonly tolerance: number;
  },
): Promise<string> {
  const expected = await masked.hiddenStates(piece, adapters), actual = await sliced.hiddenStates(piece);
  const mask = adapters.masks?.hidden, { hidden } = masked.spec;
  const kept = Array.from({ length: hidden }, (_, dim) => dim).filter((dim) => mask?.[dim] !== 0);
  for (const [index, full] of expected.entries()) {
    const own = actual[index] ?? new Float32Array(0);
    const picked = new Float32Array(piece.length * kept.length);
    let low = Infinity, high = -Infinity;
    for (let t = 0; t < piece.length; t++) {
      for (const [place, dim] of kept.entries()) {
        const value = full[t * hidden + dim] ?? NaN;
        picked[t * kept.length + place] = value;
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    // A tenth of the tolerance: later layers may enlarge what begins here, and f32 alone differs by far less.
    if (largestDifference(picked, own) <= (tolerance / 10) * (high - low)) continue;
    return index === 0 ? "the embedding" : `the output of layer ${index - 1}`;
  }
  return "the final norm or the output head";
}

function largestDifference(expected: Float32Array, actual: Float32Array): number {
  if (expected.length !== actual.length) return NaN;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs((expected[i] ?? NaN) - (actual[i] ?? NaN));
    if (Number.isNaN(difference)) return NaN;
    if (difference > largest) largest = difference;
  }
  return largest;
}

function cut(sequence: readonly number[], window: number): (readonly number[])[] {
  return Array.from(
    { length: Math.ceil(sequence.length / window) },
    (_, piece) => sequence.slice(piece * window, (piece + 1) * window),
  );
}
