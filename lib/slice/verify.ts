// Verifies a sliced model: its logits must equal those of the masked model on held-out tokens. Compares layer by layer,
// so that no whole model is in memory twice.
import { option, refuse } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import type { Device } from "../gpu/device.ts";
import type { RowRange, WeightSource } from "../spec/source.ts";
import type { PassShape } from "../nn/activations.ts";
import { recordFinalNorm, recordLogits } from "../nn/head.ts";
import { strideOf } from "../nn/padding.ts";
import type { Pass } from "../nn/context.ts";
import { createPass } from "../nn/pass.ts";
import { type DecoderSpec, embeddingWidth, hasBias } from "../spec/decoder.ts";
import { loadWeights } from "../nn/weights.ts";
import type { Adapters } from "../model/model.ts";
import { type AdaptedSource, headPart } from "../model/parts.ts";
import {
  columns,
  embedded,
  type Group,
  grouped,
  layerOutputs,
  type RunInput,
  type States,
  writeInput,
} from "./by_layers.ts";

/** Input of {@link verifySliced}. */
export interface VerifyInput {
  /** Device to run on. */
  readonly device: Device;
  /** Masks and LoRA of the masked model. The sliced model runs without them. */
  readonly adapters: Adapters;
  /** Held-out sequences of token ids. Long ones are split into pieces of `window` tokens, short ones are padded. */
  readonly tokens: readonly (readonly number[])[];
  /** Tokens per piece. Default 256. */
  readonly window?: number | undefined;
  /** Tokens per pass, in whole pieces and at least one; default 512. */
  readonly rows?: number | undefined;
  /** Largest allowed logit difference, relative to the range of the logits; default 1e-3. */
  readonly tolerance?: number | undefined;
  /** Aborts the comparison. */
  readonly signal?: AbortSignal | undefined;
  /** Called as layers and bands of the output head are compared, with the completed share, from 0 to 1. */
  readonly onProgress?: ((share: number) => void) | undefined;
}

const NAMES: NamesOf<VerifyInput> = {
  device: true,
  adapters: true,
  tokens: true,
  window: "number",
  rows: "number",
  tolerance: "number",
  signal: true,
  onProgress: true,
};

/** Difference of the two models. */
export interface VerifyResult {
  /** Largest logit difference. */
  readonly maxAbs: number;
  /** Largest minus smallest logit of the masked model. */
  readonly range: number;
  /** Number of tokens compared. */
  readonly tokens: number;
}

/** Difference of the values of one stage. */
interface Difference {
  readonly maxAbs: number;
  readonly low: number;
  readonly high: number;
}

/** Default number of tokens per piece and per pass. */
const VERIFY_WINDOW = 256, VERIFY_ROWS = 512;
/** Default of the largest difference, relative to the range of the logits. */
const TOLERANCE = 1e-3;

/** How much of the held-out rows a run compares: a window of one sequence, or up to eight sequences. */
export const CHECKS = ["quick", "full"] as const;
/** How much of the held-out rows a run compares: "quick" or "full". */
export type Check = typeof CHECKS[number];

/** Tokens of a quick comparison, and sequences of a full one, whose logits are all in memory. */
const QUICK_TOKENS = 64, FULL_SEQUENCES = 8;

/** Most tokens that are compared of sequences of `seq` tokens. */
export function comparedCount(seq: number, check: Check): number {
  return check === "quick" ? Math.min(QUICK_TOKENS, seq) : FULL_SEQUENCES * seq;
}

/**
 * The tokens to compare. A quick comparison goes through every layer and the logits of the whole vocabulary too, for the
 * first {@link QUICK_TOKENS} tokens of the longest of the sequences: a wrong cut shows at any token.
 */
