// File size of a model, computed from its shape alone.
import {
  CONV_PARTS,
  convShape,
  curveParts,
  type DecoderSpec,
  EMBEDDING,
  hasBias,
  hasFinalNorm,
  hasProjection,
  HEAD,
  headNormWidths,
  layerNorms,
  normVectors,
  positionRows,
  type Projection,
  PROJECTIONS,
  projectionShape,
} from "../spec/decoder.ts";
import { CompressoError } from "../core/errors.ts";
import type { SizeTarget } from "./selection.ts";
import type { Measure } from "./cut_state.ts";
import { ggufArch } from "../formats/gguf/architecture.ts";
import { ggufFileBytes } from "../formats/gguf/export.ts";
import { type GgufWriteType, OTHER, typeChooser } from "../formats/gguf/mixes.ts";
import { ggufTokenizerMetadata } from "../formats/gguf/tokenizer_export.ts";
import { type GgufTensorType, TENSOR_FORMATS } from "../formats/gguf/types.ts";
import { GGUF_ALIGNMENT } from "../formats/gguf/write.ts";
import { type HfDtype, hfWeightBytes } from "../formats/hf/export.ts";
import type { Provenance } from "../spec/provenance.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** A file format and the type of its matrices. */
export type FileKind<Gguf extends string = GgufWriteType> =
  | { readonly format: "gguf"; readonly dtype: Gguf }
  | { readonly format: "hf"; readonly dtype: HfDtype };

/**
 * Counts the bytes of the tensors in a file of this kind. In a GGUF, vectors are f32, matrices have the types of
 * `typeChooser`, and tensors are aligned. If a mix gives layers different types, each layer counts as the mean. Header
 * and tokenizer are added in {@link fileBytes}.
 */
export function byteMeasure(spec: DecoderSpec, kind: FileKind): Measure {
  const types = kind.format === "gguf" ? typeShares(spec, kind.dtype) : null;
  const aligned = (values: number, type: GgufTensorType): number => {
    const { block, bytes } = TENSOR_FORMATS[type];
    return Math.ceil(values / block * bytes / GGUF_ALIGNMENT) * GGUF_ALIGNMENT;
  };
  const vector = (values: number): number =>
    kind.format === "hf" ? values * TENSOR_FORMATS[kind.dtype].bytes : aligned(values, "f32");
  const matrix = (place: Place, rows: number, columns: number): number => {
    if (!types) return vector(rows * columns);
    return types(place, columns).reduce((sum, { type, share }) => sum + share * aligned(rows * columns, type), 0);
  };
  return {
    layer(layer, hidden): number {
      let total = layerNorms(spec, layer).length * normVectors(spec) * vector(hidden);
      if (spec.layerScale) total += vector(1);
      for (const width of Object.values(headNormWidths(spec, layer))) if (width > 0) total += vector(width);
      // A GGUF says curves in its header.
      if (kind.format === "hf") total += curveParts(spec, layer).length * vector(1);
      for (const projection of PROJECTIONS) {
        if (!hasProjection(spec, projection)) continue;
        const [rows, columns] = projectionShape({ ...spec, hidden }, layer, projection);
        if (rows === 0 || columns === 0) continue;
        total += matrix(projection, rows, columns) + (hasBias(spec, projection) ? vector(rows) : 0);
      }
      for (const part of layer.conv ? CONV_PARTS : []) {
        const [rows, columns] = convShape({ ...spec, hidden }, part);
        total += part === "taps" ? vector(rows * columns) : matrix(OTHER, rows, columns);
      }
      return total;
    },
    rest(hidden): number {
      const { vocab, tied, embeddingWidth: own } = spec, width = own ?? hidden;
      const norms = hasFinalNorm(spec) ? normVectors(spec) * vector(hidden) : 0;
      return matrix(EMBEDDING, vocab, width) + 2 * vector((own ?? 0) * hidden) + vector(positionRows(spec) * hidden) +
        norms + (tied ? 0 : matrix(HEAD, vocab, width)) + (spec.headBias ? vector(vocab) : 0);
    },
  };
}

type Place = Projection | typeof EMBEDDING | typeof HEAD | typeof OTHER;

/** Share of the layers in which a matrix has a type. */
interface TypeShare {
  readonly type: GgufTensorType;
  readonly share: number;
}

/** The types of a matrix in the layers of a GGUF. */
function typeShares(
  spec: DecoderSpec,
  dtype: GgufWriteType,
): (place: Place, columns: number) => readonly TypeShare[] {
  const choose = typeChooser(dtype, spec, { fusesQkv: writesQkv(spec) }),
    known = new Map<string, readonly TypeShare[]>();
  const count = (place: Place, columns: number): TypeShare[] => {
    if (place === EMBEDDING || place === HEAD || place === OTHER) {
      return [{ type: choose(place, columns).type, share: 1 }];
    }
    const shares = new Map<GgufTensorType, number>(), layers = Math.max(1, spec.layers.length);
    for (let nth = 0; nth < layers; nth++) {
      const { type } = choose({ projection: place, nth }, columns);
      shares.set(type, (shares.get(type) ?? 0) + 1);
    }
    return [...shares].map(([type, times]) => ({ type, share: times / layers }));
  };
  return (place, columns) => {
    // Types depend on the number of columns only by its divisibility.
    const key = `${place} ${columns % 32 === 0} ${columns % 256 === 0}`,
      found = known.get(key) ?? count(place, columns);
    known.set(key, found);
    return found;
  };
}

/**
 * Whether a GGUF of the model stores q, k and v as one matrix; false if the model can be written only cut or padded.
 */
function writesQkv(spec: DecoderSpec): boolean {
  try {
    return ggufArch(spec).fused !== undefined;
  } catch (error) {
    if (error instanceof CompressoError) return false;
    throw error;
  }
}

/** Contents of a file in addition to the tensors. */
export interface FileContent {
  /** Tokenizer; null for token ids only. */
  readonly tokenizer: Tokenizer | null;
  /** Name of the model in a GGUF. */
  readonly name: string;
  /** Origin stated in a GGUF. Default: unknown. */
  readonly provenance?: Provenance | undefined;
}

/**
 * Size in bytes of the exported file: for a folder the safetensors only (all shards), for a GGUF the file with its
 * tokenizer.
 *
 * @throws CompressoError("input") for a tokenizer that a GGUF cannot represent.
 */
export function fileBytes(spec: DecoderSpec, kind: FileKind, { tokenizer, name, provenance }: FileContent): number {
  if (kind.format === "hf") return hfWeightBytes(spec, kind);
  const tokenizerMetadata = tokenizer
    ? ggufTokenizerMetadata(tokenizer, { vocab: spec.vocab })
    : new Map<string, never>();
  return ggufFileBytes(spec, { dtype: kind.dtype, tokenizerMetadata, name, provenance });
}

/** A target for the bytes of the tensors of a file. */
export function byteTarget(spec: DecoderSpec, most: number, kind: FileKind): SizeTarget {
  return { measure: byteMeasure(spec, kind), most, unit: "bytes" };
}
