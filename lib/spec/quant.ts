// Weights in blocks of 32 columns, value = d·q + m, on the host.
import { QUANT_BLOCK, QUANT_ROWS, quantBits, quantColumns, type QuantDtype } from "../../kernels/mod.ts";

/** Block-quantised rows of a matrix: column c of a row is d·q + m, with d and m of block ⌊c / 32⌋. */
export interface QuantRows {
  /** q, row-major; rows are padded to whole blocks. */
  readonly codes: Uint8Array<ArrayBuffer>;
  /** d (lower half) and m (upper half) as f16 bits, one word per block of a row, row-major. */
  readonly scales: Uint32Array<ArrayBuffer>;
}

/** Rows as the texels of a matrix, [rows / 4, stride / columns of a texel] and [rows / 4, stride / 32]. */
export interface QuantTexels {
  readonly codes: Uint32Array<ArrayBuffer>;
  readonly scales: Uint32Array<ArrayBuffer>;
}

/** Largest magnitude that {@link quantizeRows} supports: all d and m are then finite in f16. */
export const QUANT_LIMIT = 32768;

/** Number of blocks of a row. */
export function blocksOf(cols: number): number {
  return Math.ceil(cols / QUANT_BLOCK);
}

/**
 * Rounds rows of finite values of at most {@link QUANT_LIMIT} to the nearest code. No value changes by more than d/2
 * (plus f32 rounding):
 * - q8: d is max |x| / 127, rounded up to f16; q = 128 is 0.
 * - q4: m is min x rounded down to f16, d is (max x − m) / 15 rounded up to f16.
 *   A block that contains a zero preserves it: d is (max(x, 0) − min(x, 0)) / 14 rounded up to 7 bits, m a multiple
 *   of d.
 *
 * Zeros stay zeros, so padding needs no special handling; rows are padded to whole blocks with zeros.
 */
export function quantizeRows(
  values: Float32Array,
  { cols, dtype }: { readonly cols: number; readonly dtype: QuantDtype },
): QuantRows {
  const rows = values.length / cols, blocks = blocksOf(cols), top = 2 ** quantBits(dtype) - 1;
  const codes = new Uint8Array(rows * blocks * QUANT_BLOCK);
  const scales = new Float16Array(2 * rows * blocks);
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let row = 0, index = 0; row < rows; row++) {
    const end = (row + 1) * cols;
    for (let from = row * cols; from < end; from += QUANT_BLOCK, index++) {
      const to = Math.min(from + QUANT_BLOCK, end), isPadded = to - from < QUANT_BLOCK;
      const { d, m } = dtype === "q8" ? symmetric(largest(bits, from, to)) : scaleQ4(values, { from, to, isPadded });
      scales[2 * index] = d;
      scales[2 * index + 1] = m;
      if (d === 0) continue;
      const first = index * QUANT_BLOCK;
      // m is at most the least value: the quotients are not negative.
      for (let at = from; at < to; at++) {
        codes[first + at - from] = Math.min(top, ((values[at] as number) - m) / d + 0.5 | 0);
      }
      if (isPadded) codes.fill(Math.min(top, -m / d + 0.5 | 0), first + to - from, first + QUANT_BLOCK);
    }
  }
  return { codes, scales: new Uint32Array(scales.buffer) };
}

/** The dequantised values of rows in f32. */
export function dequantizeRows({ codes, scales }: QuantRows, cols: number): Float32Array<ArrayBuffer> {
  const blocks = blocksOf(cols), rows = scales.length / blocks;
  const values = new Float32Array(rows * cols), pairs = Float32Array.from(new Float16Array(scales.buffer));
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < cols; column++) {
      const block = row * blocks + Math.floor(column / QUANT_BLOCK);
      // Exact in f64 and therefore rounded only once, since d·q is exact in f32 too.
      const q = codes[row * blocks * QUANT_BLOCK + column] ?? 0;
      values[row * cols + column] = (pairs[2 * block] ?? 0) * q + (pairs[2 * block + 1] ?? 0);
    }
  }
  return values;
}

/** Index of the first word of scales that contains NaN or infinity, or −1. */
export function firstBrokenScale({ scales }: QuantRows): number {
  for (let i = 0; i < scales.length; i++) {
    const word = scales[i] as number;
    if ((word & 0x7c00) === 0x7c00 || (word & 0x7c000000) === 0x7c000000) return i;
  }
  return -1;
}

