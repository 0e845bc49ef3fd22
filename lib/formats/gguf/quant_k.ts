// f32 to GGML's K blocks of 256 values, as ggml's reference quantiser does without an importance matrix, bit for bit. Every product, sum and
// quotient is rounded to f32 in its order. Layouts: see dequant.ts.
import { f16Table, narrowF16 } from "../../core/half.ts";
import { type GgufTensorType, TENSOR_FORMATS } from "./types.ts";

/** Types of blocks of 256 values. */
export type KType = Extract<GgufTensorType, `${string}_k`>;

const fround = Math.fround;
const BLOCK = 256;
/** Groups of values below this are zeros, as in ggml. */
const LEAST = fround(1e-15);

/** What one block is worked out in. */
interface Work {
  readonly values: Float32Array;
  /** Of all values of the block. */
  readonly codes: Int8Array;
  /** Of the group that is fitted: a trial's codes, weights, and weights times values. */
  readonly trial: Uint8Array;
  readonly weights: Float32Array;
  readonly moments: Float32Array;
  /** Of the groups. */
  readonly scales: Float32Array;
  readonly minima: Float32Array;
}

/** Writes the block of values that begins at `from` into `out`, which is zeros there, from `at` on. */
type BlockWriter = (work: Work, from: number, out: Uint8Array, at: number) => void;

/** Encodes whole blocks of 256 finite values. */
export function quantizeK(values: Float32Array, type: KType): Uint8Array {
  const { bytes } = TENSOR_FORMATS[type], write = WRITERS[type];
  const out = new Uint8Array(values.length / BLOCK * bytes);
  const work: Work = {
    values,
    codes: new Int8Array(BLOCK),
    trial: new Uint8Array(32),
    weights: new Float32Array(32),
    moments: new Float32Array(32),
    scales: new Float32Array(16),
    minima: new Float32Array(16),
  };
  for (let from = 0, at = 0; from < values.length; from += BLOCK, at += bytes) write(work, from, out, at);
  return out;
}

const WRITERS: Readonly<Record<KType, BlockWriter>> = {
  q2_k(work, from, out, at): void {
    const { values, weights, scales, minima, codes } = work;
    for (let group = 0; group < 16; group++) {
      for (let i = 0; i < 16; i++) weights[i] = Math.abs(values[from + 16 * group + i] as number);
      fitFromLeast(work, { from, group, count: 16, most: 3, low: -0.5, steps: 15, isAbsolute: true });
    }
    const largest = largestOf(scales, 16), least = largestOf(minima, 16);
    const inverse = largest > 0 ? fround(15 / largest) : 0, inverseLeast = least > 0 ? fround(15 / least) : 0;
    for (let group = 0; group < 16; group++) {
      out[at + group] = nearest(fround(inverse * (scales[group] as number))) |
        nearest(fround(inverseLeast * (minima[group] as number))) << 4;
    }
    const d = putHalf(out, at + 80, fround(largest / 15)), m = putHalf(out, at + 82, fround(least / 15));
    for (let group = 0; group < 16; group++) {
      const packed = out[at + group] as number;
      recode(work, { from, group, count: 16, d: fround(d * (packed & 15)), m: fround(m * (packed >> 4)), most: 3 });
    }
    packPairs(codes, out, at + 16);
  },

  q3_k(work, from, out, at): void {
    const { scales, codes } = work;
    for (let group = 0; group < 16; group++) scales[group] = fitThird(work, from, group);
    const extreme = extremeOf(scales);
    const inverse = extreme === 0 ? 0 : fround(-32 / extreme);
    const d = putHalf(out, at + 108, extreme === 0 ? 0 : fround(1 / inverse));
    for (let group = 0; group < 16; group++) {
      const level = extreme === 0 ? -32 : bounded(nearest(fround(inverse * (scales[group] as number))), -32, 31);
      if (extreme !== 0) {
        const stored = level + 32, low = at + 96 + (group & 7), high = at + 104 + (group & 3);
        out[low] = (out[low] as number) | (stored & 15) << (group >> 3) * 4;
        out[high] = (out[high] as number) | stored >> 4 << (group >> 2) * 2;
      }
      recodeSigned(work, { from, group, d: fround(d * level), half: 4 });
    }
    for (let i = 0; i < BLOCK; i++) {
      const code = codes[i] as number;
      if (code < 4) continue;
      const mask = at + (i & 31);
      out[mask] = (out[mask] as number) | 1 << (i >> 5);
      codes[i] = code - 4;
    }
    packPairs(codes, out, at + 32);
  },

  q4_k(work, from, out, at): void {
    writeSixBitGroups(work, from, out, { at, most: 15, low: -1, steps: 20 });
    packNibbles(work.codes, out, at + 16);
  },

  q5_k(work, from, out, at): void {
    const { codes } = work;
    writeSixBitGroups(work, from, out, { at, most: 31, low: -0.5, steps: 15 });
    for (let i = 0; i < BLOCK; i++) {
      const to = at + 16 + (i & 31);
      out[to] = (out[to] as number) | (codes[i] as number >> 4) << (i >> 5);
    }
    packNibbles(codes, out, at + 48);
  },

  q6_k(work, from, out, at): void {
    const { scales, codes } = work;
    for (let group = 0; group < 16; group++) scales[group] = fitSigned(work, from, group);
    const extreme = extremeOf(scales);
    if (Math.abs(extreme) < LEAST) return;
    const inverse = fround(-128 / extreme), d = putHalf(out, at + 208, fround(1 / inverse));
    for (let group = 0; group < 16; group++) {
      const level = Math.min(127, nearest(fround(inverse * (scales[group] as number))));
      out[at + 192 + group] = level;
      recodeSigned(work, { from, group, d: fround(d * level), half: 32 });
    }
    for (let part = 0; part < 2; part++) {
      const first = part * 128, low = at + part * 64, high = at + 128 + part * 32;
      for (let i = 0; i < 32; i++) {
        const a = codes[first + i] as number, b = codes[first + 32 + i] as number;
        const c = codes[first + 64 + i] as number, e = codes[first + 96 + i] as number;
        out[low + i] = a & 15 | (c & 15) << 4;
        out[low + 32 + i] = b & 15 | (e & 15) << 4;
        out[high + i] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | e >> 4 << 6;
      }
    }
  },
};

