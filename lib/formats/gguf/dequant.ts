// GGML block formats to f32; the results equal those of gguf-py bit for bit. In the comments: d and m are f16, q are the packed integers, s are
// scales. Layouts: ggml's ggml-common.h and dequantize_row_*.
import { f16Table, widenBf16, widenF16 } from "../../core/half.ts";
import { type GgufTensorType, TENSOR_FORMATS } from "./types.ts";

/** Widens one block: reads `raw` from byte `at`, writes `out` from index `to`. */
type BlockReader = (raw: Uint8Array, at: number, out: Float32Array, to: number) => void;

const fround = Math.fround;
const half = (raw: Uint8Array, at: number): number => f16Table()[byte(raw, at) | byte(raw, at + 1) << 8] as number;
const byte = (raw: Uint8Array, at: number): number => raw[at] as number;
const signed = (raw: Uint8Array, at: number): number => byte(raw, at) << 24 >> 24;

/**
 * Dequantises whole blocks. `raw` holds `values / block` blocks of the type; the result goes into `out` from `at` on.
 * `raw` must start at a multiple of its value size within its buffer for f32, f16 and bf16.
 */
export function dequantize(
  raw: Uint8Array,
  type: GgufTensorType,
  target: { readonly out: Float32Array; readonly at: number },
): void {
  const { out, at } = target;
  if (type === "f32") return out.set(new Float32Array(raw.buffer, raw.byteOffset, raw.length / 4), at);
  if (type === "f16") return widenF16(new Uint16Array(raw.buffer, raw.byteOffset, raw.length / 2), out, at);
  if (type === "bf16") return widenBf16(new Uint16Array(raw.buffer, raw.byteOffset, raw.length / 2), out, at);
  const { block, bytes } = TENSOR_FORMATS[type];
  const read = BLOCKS[type];
  for (let i = 0, to = at; i + bytes <= raw.length; i += bytes, to += block) read(raw, i, out, to);
}