/** Arranges rows as texels of 4 rows. Missing rows, and columns up to the stride (a multiple of 64), are zero. */
export function packTexels(
  { codes, scales }: QuantRows,
  { cols, stride, dtype }: { readonly cols: number; readonly stride: number; readonly dtype: QuantDtype },
): QuantTexels {
  const blocks = blocksOf(cols), width = blocks * QUANT_BLOCK, rows = scales.length / blocks;
  const perWord = quantColumns(dtype), quads = inQuads(codes);
  const groups = Math.ceil(rows / QUANT_ROWS), texels = stride / perWord, scaleTexels = stride / QUANT_BLOCK;
  const words = new Uint32Array(groups * texels * QUANT_ROWS);
  const scaleWords = new Uint32Array(groups * scaleTexels * QUANT_ROWS);
  for (let row = 0; row < rows; row++) {
    const group = Math.floor(row / QUANT_ROWS), part = row % QUANT_ROWS;
    for (let t = 0, at = row * width / 4; t < width / perWord; t++) {
      const word = quads[at++] as number;
      words[(group * texels + t) * QUANT_ROWS + part] = dtype === "q8"
        ? word
        : nibbles(word) | nibbles(quads[at++] as number) << 16;
    }
    for (let block = 0; block < blocks; block++) {
      scaleWords[(group * scaleTexels + block) * QUANT_ROWS + part] = scales[row * blocks + block] ?? 0;
    }
  }
  return { codes: words, scales: scaleWords };
}

/** Codes four at a time, the first in the lowest byte. Blocks are whole words. */
function inQuads(codes: Uint8Array): Uint32Array {
  const aligned = codes.byteOffset % 4 === 0 ? codes : codes.slice();
  return new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4);
}

/** The lower four bits of each byte, side by side. */
function nibbles(word: number): number {
  const pairs = (word | word >>> 4) & 0x00ff00ff;
  return (pairs | pairs >>> 8) & 0xffff;
}

/** The inverse of {@link packTexels}, for all rows of the texels. */
export function unpackTexels(
  { codes, scales }: QuantTexels,
  { cols, stride, dtype }: { readonly cols: number; readonly stride: number; readonly dtype: QuantDtype },
): QuantRows {
  const blocks = blocksOf(cols), width = blocks * QUANT_BLOCK;
  const bits = quantBits(dtype), perWord = quantColumns(dtype), mask = 2 ** bits - 1;
  const texels = stride / perWord, scaleTexels = stride / QUANT_BLOCK, rows = codes.length / texels;
  const out = new Uint8Array(rows * width), outScales = new Uint32Array(rows * blocks);
  for (let row = 0; row < rows; row++) {
    const group = Math.floor(row / QUANT_ROWS), part = row % QUANT_ROWS;
    for (let column = 0; column < width; column++) {
      const word = codes[(group * texels + Math.floor(column / perWord)) * QUANT_ROWS + part] ?? 0;
      out[row * width + column] = word >>> column % perWord * bits & mask;
    }
    for (let block = 0; block < blocks; block++) {
      outScales[row * blocks + block] = scales[(group * scaleTexels + block) * QUANT_ROWS + part] ?? 0;
    }
  }
  return { codes: out, scales: outScales };
}

interface Scale {
  readonly d: number;
  readonly m: number;
}

const single = new Float32Array(1), singleBits = new Uint32Array(single.buffer);

/** The largest |x|: without their signs f32 are in the order of their bits, which compare in half the time. */
function largest(bits: Uint32Array, from: number, to: number): number {
  let most = 0;
  for (let at = from; at < to; at++) {
    const size = (bits[at] as number) & 0x7fffffff;
    most = size > most ? size : most;
  }
  singleBits[0] = most;
  return single[0] as number;
}

/** −128·d is exact in f16. */
function symmetric(size: number): Scale {
  const d = f16Above(size / 127);
  return { d, m: -128 * d };
}

/** d and m of a block of q4; `isPadded`: zeros follow. */
function scaleQ4(
  values: Float32Array,
  { from, to, isPadded }: { readonly from: number; readonly to: number; readonly isPadded: boolean },
): Scale {
  let least = isPadded ? 0 : Infinity, most = isPadded ? 0 : -Infinity, hasZero = isPadded;
  for (let at = from; at < to; at++) {
    const x = values[at] as number;
    if (x < least) least = x;
    if (x > most) most = x;
    hasZero ||= x === 0;
  }
  return hasZero ? withZero(least, most) : affine(least, most);
}

function affine(least: number, most: number): Scale {
  const m = least < 0 ? -f16Above(-least) : f16Below(least);
  return { d: f16Above((most - m) / 15), m };
}

/** least ≤ 0 ≤ most. With a 7-bit d, m = −z·d with z ≤ 15 has 11 bits and is exact in f16. */
function withZero(least: number, most: number): Scale {
  const size = (most - least) / 14;
  if (size === 0) return { d: 0, m: 0 };
  const unit = 2 ** Math.max(-24, Math.floor(Math.log2(size)) - 6);
  const d = Math.ceil(size / unit) * unit;
  return { d, m: 0 - Math.ceil(-least / d) * d }; // never −0
}

const half = new Float16Array(1), halfBits = new Uint16Array(half.buffer);

/** The smallest f16 that is ≥ x, for x ≥ 0. */
function f16Above(x: number): number {
  half[0] = x;
  if ((half[0] ?? 0) < x) halfBits[0] = (halfBits[0] ?? 0) + 1;
  return half[0] ?? 0;
}

/** The largest f16 that is ≤ x, for x ≥ 0. */
function f16Below(x: number): number {
  half[0] = x;
  if ((half[0] ?? 0) > x) halfBits[0] = (halfBits[0] ?? 0) - 1;
  return half[0] ?? 0;
}
