// Types of a whole GGUF and, for each, the types of its tensors by llama.cpp's rules: some parts of some layers have more bits.
import {
  type DecoderSpec,
  EMBEDDING,
  HEAD,
  isOfExperts,
  isRouter,
  isTaps,
  type LayerSpec,
  POSITIONS,
  type Projection,
} from "../../spec/decoder.ts";
import { elementCount } from "../../spec/row_range.ts";
import type { WeightSource } from "../../spec/source.ts";
import { ggufNames } from "./names.ts";
import { type GgufTensorType, TENSOR_FORMATS } from "./types.ts";

/** The type of a GGUF as llama.cpp names it, in lower case: that of most matrices, or a mix. */
export type GgufWriteType =
  | "f32"
  | "f16"
  | "bf16"
  | "q8_0"
  | "q6_k"
  | "q5_k_m"
  | "q5_k_s"
  | "q5_1"
  | "q5_0"
  | "q4_k_m"
  | "q4_k_s"
  | "q4_1"
  | "q4_0"
  | "mxfp4_moe"
  | "q3_k_l"
  | "q3_k_m"
  | "q3_k_s"
  | "q2_k";

/** Of each its value of `general.file_type`, and what matrices are where no rule says otherwise. */
const FILES: Readonly<Record<GgufWriteType, { readonly id: number; readonly base: GgufTensorType }>> = {
  f32: { id: 0, base: "f32" },
  f16: { id: 1, base: "f16" },
  bf16: { id: 32, base: "bf16" },
  q8_0: { id: 7, base: "q8_0" },
  q6_k: { id: 18, base: "q6_k" },
  q5_k_m: { id: 17, base: "q5_k" },
  q5_k_s: { id: 16, base: "q5_k" },
  q5_1: { id: 9, base: "q5_1" },
  q5_0: { id: 8, base: "q5_0" },
  q4_k_m: { id: 15, base: "q4_k" },
  q4_k_s: { id: 14, base: "q4_k" },
  q4_1: { id: 3, base: "q4_1" },
  q4_0: { id: 2, base: "q4_0" },
  mxfp4_moe: { id: 38, base: "q8_0" },
  q3_k_l: { id: 13, base: "q3_k" },
  q3_k_m: { id: 12, base: "q3_k" },
  q3_k_s: { id: 11, base: "q3_k" },
  q2_k: { id: 10, base: "q2_k" },
};

/** All of them, those of most bits first. */
export const GGUF_WRITE_TYPES = Object.keys(FILES) as readonly GgufWriteType[];

/** The value of `general.file_type`. */
export function fileTypeId(dtype: GgufWriteType): number {
  return FILES[dtype].id;
}

/** Values in a block of what most matrices are. */
export function blockOf(dtype: GgufWriteType): number {
  return TENSOR_FORMATS[FILES[dtype].base].block;
}

/** The type that a tensor gets, and the type that was wanted: they differ where its rows are not whole blocks. */
export interface TypeChoice {
  readonly type: GgufTensorType;
  readonly wanted: GgufTensorType;
}

/** Matrices of a convolution and of the embedding's width, which have the type of most. */
export const OTHER = "other";

/** Where a matrix is. */
export type MatrixPlace =
  | typeof EMBEDDING
  | typeof HEAD
  | typeof OTHER
  /** The weight of a projection, or of all experts in its place, of the nth of the layers that have one. */
  | { readonly projection: Projection; readonly nth: number; readonly isExpert?: boolean };

/**
 * Chooses the type of matrices of a model with rows of `columns` values; vectors and learned positions are always f32.
 * With `fusesQkv`, q, k and v are one matrix, which has the type of v.
 */
export function typeChooser(
  dtype: GgufWriteType,
  spec: Pick<DecoderSpec, "tied" | "layers">,
  { fusesQkv = false }: { readonly fusesQkv?: boolean } = {},
): (place: MatrixPlace, columns: number) => TypeChoice {
  const { base } = FILES[dtype], { layers, tied } = spec;
  if (TENSOR_FORMATS[base].block === 1) return () => ({ type: base, wanted: base });
  const values = layers.filter(({ heads }) => heads > 0).length, groups = groupSize(layers[0]);
  // llama.cpp's 70B: V is small there.
  const isWide = layers.length === 80 && groups > 1 && !fusesQkv;
  const wantedAt = (place: MatrixPlace, columns: number): GgufTensorType => {
    if (place === HEAD || (place === EMBEDDING && tied)) return headType(base, columns);
    if (place === EMBEDDING || place === OTHER) return base;
    const { projection, nth, isExpert } = place;
    if (dtype === "mxfp4_moe") return isExpert ? "mxfp4" : base;
    if (projection === "v" || (fusesQkv && (projection === "q" || projection === "k"))) {
      const type = valueType(dtype, { nth, layers: values, groups }) ?? base;
      return isWide && (type === "q3_k" || type === "q4_k") ? "q5_k" : type;
    }
    if (projection === "o") return OUTPUT_TYPES[dtype] ?? base;
    return (projection === "down" ? downType(dtype, { nth, layers: layers.length }) : null) ?? base;
  };
  return (place, columns) => {
    const wanted = wantedAt(place, columns),
      fits = (type: GgufTensorType): boolean => columns % TENSOR_FORMATS[type].block === 0;
    const smaller = FALLBACKS[wanted] ?? "f16";
    return { type: fits(wanted) ? wanted : fits(smaller) ? smaller : "f16", wanted };
  };
}

