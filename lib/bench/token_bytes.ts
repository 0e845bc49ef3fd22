// The bytes of weights that one generated token reads, without caches and activations.
import type { Matrix } from "../nn/products/matrix.ts";
import type { Model } from "../model/model.ts";

/** Bytes of weights that one token reads. */
export function bytesOfToken({ weights: { layers, head } }: Model): number {
  const matrices: Matrix[] = [head];
  for (const { attention, ffn } of layers) {
    if (attention) matrices.push(attention.q, attention.k, attention.v, attention.o);
    if (ffn) matrices.push(...ffn.gate ? [ffn.gate] : [], ffn.up, ffn.down);
  }
  return matrices.reduce((sum, { bytes }) => sum + bytes, 0);
}