export function comparedTokens(
  sequences: readonly (readonly number[])[],
  check: Check,
): readonly (readonly number[])[] {
  const first = sequences.slice(0, FULL_SEQUENCES);
  if (check === "full") return first;
  const longest = first.reduce((most, one) => one.length > most.length ? one : most, []);
  return [longest.slice(0, QUICK_TOKENS)];
}
/** Largest part of the output head on the GPU, in values. */
const BAND_VALUES = 1 << 22;
const NO_DIFFERENCE: Difference = { maxAbs: 0, low: Infinity, high: -Infinity };

/**
 * Compares the logits of a masked model and of the model sliced from it, both in f32.
 *
 * It uses f32 because W and B·A are merged before rounding in the sliced model, but separate in the masked model. With
 * an f16 base the rounding of weights would make the two differ by more than a wrong unit may. The GPU holds half a
 * layer or a band of the output head at a time, so f32 needs little memory.
 *
 * @throws CompressoError("usage") for unknown options.
 * @throws CompressoError("mismatch") if the logits differ by more than the tolerance or the sliced
 * model's is NaN. Names the first differing layer, among the layers whose outputs should be equal.
 * @throws CompressoError("input") if there are no tokens to compare.
 */
export async function verifySliced(
  masked: WeightSource,
  sliced: WeightSource,
  input: VerifyInput,
): Promise<VerifyResult> {
  checkNames(input, NAMES, { whose: "verifySliced" });
  const { device, adapters, window = VERIFY_WINDOW, rows = VERIFY_ROWS, tolerance = TOLERANCE, signal, onProgress } =
    input;
  const groups = grouped(input.tokens, { window, rows });
  if (groups.length === 0) {
    refuse("input", "cannot compare the masked with the sliced model", {
      rule: "there are held-out tokens",
      value: "none",
    });
  }
  const run = { device, groups, signal };
  const reference: AdaptedSource = { source: masked, adapters }, own: AdaptedSource = { source: sliced, adapters: {} };
  let expected: readonly States[] = await embedded(reference, run),
    actual: readonly States[] = await embedded(own, run);
  const comparison = new SlicedComparison(reference, { groups, tolerance, width: sliced.spec.hidden });
  comparison.compare("the embedding", expected, actual);
  const headBands = bands(masked.spec), parts = masked.spec.layers.length + headBands.length;
  for (const index of masked.spec.layers.keys()) {
    expected = await layerOutputs(reference, index, { ...run, inputs: expected });
    actual = await layerOutputs(own, index, { ...run, inputs: actual });
    if (!awaitsBias(masked.spec, sliced.spec, index + 1)) {
      comparison.compare(`the output of layer ${index}`, expected, actual);
    }
    onProgress?.((index + 1) / parts);
  }
  return await comparison.result(sliced, {
    device,
    signal,
    expected,
    actual,
    onBand: (done) => onProgress?.((masked.spec.layers.length + done) / parts),
  });
}

/** The states of a masked and a sliced model that are being compared, place by place. */
export class SlicedComparison {
  readonly #masked: AdaptedSource;
  readonly #how: { readonly groups: readonly Group[]; readonly tolerance: number; readonly width: number };
  #first: string | null = null;

  /** `width` is the hidden size of the sliced model. */
  constructor(masked: AdaptedSource, { groups, width, tolerance = TOLERANCE }: {
    readonly groups: readonly Group[];
    readonly width: number;
    readonly tolerance?: number | undefined;
  }) {
    this.#masked = masked;
    this.#how = { groups, width, tolerance };
  }

  /** Notes the place if it is the first at which states that should be equal differ. */
  compare(place: string, expected: readonly States[], actual: readonly States[]): void {
    const { source: { spec }, adapters } = this.#masked, { groups, tolerance, width } = this.#how;
    const { maxAbs, low, high } = differenceOf(kept(expected, spec.hidden, adapters), actual, { groups, width });
    // A tenth of the tolerance: later layers may amplify a difference, and f32 alone causes far less.
    if (!(maxAbs <= (tolerance / 10) * (high - low))) this.#first ??= place;
  }

