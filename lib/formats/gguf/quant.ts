// f32 to GGML's stored types: f32, f16, bf16, Q8_0, Q4_0, rounded as ggml's reference quantiser does, bit for bit.
import { narrowBf16, narrowF16 } from "../../core/half.ts";
import { TENSOR_FORMATS } from "./types.ts";

/** Types that can be written. */
export type GgufWriteType = "f32" | "f16" | "bf16" | "q8_0" | "q4_0";

const fround = Math.fround;

/** Encodes finite values; their number must be a multiple of the type's block. A scale too large for f16 becomes infinite. */
export function quantize(values: Float32Array, type: GgufWriteType): Uint8Array {
  switch (type) {
    case "f32":
      return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    case "f16":
      return new Uint8Array(narrowF16(values).buffer);
    case "bf16":
      return new Uint8Array(narrowBf16(values).buffer);
    case "q8_0":
      return quantizeQ8(values);
    case "q4_0":
      return quantizeQ4(values);
  }
}

/** d = max |x| / 127, q = round(x / d), halves away from zero. */
function quantizeQ8(values: Float32Array): Uint8Array {
  const { block, bytes } = TENSOR_FORMATS.q8_0;
  const out = new Uint8Array(values.length / block * bytes);
  const scales = new Float32Array(values.length / block);
  for (let b = 0; b < scales.length; b++) {
    let largest = 0;
    for (let i = b * block; i < (b + 1) * block; i++) {
      const size = Math.abs(values[i] as number);
      if (size > largest) largest = size;
    }
    const d = fround(largest / 127);
    const inverse = inverseOf(d);
    scales[b] = d;
    for (let i = 0; i < block; i++) {
      const x = fround(values[b * block + i] as number * inverse);
      out[b * bytes + 2 + i] = x < 0 ? x - 0.5 | 0 : x + 0.5 | 0;
    }
  }
  return withScales(out, scales, bytes);
}

/** d = x / −8 for the x of largest |x| (the first of equals), q = trunc(x / d + 8.5) within 0 … 15. */
function quantizeQ4(values: Float32Array): Uint8Array {
  const { block, bytes } = TENSOR_FORMATS.q4_0;
  const out = new Uint8Array(values.length / block * bytes);
  const scales = new Float32Array(values.length / block);
  for (let b = 0; b < scales.length; b++) {
    let extreme = values[b * block] as number;
    for (let i = 1; i < block; i++) {
      const x = values[b * block + i] as number;
      if (Math.abs(x) > Math.abs(extreme)) extreme = x;
    }
    const d = fround(extreme / -8);
    const inverse = inverseOf(d);
    scales[b] = d;
    for (let i = 0; i < 16; i++) {
      const at = b * block + i;
      const low = nibble(values[at] as number, inverse), high = nibble(values[at + 16] as number, inverse);
      out[b * bytes + 2 + i] = low | high << 4;
    }
  }
  return withScales(out, scales, bytes);
}

function nibble(value: number, inverse: number): number {
  const q = fround(fround(value * inverse) + 8.5) | 0;
  return q > 15 ? 15 : q;
}

/** 1/d in f32; 0 where d is 0 or so small that the inverse overflows (f16 stores such a d as 0 anyway). */
function inverseOf(d: number): number {
  const inverse = fround(1 / d);
  return Number.isFinite(inverse) ? inverse : 0;
}

function withScales(out: Uint8Array, scales: Float32Array, bytes: number): Uint8Array {
  const bits = narrowF16(scales);
  for (let b = 0; b < bits.length; b++) {
    const scale = bits[b] as number;
    out[b * bytes] = scale & 255;
    out[b * bytes + 1] = scale >> 8;
  }
  return out;
}
