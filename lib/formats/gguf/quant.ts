// f32 to GGML's stored types, rounded as ggml's quantisers do with and without an importance matrix, bit for bit. Blocks of 256 values: see quant_k.ts.
import { narrowBf16, narrowF16 } from "../../core/half.ts";
import { MXFP4_VALUES, mxfp4Scale } from "./dequant.ts";
import { createWork, fitFromLeast, fitSigned, squaresOf, weighErrors, WEIGHTED_STEPS } from "./quant_fit.ts";
import { quantizeK } from "./quant_k.ts";
import { type GgufTensorType, TENSOR_FORMATS } from "./types.ts";

const fround = Math.fround;

/**
 * Encodes finite values; their number must be a multiple of the type's block. A scale too large for f16 becomes infinite.
 *
 * @param importance - Of each column: how much an error counts, as in llama.cpp's importance matrix. Values are then whole rows. MXFP4 and types
 * with 8 bits or more do not use it. Default: by the values alone.
 */
export function quantize(
  values: Float32Array,
  type: GgufTensorType,
  importance: Float32Array | null = null,
): Uint8Array {
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
      return importance ? quantizeWeighted(values, type, importance) : quantizeSigned(values, type, 4);
    case "q5_0":
      return importance ? quantizeWeighted(values, type, importance) : quantizeSigned(values, type, 5);
    case "q4_1":
      return importance ? quantizeWeighted(values, type, importance) : quantizeFromLeast(values, type, 4);
    case "q5_1":
      return importance ? quantizeWeighted(values, type, importance) : quantizeFromLeast(values, type, 5);
    case "mxfp4":
      return quantizeMxfp4(values);
    case "q2_k":
    case "q3_k":
    case "q4_k":
    case "q5_k":
    case "q6_k":
      return quantizeK(values, type, importance);
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
  return withScales(out, scales, { bytes, at: 0 });
}

/** The largest |x| is scaled to lie from 4 to 8; each value gets the first of the nearest codes. */
function quantizeMxfp4(values: Float32Array): Uint8Array {
  const { block, bytes } = TENSOR_FORMATS.mxfp4;
  const out = new Uint8Array(values.length / block * bytes), codes = new Uint8Array(block);
  for (let b = 0; b < values.length / block; b++) {
    let largest = 0;
    for (let i = b * block; i < (b + 1) * block; i++) largest = Math.max(largest, Math.abs(values[i] as number));
    // The logarithm is rounded to f32 as ggml's is: values just below a power of two count as that power.
    const exponent = largest > 0 ? Math.max(0, Math.floor(fround(Math.log2(largest))) + 125) : 0;
    const d = mxfp4Scale(exponent);
    for (let i = 0; i < block; i++) {
      const x = values[b * block + i] as number;
      let least = Infinity;
      for (const [code, value] of MXFP4_VALUES.entries()) {
        const error = Math.abs(fround(d * value - x));
        if (error >= least) continue;
        least = error;
        codes[i] = code;
      }
    }
    out[b * bytes] = exponent;
    packCodes(out, b * bytes + 1, codes, 4);
  }
  return out;
}

/** d = x / −2^(bits−1) for the x of largest |x| (the first of equals), q = trunc(x / d + 2^(bits−1) + ½). */
function quantizeSigned(values: Float32Array, type: "q4_0" | "q5_0", bits: 4 | 5): Uint8Array {
  const { block, bytes } = TENSOR_FORMATS[type], half = 2 ** (bits - 1);
  const out = new Uint8Array(values.length / block * bytes), codes = new Uint8Array(block);
  const scales = new Float32Array(values.length / block);
  for (let b = 0; b < scales.length; b++) {
    let extreme = values[b * block] as number;
    for (let i = 1; i < block; i++) {
      const x = values[b * block + i] as number;
      if (Math.abs(x) > Math.abs(extreme)) extreme = x;
    }
    const d = fround(extreme / -half);
    const inverse = inverseOf(d);
    scales[b] = d;
    for (let i = 0; i < block; i++) {
      const q = fround(fround(values[b * block + i] as number * inverse) + (half + 0.5)) | 0;
      codes[i] = Math.min(q, 2 * half - 1);
    }
    packCodes(out, b * bytes + 2, codes, bits);
  }
  return withScales(out, scales, { bytes, at: 0 });
}

