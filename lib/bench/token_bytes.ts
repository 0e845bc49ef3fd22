// The bytes of weights that one generated token reads, without caches and activations.
import type { Matrix } from "../nn/products/matrix.ts";
import type { Model } from "../model/model.ts";

/** Bytes of weights that one token reads. */
export function bytesOfToken({ weights: { layers, head, spec: { router } } }: Model): number {
  const matrices: Matrix[] = [head];
  let ofExperts = 0;
  for (const { attention, ffn } of layers) {
    if (attention) matrices.push(attention.q, attention.k, attention.v, attention.o);
    matrices.push(
      ...[ffn?.gate, ffn?.up, ffn?.down, ffn?.experts?.router].filter((matrix) =>
        matrix !== null && matrix !== undefined
      ),
    );
    const { experts } = ffn ?? {}, share = (router?.topK ?? 0) / (experts?.router.rows ?? 1);
    if (experts) ofExperts += share * (experts.gate.bytes + experts.up.bytes + experts.down.bytes);
  }
  return matrices.reduce((sum, { bytes }) => sum + bytes, Math.round(ofExperts));
}