/** Scales, minima and codes of q4_k and q5_k: 8 groups of 32 values. */
function writeSixBitGroups(
  work: Work,
  from: number,
  out: Uint8Array,
  { at, most, low, steps }: {
    readonly at: number;
    readonly most: number;
    readonly low: number;
    readonly steps: number;
  },
): void {
  const { values, weights, scales, minima } = work;
  for (let group = 0; group < 8; group++) {
    const first = from + 32 * group;
    let squares = 0;
    for (let i = first; i < first + 32; i++) {
      const x = values[i] as number;
      squares = fround(squares + fround(x * x));
    }
    const typical = fround(Math.sqrt(fround(squares / 32)));
    for (let i = 0; i < 32; i++) weights[i] = typical + Math.abs(values[first + i] as number);
    fitFromLeast(work, { from, group, count: 32, most, low, steps, isAbsolute: false });
  }
  const largest = largestOf(scales, 8), least = largestOf(minima, 8);
  const inverse = largest > 0 ? fround(63 / largest) : 0, inverseLeast = least > 0 ? fround(63 / least) : 0;
  const d = putHalf(out, at, fround(largest / 63)), m = putHalf(out, at + 2, fround(least / 63));
  for (let group = 0; group < 8; group++) {
    // Through a byte, as there: a negative one is large.
    const scale = Math.min(63, nearest(fround(inverse * (scales[group] as number))) & 255);
    const minimum = Math.min(63, nearest(fround(inverseLeast * (minima[group] as number))) & 255);
    const to = at + 4 + group;
    if (group < 4) {
      out[to] = scale;
      out[to + 4] = minimum;
    } else {
      out[to + 4] = scale & 15 | (minimum & 15) << 4;
      out[to - 4] = (out[to - 4] as number) | scale >> 4 << 6;
      out[to] = (out[to] as number) | minimum >> 4 << 6;
    }
    recode(work, { from, group, count: 32, d: fround(d * scale), m: fround(m * minimum), most });
  }
}

interface Group {
  /** Where the block begins. */
  readonly from: number;
  readonly group: number;
}

interface Fit extends Group {
  readonly count: number;
  /** Largest code. */
  readonly most: number;
  /** Trials have scales of (largest − least) / (most + low + step / 10). */
  readonly low: number;
  readonly steps: number;
  /** Whether errors count by their size; else by their square. */
  readonly isAbsolute: boolean;
}

