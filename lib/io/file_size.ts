// Bytes of a model's tensors in a file, from its shape alone. Owns the sum; refuses headers, tokenizers and writing.
import {
  type DecoderSpec,
  EMBEDDING,
  FINAL_NORM,
  hasBias,
  HEAD,
  normName,
  projectionName,
  PROJECTIONS,
  projectionShape,
} from "../nn/spec.ts";
import type { SizeTarget } from "../prune/selection.ts";
import type { Measure } from "../prune/tally.ts";
import { typeFor } from "./gguf_export.ts";
import type { GgufWriteType } from "./gguf_quant.ts";
import { TENSOR_FORMATS } from "./gguf_types.ts";
import type { HfDtype } from "./hf_export.ts";

/** A kind of file and the type of its matrices. */
export type FileKind =
  | { readonly format: "gguf"; readonly dtype: GgufWriteType }
  | { readonly format: "hf"; readonly dtype: HfDtype };

/**
 * Counts the bytes of the tensors that a file of this kind holds: in a GGUF vectors are f32, matrices whose rows are no multiple of a block fall
 * back to f16, and with q4_0 embedding and head are q8_0. Header and tokenizer come on top.
 */
export function byteMeasure(spec: DecoderSpec, kind: FileKind): Measure {
  const bytes = (name: string, shape: readonly number[]): number => {
    const values = shape.reduce((product, size) => product * size, 1);
    const type = kind.format === "hf" ? kind.dtype : typeFor(name, shape, kind.dtype).type;
    const { block, bytes: perBlock } = TENSOR_FORMATS[type];
    return values / block * perBlock;
  };
  return {
    layer(layer, hidden): number {
      const norm = bytes(normName(0, "attention"), [hidden]);
      let total = (layer.heads > 0 ? norm : 0) + (layer.ffn > 0 ? norm : 0);
      for (const projection of PROJECTIONS) {
        const [rows, cols] = projectionShape({ ...spec, hidden }, layer, projection),
          name = projectionName(0, projection);
        if (rows === 0 || cols === 0) continue;
        total += bytes(name, [rows, cols]) + (hasBias(spec, projection) ? bytes(name, [rows]) : 0);
      }
      return total;
    },
    rest: (hidden) =>
      bytes(EMBEDDING, [spec.vocab, hidden]) + bytes(FINAL_NORM, [hidden]) +
      (spec.tied ? 0 : bytes(HEAD, [spec.vocab, hidden])),
  };
}

/** A number of bytes of a file's tensors as a target. */
export function byteTarget(spec: DecoderSpec, most: number, kind: FileKind): SizeTarget {
  return { measure: byteMeasure(spec, kind), most, unit: "bytes" };
}