/** m is the least x, d = (the largest − m) / (2^bits − 1), q = trunc((x − m) / d + ½). */
function quantizeFromLeast(values: Float32Array, type: "q4_1" | "q5_1", bits: 4 | 5): Uint8Array {
  const { block, bytes } = TENSOR_FORMATS[type], most = 2 ** bits - 1;
  const out = new Uint8Array(values.length / block * bytes), codes = new Uint8Array(block);
  const scales = new Float32Array(values.length / block), minima = new Float32Array(values.length / block);
  for (let b = 0; b < scales.length; b++) {
    let least = values[b * block] as number, largest = least;
    for (let i = 1; i < block; i++) {
      const x = values[b * block + i] as number;
      if (x < least) least = x;
      if (x > largest) largest = x;
    }
    const d = fround(fround(largest - least) / most);
    const inverse = inverseOf(d);
    scales[b] = d;
    minima[b] = least;
    for (let i = 0; i < block; i++) {
      const q = fround(fround(fround(values[b * block + i] as number - least) * inverse) + 0.5) | 0;
      codes[i] = Math.min(q, most);
    }
    packCodes(out, b * bytes + 4, codes, bits);
  }
  return withScales(withScales(out, scales, { bytes, at: 0 }), minima, { bytes, at: 2 });
}

/**
 * Blocks of 32 values with the scale, and the minimum where the type has one, of least error weighted by importance · √(mean square of the row + x²).
 */
function quantizeWeighted(
  values: Float32Array,
  type: "q4_0" | "q5_0" | "q4_1" | "q5_1",
  importance: Float32Array,
): Uint8Array {
  const { block, bytes } = TENSOR_FORMATS[type], columns = importance.length, bits = type.startsWith("q4") ? 4 : 5;
  const hasMinimum = type.endsWith("_1"), blocks = values.length / block, out = new Uint8Array(blocks * bytes);
  const work = createWork(values, importance), { weights, codes } = work, stored = new Uint8Array(codes.buffer);
  const scales = new Float32Array(blocks), minima = new Float32Array(blocks);
  let sigma2 = 0;
  for (let b = 0; b < blocks; b++) {
    const first = b * block;
    if (first % columns === 0) sigma2 = fround(squaresOf(values, first, columns) / columns);
    weighErrors({ values, importance, weights }, { first, count: block, sigma2 });
    if (hasMinimum) {
      fitFromLeast(work, { from: first, group: 0, count: block, most: 2 ** bits - 1, ...WEIGHTED_STEPS });
      scales[b] = work.scales[0] as number;
      minima[b] = -(work.minima[0] as number);
    } else {
      scales[b] = fitSigned({ values, first, count: block, weights, codes, to: 0, half: 2 ** (bits - 1) });
    }
    packCodes(out, b * bytes + (hasMinimum ? 4 : 2), stored, bits);
  }
  withScales(out, scales, { bytes, at: 0 });
  return hasMinimum ? withScales(out, minima, { bytes, at: 2 }) : out;
}

/** 32 codes from `out[at]` on: 4 bytes of fifth bits where there are such, then 16 bytes whose low nibbles are the first 16 codes. */
function packCodes(out: Uint8Array, at: number, codes: Uint8Array, bits: 4 | 5): void {
  const nibbles = bits === 4 ? at : at + 4;
  for (let i = 0; i < 16; i++) out[nibbles + i] = (codes[i] as number) & 15 | (codes[i + 16] as number & 15) << 4;
  if (bits === 4) return;
  for (let byte = 0; byte < 4; byte++) {
    let fifth = 0;
    for (let i = 0; i < 8; i++) fifth |= (codes[8 * byte + i] as number >> 4) << i;
    out[at + byte] = fifth;
  }
}

/** 1/d in f32; 0 where d is 0 or so small that the inverse overflows (f16 stores such a d as 0 anyway). */
function inverseOf(d: number): number {
  const inverse = fround(1 / d);
  return Number.isFinite(inverse) ? inverse : 0;
}

function withScales(
  out: Uint8Array,
  scales: Float32Array,
  { bytes, at }: { readonly bytes: number; readonly at: number },
): Uint8Array {
  const bits = narrowF16(scales);
  for (let b = 0; b < bits.length; b++) {
    const scale = bits[b] as number;
    out[b * bytes + at] = scale & 255;
    out[b * bytes + at + 1] = scale >> 8;
  }
  return out;
}