/** Scale, minimum (from 0 on, to be taken away) and codes of a group, x ≈ scale·code − minimum, of least weighted error among the trials. */
function fitFromLeast(work: Work, { from, group, count, most, low, steps, isAbsolute }: Fit): void {
  const { values, codes, trial, weights, scales, minima } = work;
  const first = from + count * group, to = count * group;
  let least = values[first] as number, largest = least, sumW = 0, sumX = 0;
  for (let i = 0; i < count; i++) {
    const x = values[first + i] as number, w = weights[i] as number;
    if (x < least) least = x;
    if (x > largest) largest = x;
    sumW = fround(sumW + w);
    sumX = fround(sumX + fround(w * x));
  }
  if (least > 0) least = 0;
  minima[group] = -least;
  scales[group] = 0;
  if (largest === least) {
    codes.fill(0, to, to + count);
    return;
  }
  const inverse = fround(most / fround(largest - least));
  let scale = fround(1 / inverse), error = 0, minimum = least;
  for (let i = 0; i < count; i++) {
    const x = values[first + i] as number;
    const code = bounded(nearest(fround(inverse * fround(x - least))), 0, most);
    const difference = fround(fround(fround(scale * code) + least) - x);
    codes[to + i] = code;
    error = fround(
      error + fround(weights[i] as number * (isAbsolute ? Math.abs(difference) : fround(difference * difference))),
    );
  }
  const rise = fround(0.1);
  for (let step = 0; step <= steps; step++) {
    // From the minimum that is best so far.
    const factor = fround(fround(fround(low + fround(rise * step)) + most) / fround(largest - minimum));
    let sumL = 0, sumLL = 0, sumXL = 0;
    for (let i = 0; i < count; i++) {
      const x = values[first + i] as number;
      const code = bounded(nearest(fround(factor * fround(x - minimum))), 0, most);
      const weighted = fround(weights[i] as number * code);
      trial[i] = code;
      sumL = fround(sumL + weighted);
      sumLL = fround(sumLL + fround(weighted * code));
      sumXL = fround(sumXL + fround(weighted * x));
    }
    const determinant = fround(fround(sumW * sumLL) - fround(sumL * sumL));
    if (!(determinant > 0)) continue;
    let newScale = fround(fround(fround(sumW * sumXL) - fround(sumX * sumL)) / determinant);
    let newMinimum = fround(fround(fround(sumLL * sumX) - fround(sumL * sumXL)) / determinant);
    if (newMinimum > 0) {
      newMinimum = 0;
      newScale = fround(sumXL / sumLL);
    }
    let newError = 0;
    // It only grows: no more of it than to know that it is no less.
    for (let i = 0; i < count && newError < error; i++) {
      const fitted = fround(fround(newScale * (trial[i] as number)) + newMinimum);
      const difference = fround(fitted - (values[first + i] as number));
      const size = isAbsolute ? Math.abs(difference) : fround(difference * difference);
      newError = fround(newError + fround((weights[i] as number) * size));
    }
    if (!(newError < error)) continue;
    for (let i = 0; i < count; i++) codes[to + i] = trial[i] as number;
    error = newError;
    scale = newScale;
    minimum = newMinimum;
  }
  scales[group] = scale;
  minima[group] = -minimum;
}

/** Scale of 16 values as codes of 6 bits around 32, which it writes: the best of 19 trials, weighted by squares. */
function fitSigned({ values, codes, weights, moments }: Work, from: number, group: number): number {
  const first = from + 16 * group, to = 16 * group;
  const extreme = extremeOf(values, first);
  if (Math.abs(extreme) < LEAST) {
    codes.fill(0, to, to + 16);
    return 0;
  }
  for (let i = 0; i < 16; i++) {
    const x = values[first + i] as number, w = fround(x * x);
    weights[i] = w;
    moments[i] = w * x;
  }
  let scale = 0, best = 0;
  for (let trial = 0; trial < 19; trial++) {
    // The plain one comes first, then −9 … 9 without 0.
    const step = trial === 0 ? 0 : trial <= 9 ? trial - 10 : trial - 9;
    const inverse = fround(-fround(32 + fround(fround(0.1) * step)) / extreme);
    let sumXL = 0, sumLL = 0;
    for (let i = 0; i < 16; i++) {
      const level = bounded(nearest(fround(inverse * (values[first + i] as number))), -32, 31);
      sumXL = fround(sumXL + fround(moments[i] as number * level));
      sumLL = fround(sumLL + fround(fround(weights[i] as number * level) * level));
    }
    const isBetter = trial === 0 || (sumLL > 0 && fround(sumXL * sumXL) > fround(best * sumLL));
    if (!isBetter) continue;
    for (let i = 0; i < 16; i++) {
      codes[to + i] = bounded(nearest(fround(inverse * (values[first + i] as number))), -32, 31) + 32;
    }
    scale = sumLL === 0 ? 0 : fround(sumXL / sumLL);
    best = fround(scale * sumXL);
  }
  return scale;
}