const BLOCKS: Readonly<Record<Exclude<GgufTensorType, "f32" | "f16" | "bf16">, BlockReader>> = {
  // d, 16 × (low nibble: value i, high nibble: value i + 16): d·(q − 8)
  q4_0(raw, at, out, to): void {
    const d = half(raw, at);
    for (let i = 0; i < 16; i++) {
      const q = byte(raw, at + 2 + i);
      out[to + i] = d * ((q & 15) - 8);
      out[to + 16 + i] = d * ((q >> 4) - 8);
    }
  },

  // d, m, nibbles as in q4_0: d·q + m
  q4_1(raw, at, out, to): void {
    const d = half(raw, at), m = half(raw, at + 2);
    for (let i = 0; i < 16; i++) {
      const q = byte(raw, at + 4 + i);
      out[to + i] = d * (q & 15) + m;
      out[to + 16 + i] = d * (q >> 4) + m;
    }
  },

  // d, 32 fifth bits, nibbles: d·(q − 16)
  q5_0(raw, at, out, to): void {
    const d = half(raw, at);
    for (let i = 0; i < 16; i++) {
      const q = byte(raw, at + 6 + i);
      out[to + i] = d * ((q & 15 | fifth(raw, at + 2, i)) - 16);
      out[to + 16 + i] = d * ((q >> 4 | fifth(raw, at + 2, i + 16)) - 16);
    }
  },

  // d, m, 32 fifth bits, nibbles: d·q + m
  q5_1(raw, at, out, to): void {
    const d = half(raw, at), m = half(raw, at + 2);
    for (let i = 0; i < 16; i++) {
      const q = byte(raw, at + 8 + i);
      out[to + i] = d * (q & 15 | fifth(raw, at + 4, i)) + m;
      out[to + 16 + i] = d * (q >> 4 | fifth(raw, at + 4, i + 16)) + m;
    }
  },

  // d, 32 × i8: d·q
  q8_0(raw, at, out, to): void {
    const d = half(raw, at);
    for (let i = 0; i < 32; i++) out[to + i] = d * (((raw[at + 2 + i] as number) ^ 0x80) - 128); // two's complement
  },

  // e, nibbles as in q4_0: 2^(e − 128) · value of the code
  mxfp4(raw, at, out, to): void {
    const d = mxfp4Scale(byte(raw, at));
    for (let i = 0; i < 16; i++) {
      const q = byte(raw, at + 1 + i);
      out[to + i] = d * (MXFP4_VALUES[q & 15] as number);
      out[to + 16 + i] = d * (MXFP4_VALUES[q >> 4] as number);
    }
  },

  // 16 × (low nibble: scale, high: minimum), 64 bytes of 2-bit q, d, m: d·s·q − m·s'. Bits 2k of 32 bytes are 32 values in a row.
  q2_k(raw, at, out, to): void {
    const d = half(raw, at + 80), m = half(raw, at + 82);
    for (let group = 0; group < 16; group++) {
      const s = byte(raw, at + group);
      const scale = d * (s & 15), least = m * (s >> 4);
      const from = at + 16 + (group >> 3) * 32 + (group & 1) * 16, shift = (group >> 1 & 3) * 2;
      for (let i = 0; i < 16; i++) out[to + group * 16 + i] = scale * (byte(raw, from + i) >> shift & 3) - least;
    }
  },

  // 32 bytes of third bits, 64 bytes of 2-bit q, 12 bytes of 16 6-bit scales, d: d·(s − 32)·(q − (third bit ? 0 : 4))
  q3_k(raw, at, out, to): void {
    const d = half(raw, at + 108);
    for (let group = 0; group < 16; group++) {
      const low = byte(raw, at + 96 + (group & 7)) >> (group >> 3) * 4 & 15;
      const high = byte(raw, at + 104 + (group & 3)) >> (group >> 2) * 2 & 3;
      const scale = d * ((low | high << 4) - 32);
      const column = (group & 1) * 16, plane = group >> 1;
      const from = at + 32 + (group >> 3) * 32 + column, shift = (plane & 3) * 2;
      for (let i = 0; i < 16; i++) {
        const third = byte(raw, at + column + i) >> plane & 1;
        out[to + group * 16 + i] = scale * ((byte(raw, from + i) >> shift & 3) - (third ? 0 : 4));
      }
    }
  },

  // d, m, 12 bytes of 8 6-bit scales and minima, 128 bytes of nibbles: d·s·q − m·s'. Low nibbles of 32 bytes come before the high ones.
  q4_k(raw, at, out, to): void {
    const d = half(raw, at), m = half(raw, at + 2);
    for (let group = 0; group < 8; group++) {
      const scale = fround(d * scale6(raw, at + 4, group)), least = fround(m * minimum6(raw, at + 4, group));
      const from = at + 16 + (group >> 1) * 32, shift = (group & 1) * 4;
      for (let i = 0; i < 32; i++) {
        out[to + group * 32 + i] = fround(scale * (byte(raw, from + i) >> shift & 15)) - least;
      }
    }
  },

  // As q4_k, with 32 bytes of fifth bits (bit k: group k) before the nibbles.
  q5_k(raw, at, out, to): void {
    const d = half(raw, at), m = half(raw, at + 2);
    for (let group = 0; group < 8; group++) {
      const scale = fround(d * scale6(raw, at + 4, group)), least = fround(m * minimum6(raw, at + 4, group));
      const from = at + 48 + (group >> 1) * 32, shift = (group & 1) * 4;
      for (let i = 0; i < 32; i++) {
        const q = byte(raw, from + i) >> shift & 15 | (byte(raw, at + 16 + i) >> group & 1) << 4;
        out[to + group * 32 + i] = fround(scale * q) - least;
      }
    }
  },

  // 128 bytes of nibbles, 64 bytes of upper 2 bits, 16 × i8 scales, d: d·s·(q − 32). Each half of 128 values has 64 + 32 bytes.
  q6_k(raw, at, out, to): void {
    const d = half(raw, at + 208);
    for (let group = 0; group < 16; group++) {
      const row = group >> 1, part = row >> 2, quarter = row & 3, column = (group & 1) * 16;
      const scale = fround(d * signed(raw, at + 192 + group));
      const low = at + part * 64 + (quarter & 1) * 32 + column, lowShift = (quarter >> 1) * 4;
      const high = at + 128 + part * 32 + column, highShift = quarter * 2, first = to + group * 16;
      for (let i = 0; i < 16; i++) {
        const q = (raw[low + i] as number) >> lowShift & 15 | ((raw[high + i] as number) >> highShift & 3) << 4;
        out[first + i] = scale * (q - 32);
      }
    }
  },
};

/** The values of MXFP4's codes (E2M1 of the OCP Microscaling Formats), doubled so that they are whole. */
export const MXFP4_VALUES: readonly number[] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/** Half of the scale of a block of MXFP4, whose bits are the exponent of a power of two: 2^(e − 128). */
export function mxfp4Scale(exponent: number): number {
  return 2 ** (exponent - 128);
}

/** Bit i of 32, as the fifth bit of a value. */
function fifth(raw: Uint8Array, at: number, i: number): number {
  return (byte(raw, at + (i >> 3)) >> (i & 7) & 1) << 4;
}

/** Scale of one of 8 groups: 6 bits, the last four packed as 4 + 2 bits. */
export function scale6(raw: Uint8Array, at: number, group: number): number {
  if (group < 4) return byte(raw, at + group) & 63;
  return byte(raw, at + group + 4) & 15 | byte(raw, at + group - 4) >> 6 << 4;
}

/** Minimum of one of 8 groups, packed as the scales. */
export function minimum6(raw: Uint8Array, at: number, group: number): number {
  if (group < 4) return byte(raw, at + group + 4) & 63;
  return byte(raw, at + group + 4) >> 4 | byte(raw, at + group) >> 6 << 4;
}
