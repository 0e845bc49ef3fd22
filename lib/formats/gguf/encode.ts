// Encodes a piece of a tensor, on a thread.
import { firstAtLeast, firstNonFinite } from "../../core/half.ts";
import { quantize } from "./quant.ts";
import type { GgufTensorType } from "./types.ts";

/** The bytes of values as a type, fitted by the importance of columns where there is one; or the position of the first that is not finite, else of the first from the limit on. */
export function encode(
  values: Float32Array<ArrayBuffer>,
  type: GgufTensorType,
  limit: number,
  importance: Float32Array | null,
): Uint8Array | number {
  const broken = firstNonFinite(values), large = broken >= 0 ? broken : firstAtLeast(values, limit);
  return large >= 0 ? large : quantize(values, type, importance);
}
