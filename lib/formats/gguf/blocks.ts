// GGML's blocks of 32 values as codes and scales, value = d·q + m, without rounding. Layouts: see dequant.ts.
import { minimum6, scale6 } from "./dequant.ts";
import { f16Table, narrowF16 } from "../../core/half.ts";
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

/** The lower four bits and the lowest bit of each byte of a word. */
const LOW = 0x0f0f0f0f, ONES = 0x01010101;

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

const products = new Map<number, Uint16Array>();

/** The f16 bits of factor·d for the bits of each f16 d. */
function productsOf(factor: number): Uint16Array {
  const known = products.get(factor) ?? narrowF16(f16Table().map((d) => factor * d));
  products.set(factor, known);
  return known;
}