  /**
   * Compares the logits, from the states after the last layer, in f32.
   *
   * @throws CompressoError("numeric") if the masked model's are not finite.
   * @throws CompressoError("mismatch") if they differ by more than the tolerance or the sliced model's is NaN.
   */
  async result(
    sliced: WeightSource,
    { expected, actual, onBand, ...run }: Pick<RunInput, "device" | "signal"> & {
      readonly expected: readonly States[];
      readonly actual: readonly States[];
      /** Called with the bands of the output head that are compared. */
      readonly onBand?: (done: number) => void;
    },
  ): Promise<VerifyResult> {
    const { groups, tolerance } = this.#how, { spec } = this.#masked.source, own = { source: sliced, adapters: {} };
    let difference = NO_DIFFERENCE, isBroken = false;
    for (const [index, rows] of bands(spec).entries()) {
      const wanted = await bandLogits(this.#masked, rows, { ...run, groups, inputs: expected });
      const found = await bandLogits(own, rows, { ...run, groups, inputs: actual });
      isBroken ||= hasBroken(wanted, { groups, width: rows.count });
      difference = merged(difference, differenceOf(wanted, found, { groups, width: rows.count }));
      onBand?.(index + 1);
    }
    const { maxAbs, low, high } = difference, range = high - low;
    if (isBroken) {
      refuse("numeric", "cannot compare the masked with the sliced model", {
        rule: "the logits of the masked model are finite",
        value: `NaN or infinity, ${this.#first === null ? "in the output head" : `at ${this.#first} or before`}`,
        fix: `if LoRA ran away in the last step, lower ${option("rates.lora")} and continue (${
          option("resume")
        }, with ${option("mayDiffer", "rates")})`,
      });
    }
    if (!(maxAbs <= tolerance * range)) {
      refuse("mismatch", "the sliced model does not compute what the masked model does", {
        rule: `logits differ by at most ${tolerance} of their range, ${range.toPrecision(4)}`,
        value: `${maxAbs.toPrecision(3)}, first in ${this.#first ?? "the final norm or the output head"}`,
        fix: "report this",
      });
    }
    return { maxAbs, range, tokens: groups.reduce((sum, { rows }) => sum + rows.length, 0) };
  }
}

/**
 * Whether, from layer `next` on, a fully cut part precedes the next remaining one. Its bias was then moved to an
 * earlier layer, and the masked model adds it later.
 */
function awaitsBias(masked: DecoderSpec, sliced: DecoderSpec, next: number): boolean {
  for (let index = next; index < masked.layers.length; index++) {
    for (const [projection, part] of [["o", "heads"], ["down", "ffn"]] as const) {
      if (masked.layers[index]?.[part] === 0) continue;
      if ((sliced.layers[index]?.[part] ?? 0) > 0) return false;
      if (hasBias(masked, projection)) return true;
    }
  }
  return false;
}

/**
 * Settings with which {@link verifySliced} needs no more memory than training on batches of this shape, apart from its
 * weights.
 */
export function verifyShape(
  { batch, seq, check }: PassShape & { readonly check: Check },
): { readonly window: number; readonly rows: number } {
  const window = Math.min(check === "quick" ? QUICK_TOKENS : VERIFY_WINDOW, seq);
  return { window, rows: check === "quick" ? window : Math.min(VERIFY_ROWS, batch * seq) };
}

/** Allocates and frees the memory of {@link verifySliced} without comparing, for a memory plan on a dry device. */
export async function rehearseVerify(
  source: WeightSource,
  { device, adapters, window = VERIFY_WINDOW, rows = VERIFY_ROWS }: Omit<VerifyInput, "tokens">,
): Promise<void> {
  const groups = grouped([[0]], { window, rows });
  const inputs = groups.map(({ batch, seq }) => new Float32Array(batch * seq * source.spec.hidden));
  const run = { device, groups, signal: undefined, inputs }, side: AdaptedSource = { source, adapters };
  for (const index of source.spec.layers.keys()) await layerOutputs(side, index, run);
  for (const band of bands(source.spec).slice(0, 1)) await bandLogits(side, band, run);
}

/** Logits of each group for a band of the vocabulary [rows, count]. */
async function bandLogits(
  { source }: AdaptedSource,
  rows: RowRange,
  { device, groups, signal, inputs }: RunInput & { readonly inputs: readonly Float32Array[] },
): Promise<Float32Array[]> {
  using weights = await loadWeights(device, headPart(source, rows), {
    baseDtype: "f32",
    signal,
  });
  const [shape] = groups;
  using pass = createPass(device, weights, { batch: shape?.batch ?? 1, seq: shape?.seq ?? 1 });
  const logits: Float32Array[] = [];
  for (const input of inputs) {
    signal?.throwIfAborted();
    writeInput(pass, input);
    logits.push(await allLogits(pass, rows.count));
  }
  return logits;
}

/** Logits [rows, vocab] for the input of the pass. */
async function allLogits(pass: Pass, vocab: number): Promise<Float32Array> {
  const { device, act } = pass, stride = strideOf(vocab), result = new Float32Array(act.rows * vocab);
  for (let first = 0; first < act.rows; first += act.shape.headRows) {
    const rows = Math.min(act.shape.headRows, act.rows - first), context = pass.plan();
    using plan = context.plan;
    if (first === 0) recordFinalNorm(context);
    recordLogits(context, { first, rows });
    await plan.run();
    result.set(columns(await device.readFloats(act.logits, rows * stride), { stride, width: vocab }), first * vocab);
  }
  return result;
}

/** The columns of the hidden dims that slicing keeps. */
function kept(states: readonly Float32Array[], hidden: number, { masks }: Adapters): readonly Float32Array[] {
  const mask = masks?.hidden;
  const dims = Array.from({ length: hidden }, (_, dim) => dim).filter((dim) => mask?.[dim] !== 0);
  if (dims.length === hidden) return states;
  return states.map((values) =>
    Float32Array.from(
      { length: values.length / hidden * dims.length },
      (_, i) => values[Math.floor(i / dims.length) * hidden + (dims[i % dims.length] ?? 0)] ?? NaN,
    )
  );
}

/** Whether a value of the rows that contain tokens is not finite. */
function hasBroken(
  values: readonly Float32Array[],
  { groups, width }: { readonly groups: readonly Group[]; readonly width: number },
): boolean {
  return groups.some(({ rows }, index) =>
    rows.some((row) => !values[index]?.subarray(row * width, (row + 1) * width).every(Number.isFinite))
  );
}

/** Compares the rows that contain tokens. NaN counts as larger than any number, and persists. */
function differenceOf(
  expected: readonly Float32Array[],
  actual: readonly Float32Array[],
  { groups, width }: { readonly groups: readonly Group[]; readonly width: number },
): Difference {
  let maxAbs = 0, low = Infinity, high = -Infinity;
  groups.forEach(({ rows }, index) => {
    const wanted = expected[index], given = actual[index];
    for (const row of rows) {
      for (let i = row * width; i < (row + 1) * width; i++) {
        const value = wanted?.[i] ?? NaN, difference = Math.abs(value - (given?.[i] ?? NaN));
        if (!(difference <= maxAbs) && !Number.isNaN(maxAbs)) maxAbs = difference;
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
  });
  return { maxAbs, low, high };
}

function merged(first: Difference, second: Difference): Difference {
  return {
    maxAbs: Math.max(first.maxAbs, second.maxAbs), // NaN if either is
    low: Math.min(first.low, second.low),
    high: Math.max(first.high, second.high),
  };
}

/** Bands of the vocabulary, the same for all models. */
function bands({ vocab, ...spec }: DecoderSpec): RowRange[] {
  const size = Math.max(1, Math.floor(BAND_VALUES / embeddingWidth(spec)));
  return Array.from({ length: Math.ceil(vocab / size) }, (_, index) => ({
    start: index * size,
    count: Math.min(size, vocab - index * size),
  }));
}
