// GGML's blocks of 32 values as codes and scales, value = d·q + m, without rounding. Layouts: see dequant.ts.
import { minimum6, scale6 } from "./dequant.ts";
import { f16Table, narrowF16 } from "../../core/half.ts";
import type { CodeRows } from "../../spec/quant.ts";
import { type GgufTensorType, TENSOR_FORMATS } from "./types.ts";

/** Types whose blocks of 32 values have one scale and one minimum. */
export type BlockType = keyof typeof CODE_BITS;

/**
 * Bits of a code. The scales of q4_k and q5_k are products of an f16 and 6 bits, and are rounded to f16, by at most 2⁻¹¹ of themselves;
 * those of the others are as in the file.
 */
const CODE_BITS = { q4_0: 4, q4_1: 4, q4_k: 4, q5_0: 5, q5_1: 5, q5_k: 5, q8_0: 8 } as const satisfies Partial<
  Record<GgufTensorType, number>
>;

const BLOCK = 32;
/** Words of four codes in a group of 32 values. */
const WORDS = BLOCK / 4;

/** Blocks as halves of words, and where their codes and scales go. */
interface Blocks {
  /** All blocks are of an even number of bytes. */
  readonly raw: Uint16Array;
  /** Groups of 32 values. */
  readonly groups: number;
  /** Codes four at a time, the first in the lowest byte. */
  readonly codes: Uint32Array;
  /** d (lower half) and m (upper half) of each group as f16 bits. */
  readonly scales: Uint32Array;
}

/** Whether tensors of a type can be had in codes of at most so many bits. */
export function hasBlocks(type: GgufTensorType, bits: number): type is BlockType {
  return type in CODE_BITS && CODE_BITS[type as BlockType] <= bits;
}

/** Codes of whole blocks, one a byte, from `codes[at]` on; and the d and m of each 32 of them as f16 bits, from `scales[at / 32]` on. */
export function unpackBlocks(
  raw: Uint8Array,
  type: BlockType,
  { codes, scales, at }: { readonly codes: Uint8Array; readonly scales: Uint32Array; readonly at: number },
): void {
  const { block, bytes } = TENSOR_FORMATS[type], groups = raw.length / bytes * block / BLOCK;
  const even = raw.byteOffset % 2 === 0 ? raw : raw.slice();
  READERS[type]({
    raw: new Uint16Array(even.buffer, even.byteOffset, even.length / 2),
    groups,
    codes: new Uint32Array(codes.buffer, codes.byteOffset + at, groups * WORDS),
    scales: scales.subarray(at / BLOCK, at / BLOCK + groups),
  });
}

/** Types whose blocks give exact values by codes and scales in f32. */
export type CodeType = BlockType | "q6_k";

/** What is subtracted from a code before it is multiplied; 0 for types with minima. Values of a group: 32, of q6_k 16. */
const ZEROS: Readonly<Record<CodeType, number>> = {
  ...{ q4_0: 8, q4_1: 0, q4_k: 0, q5_0: 16, q5_1: 0, q5_k: 0, q8_0: 128, q6_k: 32 },
};

/** Whether tensors of a type can be had as codes with exact scales. */
export function hasCodes(type: GgufTensorType): type is CodeType {
  return type in ZEROS;
}

/** The properties of such codes. */
export function codeShape(type: CodeType): Pick<CodeRows, "group" | "zero" | "hasMin"> {
  return { group: type === "q6_k" ? 16 : BLOCK, zero: ZEROS[type], hasMin: ZEROS[type] === 0 };
}

/** Codes of whole blocks, one a byte, from `codes[at]` on, and d and m of their groups, from `scales[2 * at / group]` on. */
export function unpackCodes(
  raw: Uint8Array,
  type: CodeType,
  { codes, scales, at }: { readonly codes: Uint8Array; readonly scales: Float32Array; readonly at: number },
): void {
  const { block, bytes } = TENSOR_FORMATS[type], count = raw.length / bytes * block;
  const { group, hasMin } = codeShape(type), pairs = scales.subarray(2 * at / group, 2 * (at + count) / group);
  const even = raw.byteOffset % 2 === 0 ? raw : raw.slice();
  const halves = new Uint16Array(even.buffer, even.byteOffset, even.length / 2);
  const words = new Uint32Array(codes.buffer, codes.byteOffset + at, count / 4);
  if (type === "q6_k") return sixBits(halves, words, pairs);
  const bits = new Uint32Array(count / BLOCK), half = f16Table();
  READERS[type]({ raw: halves, groups: bits.length, codes: words, scales: bits });
  if (type === "q4_k" || type === "q5_k") return pairsOfK(halves, { halves: bytes / 2, pairs });
  for (let i = 0; i < bits.length; i++) {
    pairs[2 * i] = half[(bits[i] as number) & 0xffff] as number;
    pairs[2 * i + 1] = hasMin ? half[(bits[i] as number) >>> 16] as number : 0;
  }
}

const word = (raw: Uint16Array, at: number): number => (raw[at] as number) | (raw[at + 1] as number) << 16;