/** Types of blocks of 32 in place of blocks of 256. */
const FALLBACKS: Partial<Readonly<Record<GgufTensorType, GgufTensorType>>> = {
  q2_k: "q4_0",
  q3_k: "q4_0",
  q4_k: "q5_0",
  q5_k: "q5_1",
  q6_k: "q8_0",
};

const OUTPUT_TYPES: Partial<Readonly<Record<GgufWriteType, GgufTensorType>>> = {
  q2_k: "q3_k",
  q3_k_m: "q4_k",
  q3_k_l: "q5_k",
};

function headType(base: GgufTensorType, columns: number): GgufTensorType {
  return base === "q8_0" || columns % TENSOR_FORMATS[base].block !== 0 ? "q8_0" : "q6_k";
}

function groupSize(layer: LayerSpec | undefined): number {
  return layer && layer.kvHeads > 0 ? Math.floor(layer.heads / layer.kvHeads) : 1;
}

function valueType(
  dtype: GgufWriteType,
  { nth, layers, groups }: { readonly nth: number; readonly layers: number; readonly groups: number },
): GgufTensorType | null {
  switch (dtype) {
    case "q2_k":
      return groups >= 4 ? "q4_k" : "q3_k";
    case "q3_k_m":
      return nth < 2 ? "q5_k" : "q4_k";
    case "q3_k_l":
      return "q5_k";
    case "q4_k_s":
      return nth < 4 ? "q5_k" : null;
    case "q4_k_m":
    case "q5_k_m":
      return hasMoreBits(nth, layers) ? "q6_k" : null;
    default:
      return null;
  }
}

function downType(
  dtype: GgufWriteType,
  { nth, layers }: { readonly nth: number; readonly layers: number },
): GgufTensorType | null {
  switch (dtype) {
    case "q2_k":
      return "q3_k";
    case "q3_k_m":
      return nth < Math.floor(layers / 16) ? "q5_k" : "q4_k";
    case "q3_k_l":
      return "q5_k";
    case "q4_k_s":
      return nth < Math.floor(layers / 8) ? "q5_k" : null;
    case "q4_k_m":
    case "q5_k_m":
      return hasMoreBits(nth, layers) ? "q6_k" : null;
    default:
      return null;
  }
}

/** The first and last eighth of the layers, and every third between them. */
function hasMoreBits(nth: number, layers: number): boolean {
  const eighth = Math.floor(layers / 8);
  return nth < eighth || nth >= Math.floor(7 * layers / 8) || (nth - eighth) % 3 === 2;
}

/** The matrices of a model, by canonical name, with their types. */
export function matrixTypes(
  dtype: GgufWriteType,
  spec: Pick<DecoderSpec, "tied" | "layers">,
  { shapes, fusesQkv }: { readonly shapes: ReadonlyMap<string, readonly number[]>; readonly fusesQkv: boolean },
): Map<string, TypeChoice> {
  const choose = typeChooser(dtype, spec, { fusesQkv }),
    names = ggufNames(spec.layers.length),
    seen = new Map<Projection, number>();
  const types = new Map<string, TypeChoice>();
  for (const [name, shape] of shapes) {
    const part = names.get(name)?.part, columns = shape.at(-1) ?? 0;
    if (shape.length < 2 || name === POSITIONS || isRouter(name) || isTaps(name)) continue;
    const nth = part ? seen.get(part.projection) ?? 0 : 0;
    if (part) seen.set(part.projection, nth + 1);
    types.set(
      name,
      choose(placeOf(name, part && { projection: part.projection, nth, isExpert: isOfExperts(name) }), columns),
    );
  }
  return types;
}

/** The place of a matrix by its name. */
function placeOf(name: string, part: MatrixPlace | undefined): MatrixPlace {
  if (part !== undefined) return part;
  return name === HEAD || name === EMBEDDING ? name : OTHER;
}

/** Types without blocks. */
const PLAIN_TYPES: readonly string[] = ["f32", "f16", "bf16"];

/**
 * The type of a GGUF whose layers are like those of a quantised one. Picks the mix that matches the most weights, counted per projection. Layers are
 * ignored because llama.cpp's layer rule has changed between versions. Null for a model that is not quantised.
 */
export function typeLike(
  { spec, storedDtype }: Pick<WeightSource, "spec" | "storedDtype">,
  shapes: ReadonlyMap<string, readonly number[]>,
): GgufWriteType | null {
  const parts = ggufNames(spec.layers.length);
  const weights = (typeOf: (name: string) => string | undefined): Map<string, number> => {
    const found = new Map<string, number>();
    for (const [name, shape] of shapes) {
      const projection = parts.get(name)?.part?.projection;
      const type = typeOf(name);
      // A matrix with rows that fill no blocks has one of these types in each mix.
      if (shape.length < 2 || !projection || type === undefined || PLAIN_TYPES.includes(type)) continue;
      const key = `${projection} ${type}`;
      found.set(key, (found.get(key) ?? 0) + elementCount(shape));
    }
    return found;
  };
  const stored = weights(storedDtype);
  let best: GgufWriteType | null = null, most = 0;
  for (const dtype of GGUF_WRITE_TYPES) {
    if (blockOf(dtype) === 1) continue;
    for (const fusesQkv of [false, true]) {
      const types = matrixTypes(dtype, spec, { shapes, fusesQkv }), mixed = weights((name) => types.get(name)?.type);
      const shared = [...mixed].reduce((sum, [key, count]) => sum + Math.min(count, stored.get(key) ?? 0), 0);
      if (shared > most) [best, most] = [dtype, shared];
    }
  }
  return best;
}
