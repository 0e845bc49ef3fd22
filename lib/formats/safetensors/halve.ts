// Narrows a piece of a tensor to a dtype of 16 bits, on a thread.
import { BF16_LIMIT, F16_LIMIT, firstAtLeast, narrowBf16, narrowF16 } from "../../core/half.ts";

/** Dtypes of 16 bits. */
export type HalfDtype = keyof typeof HALVES;

/** How f32 becomes a half, and from where on it would become infinite. */
export const HALVES = {
  F16: { limit: F16_LIMIT, most: "65,504", wider: "BF16 or F32", narrow: narrowF16 },
  BF16: { limit: BF16_LIMIT, most: "3.3895e38", wider: "F32", narrow: narrowBf16 },
} as const;

/** The bit patterns of the values; or the index of the first finite value that is too large. */
export function halve(values: Float32Array<ArrayBuffer>, dtype: HalfDtype): Uint16Array<ArrayBuffer> | number {
  const { limit, narrow } = HALVES[dtype], large = firstAtLeast(values, limit);
  return large >= 0 ? large : narrow(values);
}