const READERS: Readonly<Record<BlockType, (blocks: Blocks) => void>> = {
  q4_0({ raw, groups, codes, scales }): void {
    const minima = productsOf(-8);
    for (let group = 0, at = 0; group < groups; group++, at += 9) {
      const d = raw[at] as number;
      scales[group] = d | (minima[d] as number) << 16;
      nibbles(raw, at + 1, codes, group * WORDS);
    }
  },
  q4_1({ raw, groups, codes, scales }): void {
    for (let group = 0, at = 0; group < groups; group++, at += 10) {
      scales[group] = word(raw, at);
      nibbles(raw, at + 2, codes, group * WORDS);
    }
  },
  q5_0({ raw, groups, codes, scales }): void {
    const minima = productsOf(-16);
    for (let group = 0, at = 0; group < groups; group++, at += 11) {
      const d = raw[at] as number;
      scales[group] = d | (minima[d] as number) << 16;
      nibbles(raw, at + 3, codes, group * WORDS);
      fifthBits(word(raw, at + 1), codes, group * WORDS);
    }
  },
  q5_1({ raw, groups, codes, scales }): void {
    for (let group = 0, at = 0; group < groups; group++, at += 12) {
      scales[group] = word(raw, at);
      nibbles(raw, at + 4, codes, group * WORDS);
      fifthBits(word(raw, at + 2), codes, group * WORDS);
    }
  },
  q8_0({ raw, groups, codes, scales }): void {
    const minima = productsOf(-128);
    for (let group = 0, at = 0, to = 0; group < groups; group++, at += 17) {
      const d = raw[at] as number;
      scales[group] = d | (minima[d] as number) << 16;
      for (let i = 0; i < WORDS; i++) codes[to++] = word(raw, at + 1 + 2 * i) ^ 0x80808080;
    }
  },
  q4_k({ raw, groups, codes, scales }): void {
    for (let group = 0, at = 0; group < groups; group += 8, at += 72) {
      for (let pair = 0; pair < 4; pair++) {
        const to = (group + 2 * pair) * WORDS;
        for (let i = 0; i < WORDS; i++) {
          const both = word(raw, at + 8 + (pair * WORDS + i) * 2);
          codes[to + i] = both & LOW;
          codes[to + WORDS + i] = both >>> 4 & LOW;
        }
      }
    }
    scalesOfK(raw, { halves: 72, scales });
  },
  q5_k({ raw, groups, codes, scales }): void {
    for (let group = 0, at = 0; group < groups; group += 8, at += 88) {
      for (let pair = 0; pair < 4; pair++) {
        const to = (group + 2 * pair) * WORDS;
        for (let i = 0; i < WORDS; i++) {
          const both = word(raw, at + 24 + (pair * WORDS + i) * 2), fifth = word(raw, at + 8 + 2 * i) >>> 2 * pair;
          codes[to + i] = both & LOW | (fifth & ONES) << 4;
          codes[to + WORDS + i] = both >>> 4 & LOW | (fifth >>> 1 & ONES) << 4;
        }
      }
    }
    scalesOfK(raw, { halves: 88, scales });
  },
};

/** The lower four bits, two bits and the lowest bit of each byte of a word. */
const LOW = 0x0f0f0f0f, TWO = 0x03030303, ONES = 0x01010101;

/** 16 bytes: the low nibble is value i, the high one value i + 16. */
function nibbles(raw: Uint16Array, at: number, codes: Uint32Array, to: number): void {
  for (let i = 0; i < 4; i++) {
    const both = word(raw, at + 2 * i);
    codes[to + i] = both & LOW;
    codes[to + 4 + i] = both >>> 4 & LOW;
  }
}

/** Bit i of 32 is the fifth bit of value i. The product copies four bits to the lowest bits of four bytes. */
function fifthBits(bits: number, codes: Uint32Array, to: number): void {
  for (let i = 0; i < WORDS; i++) {
    codes[to + i] = (codes[to + i] as number) | ((bits >>> 4 * i & 15) * 0x00204081 & ONES) << 4;
  }
}

/** d·s and −m·s' of the 8 groups of K blocks of so many halves of words: d, m, 12 bytes of s and s'. */
function scalesOfK(
  raw: Uint16Array,
  { halves, scales }: { readonly halves: number; readonly scales: Uint32Array },
): void {
  const pairs = new Float32Array(2 * scales.length);
  pairsOfK(raw, { halves, pairs });
  scales.set(new Uint32Array(narrowF16(pairs).buffer));
}

/** The same in f32, where the products are exact. */
function pairsOfK(
  raw: Uint16Array,
  { halves, pairs }: { readonly halves: number; readonly pairs: Float32Array },
): void {
  const bytes = new Uint8Array(raw.buffer, raw.byteOffset, raw.byteLength), half = f16Table();
  for (let group = 0; group < pairs.length / 2; group++) {
    const at = (group >>> 3) * halves, from = 2 * at + 4, place = group & 7;
    pairs[2 * group] = (half[raw[at] as number] as number) * scale6(bytes, from, place);
    pairs[2 * group + 1] = -(half[raw[at + 1] as number] as number) * minimum6(bytes, from, place);
  }
}

/** Codes and scales of q6_k: see `dequantize`. */
function sixBits(raw: Uint16Array, codes: Uint32Array, pairs: Float32Array): void {
  const half = f16Table(), bytes = new Int8Array(raw.buffer, raw.byteOffset, raw.byteLength);
  for (let at = 0, to = 0, group = 0; at < raw.length; at += 105) {
    const d = half[raw[at + 104] as number] as number;
    for (let i = 0; i < 16; i++, group++) pairs[2 * group] = d * (bytes[2 * at + 192 + i] as number);
    for (let row = 0; row < 8; row++) {
      const part = row >> 2, quarter = row & 3, lowShift = (quarter >> 1) * 4, highShift = quarter * 2;
      const low = at + part * 32 + (quarter & 1) * 16, high = at + 64 + part * 16;
      for (let i = 0; i < WORDS; i++) {
        codes[to++] = word(raw, low + 2 * i) >>> lowShift & LOW | (word(raw, high + 2 * i) >>> highShift & TWO) << 4;
      }
    }
  }
}

const products = new Map<number, Uint16Array>();

/** The f16 bits of factor·d for the bits of each f16 d. */
function productsOf(factor: number): Uint16Array {
  const known = products.get(factor) ?? narrowF16(f16Table().map((d) => factor * d));
  products.set(factor, known);
  return known;
}