/** Scale of 16 values as codes of 3 bits around 4, which it writes: codes change one by one while the error, weighted by squares, falls. */
function fitThird({ values, codes, weights, moments }: Work, from: number, group: number): number {
  const first = from + 16 * group, to = 16 * group;
  const extreme = extremeOf(values, first);
  if (Math.abs(extreme) < LEAST) {
    codes.fill(0, to, to + 16);
    return 0;
  }
  const inverse = fround(-4 / extreme);
  let sumXL = 0, sumLL = 0;
  for (let i = 0; i < 16; i++) {
    const x = values[first + i] as number, w = fround(x * x);
    const level = bounded(nearest(fround(inverse * x)), -4, 3), moment = fround(w * x);
    weights[i] = w;
    moments[i] = moment;
    codes[to + i] = level;
    sumXL = fround(sumXL + fround(moment * level));
    sumLL = fround(sumLL + fround(fround(w * level) * level));
  }
  for (let round = 0; round < 5; round++) {
    let hasChanged = false;
    for (let i = 0; i < 16; i++) {
      const level = codes[to + i] as number, w = weights[i] as number, moment = moments[i] as number;
      let xl = fround(sumXL - fround(moment * level));
      if (!(xl > 0)) continue;
      let ll = fround(sumLL - fround(fround(w * level) * level));
      const next = bounded(nearest(fround(fround(values[first + i] as number * ll) / xl)), -4, 3);
      if (next === level) continue;
      xl = fround(xl + fround(moment * next));
      ll = fround(ll + fround(fround(w * next) * next));
      if (!(ll > 0 && fround(fround(xl * xl) * sumLL) > fround(fround(sumXL * sumXL) * ll))) continue;
      codes[to + i] = next;
      sumXL = xl;
      sumLL = ll;
      hasChanged = true;
    }
    if (!hasChanged) break;
  }
  for (let i = 0; i < 16; i++) codes[to + i] = codes[to + i] as number + 4;
  return sumLL > 0 ? fround(sumXL / sumLL) : 0;
}

/** Codes of a group anew, for the scale d and minimum m as they are stored; a scale of 0 leaves them. */
function recode(
  { values, codes }: Work,
  { from, group, count, d, m, most }: Group & {
    readonly count: number;
    readonly d: number;
    readonly m: number;
    readonly most: number;
  },
): void {
  if (d === 0) return;
  for (let i = count * group; i < count * (group + 1); i++) {
    codes[i] = bounded(nearest(fround(fround(values[from + i] as number + m) / d)), 0, most);
  }
}

/** The same of 16 codes around `half`. */
function recodeSigned(
  { values, codes }: Work,
  { from, group, d, half }: Group & { readonly d: number; readonly half: number },
): void {
  if (d === 0) return;
  for (let i = 16 * group; i < 16 * (group + 1); i++) {
    codes[i] = bounded(nearest(fround(values[from + i] as number / d)), -half, half - 1) + half;
  }
}

/** 2-bit codes: bits 2k of 32 bytes are 32 codes in a row. */
function packPairs(codes: Int8Array, out: Uint8Array, at: number): void {
  for (let i = 0; i < 64; i++) {
    const first = (i >> 5) * 128 + (i & 31);
    out[at + i] = (codes[first] as number) | (codes[first + 32] as number) << 2 | (codes[first + 64] as number) << 4 |
      (codes[first + 96] as number) << 6;
  }
}

/** Low nibbles of 32 bytes are 32 codes in a row, the high ones the next 32. */
function packNibbles(codes: Int8Array, out: Uint8Array, at: number): void {
  for (let i = 0; i < 128; i++) {
    const first = (i >> 5) * 64 + (i & 31);
    out[at + i] = (codes[first] as number) & 15 | (codes[first + 32] as number & 15) << 4;
  }
}

/** Stores a value as f16 and returns what was stored. */
function putHalf(out: Uint8Array, at: number, value: number): number {
  ONE[0] = value;
  const bits = narrowF16(ONE)[0] as number;
  out[at] = bits & 255;
  out[at + 1] = bits >> 8;
  return f16Table()[bits] as number;
}

const ONE = new Float32Array(1);

/** The nearest whole number, halves to even, of an f32 within ±2²²: the sum has no bits for a fraction. */
function nearest(value: number): number {
  return fround(value + SHIFT) - SHIFT;
}

const SHIFT = 1.5 * 2 ** 23;

function bounded(value: number, least: number, most: number): number {
  return value < least ? least : value > most ? most : value;
}

/** The largest of the first values, or 0. */
function largestOf(values: Float32Array, count: number): number {
  let largest = 0;
  for (let i = 0; i < count; i++) if (values[i] as number > largest) largest = values[i] as number;
  return largest;
}

/** The first of 16 values that has the largest size. */
function extremeOf(values: Float32Array, from = 0): number {
  let extreme = 0;
  for (let i = from; i < from + 16; i++) {
    if (Math.abs(values[i] as number) > Math.abs(extreme)) extreme = values[i] as number;
  }
  return extreme;
}
