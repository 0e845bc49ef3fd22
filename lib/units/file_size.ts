// Bytes of a model's file, from its shape alone.
import {
  type DecoderSpec,
  EMBEDDING,
  FINAL_NORM,
  hasBias,
  HEAD,
  headNormName,
  normName,
  projectionName,
  PROJECTIONS,
  projectionShape,
} from "../spec/decoder.ts";
import type { SizeTarget } from "./selection.ts";
import type { Measure } from "./cut_state.ts";
import { ggufFileBytes, typeFor } from "../formats/gguf/export.ts";
import type { GgufWriteType } from "../formats/gguf/quant.ts";
import { ggufTokenizerMetadata } from "../formats/gguf/tokenizer_export.ts";
import { TENSOR_FORMATS } from "../formats/gguf/types.ts";
import { GGUF_ALIGNMENT } from "../formats/gguf/write.ts";
import { type HfDtype, hfWeightBytes } from "../formats/hf/export.ts";
import type { Provenance } from "../spec/provenance.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** A kind of file and the type of its matrices. */
export type FileKind =
  | { readonly format: "gguf"; readonly dtype: GgufWriteType }
  | { readonly format: "hf"; readonly dtype: HfDtype };

/**
 * Counts the bytes of the tensors that a file of this kind holds: in a GGUF vectors are f32, matrices whose rows are no multiple of a block fall
 * back to f16, with q4_0 embedding and head are q8_0, and tensors are aligned. Header and tokenizer come on top: see {@link fileBytes}.
 */
export function byteMeasure(spec: DecoderSpec, kind: FileKind): Measure {
  const bytes = (name: string, shape: readonly number[]): number => {
    const values = shape.reduce((product, size) => product * size, 1);
    const type = kind.format === "hf" ? kind.dtype : typeFor(name, shape, kind.dtype).type;
    const { block, bytes: perBlock } = TENSOR_FORMATS[type];
    const total = values / block * perBlock;
    return kind.format === "gguf" ? Math.ceil(total / GGUF_ALIGNMENT) * GGUF_ALIGNMENT : total;
  };
  return {
    layer(layer, hidden): number {
      const norm = bytes(normName(0, "attention"), [hidden]);
      let total = (layer.heads > 0 ? norm : 0) + (layer.ffn > 0 ? norm : 0);
      if (spec.qkNorm && layer.heads > 0) total += 2 * bytes(headNormName(0, "q"), [spec.headDim]);
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

/** What a file holds beside the tensors. */
export interface FileContent {
  /** Null for token ids only. */
  readonly tokenizer: Tokenizer | null;
  /** Name of the model within a GGUF. */
  readonly name: string;
  /** Origin that a GGUF names. Default: unknown. */
  readonly provenance?: Provenance | undefined;
}

/**
 * Bytes of the file as it is exported: of a folder the safetensors alone (all shards), of a GGUF the file with its tokenizer.
 *
 * @throws CompressoError("input") for a tokenizer that a GGUF cannot hold.
 */
export function fileBytes(spec: DecoderSpec, kind: FileKind, { tokenizer, name, provenance }: FileContent): number {
  if (kind.format === "hf") return hfWeightBytes(spec, kind);
  const tokenizerMetadata = tokenizer
    ? ggufTokenizerMetadata(tokenizer, { vocab: spec.vocab })
    : new Map<string, never>();
  return ggufFileBytes(spec, { dtype: kind.dtype, tokenizerMetadata, name, ...(provenance ? { provenance } : {}) });
}

/** A number of bytes of a file's tensors as a target. */
export function byteTarget(spec: DecoderSpec, most: number, kind: FileKind): SizeTarget {
  return { measure: byteMeasure(spec, kind), most, unit: "bytes" };
}
