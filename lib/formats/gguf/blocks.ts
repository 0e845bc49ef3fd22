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

/** Writes the 32 codes of a group within a block at `raw[at]`, and returns [d, m]. */
type GroupReader = (raw: Uint8Array, at: number, target: Target) => readonly [d: number, m: number];

interface Target {
  readonly codes: Uint8Array;
  /** Where the group's codes begin. */
  readonly to: number;
  /** Group within the block. */
  readonly group: number;
}

const byte = (raw: Uint8Array, at: number): number => raw[at] as number;
const half = (raw: Uint8Array, at: number): number => f16Table()[byte(raw, at) | byte(raw, at + 1) << 8] as number;

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
  const { block, bytes } = TENSOR_FORMATS[type];
  const groups = block / BLOCK, read = GROUPS[type], count = raw.length / bytes * groups;
  const pairs = new Float32Array(2 * count);
  for (let index = 0; index < count; index++) {
    const group = index % groups;
    const [d, m] = read(raw, (index - group) / groups * bytes, { codes, to: at + index * BLOCK, group });
    pairs[2 * index] = d;
    pairs[2 * index + 1] = m;
  }
  scales.set(new Uint32Array(narrowF16(pairs).buffer), at / BLOCK);
}

const GROUPS: Readonly<Record<BlockType, GroupReader>> = {
  q4_0(raw, at, target): [number, number] {
    const d = half(raw, at);
    nibbles(raw, at + 2, target);
    return [d, -8 * d];
  },
  q4_1(raw, at, target): [number, number] {
    nibbles(raw, at + 4, target);
    return [half(raw, at), half(raw, at + 2)];
  },
  q5_0(raw, at, target): [number, number] {
    const d = half(raw, at);
    nibbles(raw, at + 6, target);
    fifthBits(raw, at + 2, target);
    return [d, -16 * d];
  },
  q5_1(raw, at, target): [number, number] {
    nibbles(raw, at + 8, target);
    fifthBits(raw, at + 4, target);
    return [half(raw, at), half(raw, at + 2)];
  },
  q8_0(raw, at, { codes, to }): [number, number] {
    const d = half(raw, at);
    for (let i = 0; i < BLOCK; i++) codes[to + i] = byte(raw, at + 2 + i) ^ 0x80;
    return [d, -128 * d];
  },
  q4_k(raw, at, target): [number, number] {
    nibblesOfGroup(raw, at + 16, target);
    return scalesOfGroup(raw, at, target.group);
  },
  q5_k(raw, at, target): [number, number] {
    const { codes, to, group } = target;
    nibblesOfGroup(raw, at + 48, target);
    for (let i = 0; i < BLOCK; i++) codes[to + i] = byte(codes, to + i) | (byte(raw, at + 16 + i) >> group & 1) << 4;
    return scalesOfGroup(raw, at, group);
  },
};

/** 16 bytes: the low nibble is value i, the high one value i + 16. */
function nibbles(raw: Uint8Array, from: number, { codes, to }: Target): void {
  for (let i = 0; i < 16; i++) {
    codes[to + i] = byte(raw, from + i) & 15;
    codes[to + 16 + i] = byte(raw, from + i) >> 4;
  }
}

/** Bit i of 32 is the fifth bit of value i. */
function fifthBits(raw: Uint8Array, from: number, { codes, to }: Target): void {
  for (let i = 0; i < BLOCK; i++) {
    codes[to + i] = byte(codes, to + i) | (byte(raw, from + (i >> 3)) >> (i & 7) & 1) << 4;
  }
}

/** 32 bytes: their low nibbles are an even group, their high ones the next. */
function nibblesOfGroup(raw: Uint8Array, from: number, { codes, to, group }: Target): void {
  const start = from + (group >> 1) * BLOCK, shift = (group & 1) * 4;
  for (let i = 0; i < BLOCK; i++) codes[to + i] = byte(raw, start + i) >> shift & 15;
}

/** d·s and −m·s' of one of the 8 groups of a K block that begins at `at`. */
function scalesOfGroup(raw: Uint8Array, at: number, group: number): [number, number] {
  return [half(raw, at) * scale6(raw, at + 4, group), -half(raw, at + 2) * minimum6(raw, at + 4, group)];
}
