// Types of GGUF: metadata values, tensor types and their block sizes. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
import { type CompressoError, refusal } from "../../core/errors.ts";

/** Types of a metadata value, at the index that the file stores (9 is the array). */
export const VALUE_TYPES = [
  "u8",
  "i8",
  "u16",
  "i16",
  "u32",
  "i32",
  "f32",
  "bool",
  "string",
  "array",
  "u64",
  "i64",
  "f64",
] as const;

/** Type of a single metadata value. */
export type GgufScalarType = Exclude<typeof VALUE_TYPES[number], "array">;

/** Arrays of numbers are typed arrays, so that a copy keeps their type. */
export type GgufNumbers =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;

/** A metadata value as read. A 64-bit integer is a number where that is exact, else a bigint. */
export type GgufValue = number | bigint | boolean | string | readonly string[] | readonly boolean[] | GgufNumbers;

/** A single value with the type in which to write it. */
export interface GgufTyped {
  readonly type: GgufScalarType;
  readonly value: number | bigint | boolean | string;
}

/** How a tensor type is stored: `id` in the file, and blocks of `block` values in `bytes` bytes. */
export interface TensorFormat {
  readonly id: number;
  readonly block: number;
  readonly bytes: number;
}

/** Tensor types that are read, in lower case. */
export const TENSOR_FORMATS = {
  f32: { id: 0, block: 1, bytes: 4 },
  f16: { id: 1, block: 1, bytes: 2 },
  q4_0: { id: 2, block: 32, bytes: 18 },
  q4_1: { id: 3, block: 32, bytes: 20 },
  q5_0: { id: 6, block: 32, bytes: 22 },
  q5_1: { id: 7, block: 32, bytes: 24 },
  q8_0: { id: 8, block: 32, bytes: 34 },
  q2_k: { id: 10, block: 256, bytes: 84 },
  q3_k: { id: 11, block: 256, bytes: 110 },
  q4_k: { id: 12, block: 256, bytes: 144 },
  q5_k: { id: 13, block: 256, bytes: 176 },
  q6_k: { id: 14, block: 256, bytes: 210 },
  bf16: { id: 30, block: 1, bytes: 2 },
  mxfp4: { id: 39, block: 32, bytes: 17 },
} as const satisfies Record<string, TensorFormat>;

/** A tensor type that is read. */
export type GgufTensorType = keyof typeof TENSOR_FORMATS;

/** Names of types that are not read, for the error. */
const OTHER_TENSOR_TYPES: Readonly<Record<number, string>> = {
  9: "q8_1",
  15: "q8_k",
  16: "iq2_xxs",
  17: "iq2_xs",
  18: "iq3_xxs",
  19: "iq1_s",
  20: "iq4_nl",
  21: "iq3_s",
  22: "iq2_s",
  23: "iq4_xs",
  24: "i8",
  25: "i16",
  26: "i32",
  27: "i64",
  28: "f64",
  29: "iq1_m",
  34: "tq1_0",
  35: "tq2_0",
  40: "nvfp4",
};

/** Looks up the type with an id of the file. Throws `CompressoError("input")` for a type that is not read. */
export function tensorTypeOf(id: number, context: { readonly path: string; readonly tensor: string }): GgufTensorType {
  for (const [name, format] of Object.entries(TENSOR_FORMATS)) if (format.id === id) return name as GgufTensorType;
  throw ggufError(context.path, {
    rule: `${context.tensor} has a type of ${Object.keys(TENSOR_FORMATS).join(", ")}`,
    value: OTHER_TENSOR_TYPES[id] ?? `type ${id}`,
    fix: "give the model in another quantisation",
  });
}

const UNSUPPORTED = "download the file again, or convert the model again; it may also be of an unsupported kind";

/** The error for a GGUF that cannot be read. */
export function ggufError(
  path: string,
  parts: { readonly rule: string; readonly value: string; readonly fix?: string },
): CompressoError {
  return refusal("input", `cannot read the GGUF ${path}`, { fix: UNSUPPORTED, ...parts });
}
