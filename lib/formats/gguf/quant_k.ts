// f32 to GGML's K blocks of 256 values, as ggml's quantisers do with and without an importance matrix, bit for bit. Every product, sum and
// quotient is rounded to f32 in its order. Layouts: see dequant.ts.
import { f16Table, narrowF16 } from "../../core/half.ts";
import {
  bounded,
  createWork,
  extremeOf,
  fitFromLeast,
  fitPositive,
  fitSigned,
  fitThird,
  largestOf,
  LEAST,
  nearest,
  recode,
  recodeSigned,
  squaresOf,
  weighErrors,
  WEIGHTED_STEPS,
  type Work,
} from "./quant_fit.ts";
import { type GgufTensorType, TENSOR_FORMATS } from "./types.ts";

/** Types of blocks of 256 values. */
export type KType = Extract<GgufTensorType, `${string}_k`>;

const fround = Math.fround;
const BLOCK = 256;
const TENTH = fround(0.1);

/** Writes the block of values that begins at `from` into `out`, which is zeros there, from `at` on. */
type BlockWriter = (work: Work, from: number, out: Uint8Array, at: number) => void;

/**
 * Encodes whole blocks of 256 finite values.
 *
 * @param importance - Of each column, where errors count by it; values are then whole rows.
 */
export function quantizeK(values: Float32Array, type: KType, importance: Float32Array | null = null): Uint8Array {
  const { bytes } = TENSOR_FORMATS[type], write = WRITERS[type];
  const out = new Uint8Array(values.length / BLOCK * bytes);
  const work = createWork(values, importance);
  for (let from = 0, at = 0; from < values.length; from += BLOCK, at += bytes) write(work, from, out, at);
  return out;
}

