// A model of any shape with random weights, made in memory, so that benchmarks need no download.
import { rowWindow } from "../../lib/spec/row_range.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { type DecoderSpec, EMBEDDING, HEAD, tensorShapes } from "../../lib/spec/decoder.ts";
import { randomU32 } from "../../lib/core/random.ts";
import type { DecoderConfig } from "./peers/protocol.ts";

export type { DecoderConfig };

/** SmolLM2-135M (Hugging Face, 2024). */
export const SMOLLM2: DecoderConfig = {
  hidden: 576,
  layers: 30,
  heads: 9,
  kvHeads: 3,
  headDim: 64,
  ffn: 1536,
  vocab: 49152,
  tied: true,
};

/** A decoder with equal layers. */
export function specOf({ layers, heads, kvHeads, ffn, ...rest }: DecoderConfig): DecoderSpec {
  return {
    ...rest,
    layers: Array.from({ length: layers }, () => ({ heads, kvHeads, ffn })),
    normEps: 1e-5,
    rope: { base: 10000, scaling: { kind: "none" } },
    maxPosition: 8192,
    bosId: 1,
    // None, so that a generation is as long as it was asked to be.
    eosIds: [],
    padId: 0,
  };
}

/** The reverse; null where the layers differ. */
export function configOf({ hidden, headDim, layers, vocab, tied }: DecoderSpec): DecoderConfig | null {
  const [first] = layers;
  if (!first) return null;
  const { heads, kvHeads, ffn } = first;
  const isEqual = layers.every((layer) => layer.heads === heads && layer.kvHeads === kvHeads && layer.ffn === ffn);
  return isEqual ? { hidden, layers: layers.length, heads, kvHeads, headDim, ffn, vocab, tied } : null;
}

/**
 * Weights uniform in ±√3 / √in (of embedding and head ±√3 / √hidden), so that activations and logits keep a variance near 1; norms are 1.
 * The same seed gives the same values, whichever rows are read.
 */
export function randomModel(spec: DecoderSpec, { seed }: { readonly seed: number }): WeightSource {
  const shapes = tensorShapes(spec), names = [...shapes.keys()];
  return {
    spec,
    storedDtype: () => "f32",
    read(name, rows): Promise<Float32Array<ArrayBuffer>> {
      const shape = shapes.get(name) ?? [], { start, count, width } = rowWindow(name, shape, { rows });
      if (shape.length < 2) return Promise.resolve(new Float32Array(count).fill(1));
      const values = new Float32Array(count * width);
      const inputs = name === EMBEDDING || name === HEAD ? spec.hidden : width;
      const scale = Math.sqrt(3 / inputs) * 2 ** -31;
      for (let row = 0; row < count; row++) {
        // xorshift32 (Marsaglia 2003), started anew in each row: a hash of every element would take minutes for a real model.
        let state = randomU32(seed, names.indexOf(name), start + row) | 1;
        for (let at = row * width; at < (row + 1) * width; at++) {
          state ^= state << 13;
          state ^= state >>> 17;
          state ^= state << 5;
          values[at] = state * scale;
        }
      }
      return Promise.resolve(values);
    },
  };
}