const WRITERS: Readonly<Record<KType, BlockWriter>> = {
  q2_k(work, from, out, at): void {
    const { values, importance, weights, scales, minima, sums, codes } = work;
    let d: number, m: number;
    if (importance) {
      const sigma2 = fround(squaresOf(values, from, BLOCK) / BLOCK), all = { from, count: 16, most: 3 };
      for (let group = 0; group < 16; group++) {
        sums[group] = weighErrors({ values, importance, weights }, { first: from + 16 * group, count: 16, sigma2 });
        fitFromLeast(work, { ...all, group, ...WEIGHTED_STEPS });
      }
      d = putHalf(out, at + 80, fitPositive(scales, sums, { count: 16, most: 15, codes: LEVELS }));
      m = putHalf(out, at + 82, fitPositive(minima, sums, { count: 16, most: 15, codes: LOWS }));
      for (let group = 0; group < 16; group++) {
        out[at + group] = (LEVELS[group] as number) | (LOWS[group] as number) << 4;
      }
    } else {
      for (let group = 0; group < 16; group++) {
        for (let i = 0; i < 16; i++) weights[i] = Math.abs(values[from + 16 * group + i] as number);
        fitFromLeast(work, { from, group, count: 16, most: 3, low: -0.5, rise: TENTH, steps: 15, isAbsolute: true });
      }
      const largest = largestOf(scales, 16), least = largestOf(minima, 16);
      const inverse = largest > 0 ? fround(15 / largest) : 0, inverseLeast = least > 0 ? fround(15 / least) : 0;
      for (let group = 0; group < 16; group++) {
        out[at + group] = nearest(fround(inverse * (scales[group] as number))) |
          nearest(fround(inverseLeast * (minima[group] as number))) << 4;
      }
      d = putHalf(out, at + 80, fround(largest / 15));
      m = putHalf(out, at + 82, fround(least / 15));
    }
    for (let group = 0; group < 16; group++) {
      const packed = out[at + group] as number;
      recode(work, { from, group, count: 16, d: fround(d * (packed & 15)), m: fround(m * (packed >> 4)), most: 3 });
    }
    packPairs(codes, out, at + 16);
  },

  q3_k(work, from, out, at): void {
    const { codes } = work, d = putHalf(out, at + 108, thirdScales(work, from));
    for (let group = 0; group < 16; group++) {
      // Levels from −32 on, as they are stored.
      const stored = SIGNED[group] as number, low = at + 96 + (group & 7), high = at + 104 + (group & 3);
      out[low] = (out[low] as number) | (stored & 15) << (group >> 3) * 4;
      out[high] = (out[high] as number) | stored >> 4 << (group >> 2) * 2;
      recodeSigned(work, { from, group, d: fround(d * (stored - 32)), half: 4 });
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
    const { values, importance, scales, codes } = work, column = importance ? from % importance.length : 0;
    for (let group = 0; group < 16; group++) {
      const to = 16 * group, weights = importance?.subarray(column + to, column + to + 16);
      scales[group] = fitSigned({ values, first: from + to, count: 16, weights, codes, to, half: 32 });
    }
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

/** Of the groups of a block: codes of their scales and minima. */
const LEVELS = new Uint8Array(16), LOWS = new Uint8Array(16), SIGNED = new Int8Array(16);

/** Codes of a q3_k block by its 16 groups, whose levels it writes into {@link SIGNED}, from 0 to 63; returns the scale of the levels. */
function thirdScales(work: Work, from: number): number {
  const { values, importance, weights, scales, sums, codes } = work;
  if (importance) {
    const sigma2 = fround(fround(2 * squaresOf(values, from, BLOCK)) / BLOCK);
    for (let group = 0; group < 16; group++) {
      const first = from + 16 * group, to = 16 * group;
      sums[group] = weighErrors({ values, importance, weights }, { first, count: 16, sigma2 });
      scales[group] = fitSigned({ values, first, count: 16, weights, codes, to, half: 4 });
    }
    return fitSigned({ values: scales, first: 0, count: 16, weights: sums, codes: SIGNED, to: 0, half: 32 });
  }
  for (let group = 0; group < 16; group++) scales[group] = fitThird(work, from, group);
  const extreme = extremeOf(scales), inverse = extreme === 0 ? 0 : fround(-32 / extreme);
  for (let group = 0; group < 16; group++) {
    SIGNED[group] = extreme === 0 ? 0 : bounded(nearest(fround(inverse * (scales[group] as number))), -32, 31) + 32;
  }
  return extreme === 0 ? 0 : fround(1 / inverse);
}

/** Scales, minima and codes of q4_k and q5_k: 8 groups of 32 values. */
function writeSixBitGroups(
  work: Work,
  from: number,
  out: Uint8Array,
  { at, most, low, steps }: {
    readonly at: number;
    readonly most: number;
    /** Trials without an importance matrix. */
    readonly low: number;
    readonly steps: number;
  },
): void {
  const { values, importance, weights, scales, minima, sums } = work;
  let d: number, m: number;
  if (importance) {
    const sigma2 = fround(fround(2 * squaresOf(values, from, BLOCK)) / BLOCK);
    for (let group = 0; group < 8; group++) {
      sums[group] = weighErrors({ values, importance, weights }, { first: from + 32 * group, count: 32, sigma2 });
      fitFromLeast(work, { from, group, count: 32, most, ...WEIGHTED_STEPS });
    }
    d = putHalf(out, at, fitPositive(scales, sums, { count: 8, most: 63, codes: LEVELS }));
    m = putHalf(out, at + 2, fitPositive(minima, sums, { count: 8, most: 63, codes: LOWS }));
  } else {
    for (let group = 0; group < 8; group++) {
      const first = from + 32 * group, typical = fround(Math.sqrt(fround(squaresOf(values, first, 32) / 32)));
      for (let i = 0; i < 32; i++) weights[i] = typical + Math.abs(values[first + i] as number);
      fitFromLeast(work, { from, group, count: 32, most, low, rise: TENTH, steps, isAbsolute: false });
    }
    const largest = largestOf(scales, 8), least = largestOf(minima, 8);
    const inverse = largest > 0 ? fround(63 / largest) : 0, inverseLeast = least > 0 ? fround(63 / least) : 0;
    d = putHalf(out, at, fround(largest / 63));
    m = putHalf(out, at + 2, fround(least / 63));
    for (let group = 0; group < 8; group++) {
      // Through a byte, as there: a negative one is large.
      LEVELS[group] = Math.min(63, nearest(fround(inverse * (scales[group] as number))) & 255);
      LOWS[group] = Math.min(63, nearest(fround(inverseLeast * (minima[group] as number))) & 255);
    }
  }
  for (let group = 0; group < 8; group++) {
    const scale = LEVELS[group] as number, minimum = LOWS[group] as number, to = at + 4 + group;
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
