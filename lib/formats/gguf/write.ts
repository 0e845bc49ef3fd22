// Writing of GGUF files (version 3), a tensor at a time.
import { type CompressoError, refusal, refuse } from "../../core/errors.ts";
import type { FileSystem, StagedFile } from "../../files/system.ts";
import { encode } from "./encode.ts";
import {
  type GgufScalarType,
  type GgufTensorType,
  type GgufTyped,
  type GgufValue,
  TENSOR_FORMATS,
  VALUE_TYPES,
} from "./types.ts";
import { BF16_LIMIT, F16_LIMIT } from "../../core/half.ts";
import { inOrder, onThread, pieceStarts } from "../../core/threads.ts";
import { elementCount } from "../../spec/row_range.ts";

/** What tensors are aligned to, where the metadata do not say otherwise. */
export const GGUF_ALIGNMENT = 32;

/** A tensor to write. `data` is called once, when its turn comes: values are encoded as `type`, bytes are written as they are. */
export interface GgufItem {
  readonly name: string;
  readonly type: GgufTensorType;
  /** Row-major, as [out, in]; the last size must be a multiple of the type's block. */
  readonly shape: readonly number[];
  readonly data: () => GgufData | Promise<GgufData>;
  /** Importance of its columns, for types of blocks. Default: none. */
  readonly importance?: Float32Array | undefined;
}

/** Values of a tensor, or the bytes of its blocks. */
export type GgufData = Float32Array | Uint8Array<ArrayBuffer>;

/** What a GGUF holds. */
export interface GgufContent {
  /**
   * Values in order. A plain number becomes u32, i32, u64 or i64 if whole, else f32; a bigint u64 or i64; a typed array keeps
   * its type. A `GgufTyped` says its type itself: a whole number that is meant as f32 needs that.
   */
  readonly metadata: ReadonlyMap<string, GgufValue | GgufTyped>;
  readonly tensors: readonly GgufItem[];
}

/**
 * Writes a GGUF to a temporary file next to `path`; the caller moves it into place.
 *
 * @throws CompressoError("mismatch") if data do not fit a shape.
 * @throws CompressoError("numeric") for NaN, infinity and values too large for the type.
 * @throws CompressoError("usage") for a name given twice and a value out of range.
 */
export async function stageGgufFile(
  path: string,
  content: GgufContent,
  { files }: { readonly files: FileSystem },
): Promise<StagedFile> {
  const alignment = alignmentOf(content);
  using pending = new DisposableStack();
  const file = pending.use(await files.stageFile(path));
  await file.write(headerBytes(content, alignment));
  for (const item of content.tensors) {
    await file.write(padding(file.written, alignment));
    await writeTensor(file, item);
  }
  // Readers map whole pages of aligned tensors: the last one is padded too.
  await file.write(padding(file.written, alignment));
  await file.sync();
  pending.move();
  return file;
}

/** Bytes of the file that {@link stageGgufFile} would write. Asks for no data. */
export function ggufBytes(content: GgufContent): number {
  const alignment = alignmentOf(content), aligned = (bytes: number): number => Math.ceil(bytes / alignment) * alignment;
  return content.tensors.reduce(
    (sum, item) => sum + aligned(byteLength(item)),
    aligned(headerBytes(content, alignment).length),
  );
}

function alignmentOf({ metadata }: GgufContent): number {
  const alignment = metadata.get("general.alignment") ?? GGUF_ALIGNMENT;
  if (typeof alignment === "number" && alignment >= 8 && alignment % 8 === 0) return alignment;
  throw unusable("general.alignment", "a plain number, a multiple of 8", String(alignment));
}

function headerBytes({ metadata, tensors }: GgufContent, alignment: number): Uint8Array {
  const out = byteWriter();
  out.bytes(new TextEncoder().encode("GGUF"));
  out.number("u32", 3);
  out.number("u64", tensors.length);
  out.number("u64", metadata.size);
  for (const [key, value] of metadata) {
    out.string(key);
    writeValue(out, key, value);
  }
  const names = new Set<string>();
  let offset = 0;
  for (const item of tensors) {
    if (names.has(item.name)) throw unusable(item.name, "each tensor comes once", "it comes twice");
    names.add(item.name);
    out.string(item.name);
    out.number("u32", item.shape.length);
    for (const size of item.shape.toReversed()) out.number("u64", size);
    out.number("u32", TENSOR_FORMATS[item.type].id);
    out.number("u64", offset);
    offset += Math.ceil(byteLength(item) / alignment) * alignment;
  }
  return out.finish();
}

function writeValue(out: ByteWriter, key: string, value: GgufValue | GgufTyped): void {
  const typeId = (type: typeof VALUE_TYPES[number]): void => out.number("u32", VALUE_TYPES.indexOf(type));
  if (ArrayBuffer.isView(value)) {
    const type = ARRAY_TYPES.find(([make]) => value instanceof make)?.[1];
    if (!type) throw unusable(key, "an array of a type that GGUF has", value.constructor.name);
    typeId("array");
    typeId(type);
    out.number("u64", value.length);
    out.bytes(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
  } else if (Array.isArray(value)) {
    const type = typeof value[0] === "boolean" ? "bool" : "string";
    typeId("array");
    typeId(type);
    out.number("u64", value.length);
    for (const item of value) writeScalar(out, key, { type, value: item });
  } else {
    const typed = typedOf(value as Exclude<GgufValue, readonly unknown[] | ArrayBufferView> | GgufTyped);
    typeId(typed.type);
    writeScalar(out, key, typed);
  }
}

function typedOf(value: number | bigint | boolean | string | GgufTyped): GgufTyped {
  if (typeof value === "object") return value;
  if (typeof value === "string") return { type: "string", value };
  if (typeof value === "boolean") return { type: "bool", value };
  if (typeof value === "bigint") return { type: value < 0n ? "i64" : "u64", value };
  if (!Number.isSafeInteger(value)) return { type: "f32", value };
  if (value >= 0) return { type: value < 2 ** 32 ? "u32" : "u64", value };
  return { type: value >= -(2 ** 31) ? "i32" : "i64", value };
}

function writeScalar(out: ByteWriter, key: string, { type, value }: GgufTyped): void {
  if (type === "string") {
    if (typeof value !== "string") throw unusable(key, "a string", typeof value);
    out.string(value);
  } else if (type === "bool") {
    if (typeof value !== "boolean") throw unusable(key, "true or false", String(value));
    out.number("u8", value ? 1 : 0);
  } else {
    if (typeof value !== "number" && typeof value !== "bigint") {
      throw unusable(key, `a number of type ${type}`, String(value));
    }
    const [least, most] = RANGES[type];
    const whole = type === "f32" || type === "f64" || typeof value === "bigint" || Number.isInteger(value);
    if (!whole || !(value >= least && value <= most)) throw unusable(key, `a number of type ${type}`, String(value));
    out.number(type, value);
  }
}

async function writeTensor(file: StagedFile, item: GgufItem): Promise<void> {
  const data = await item.data(), isEncoded = data instanceof Uint8Array;
  const expected = isEncoded ? byteLength(item) : elementCount(item.shape);
  if (data.length !== expected) {
    refuse("mismatch", `cannot write the tensor ${item.name}`, {
      rule: `it has ${expected} ${isEncoded ? "bytes" : "values"} for [${item.shape.join(", ")}]`,
      value: data.length,
    });
  }
  if (isEncoded) return await file.write(data);
  const columns = item.shape.at(-1) ?? 1, importance = importanceOf(item);
  // In pieces, so that a large tensor is not in memory twice; of whole rows where columns have an importance.
  const size = importance ? columns * Math.max(1, Math.floor(PIECE_VALUES / columns)) : PIECE_VALUES;
  await inOrder(pieceStarts(data.length, size), async (start) => {
    const values = data.slice(start, start + size);
    const module = (): string => import.meta.resolve("./encode.ts"), { type } = item;
    return await onThread(module, encode, [values, type, LIMITS[type], importance], { transfer: [values.buffer] });
  }, async (bytes, start) => {
    if (typeof bytes === "number") throw outOfRange(item, data, start + bytes);
    await file.write(bytes);
  });
}

function importanceOf({ name, shape, importance }: GgufItem): Float32Array | null {
  if (!importance || importance.length === shape.at(-1)) return importance ?? null;
  refuse("mismatch", `cannot write the tensor ${name}`, {
    rule: `its importance has a value for each of its ${shape.at(-1)} columns`,
    value: importance.length,
    fix: "measure it on the model that is written",
  });
}

function outOfRange({ name, type }: GgufItem, values: Float32Array, at: number): CompressoError {
  const isFinite = Number.isFinite(values[at]);
  return refusal("numeric", `cannot write ${name} as ${type}`, {
    rule: isFinite ? `values lie within ±${LIMITS[type]}` : "values are finite",
    value: `${values[at]} at ${at}`,
    fix: !isFinite ? "check the weights, masks and LoRA" : type === "bf16" ? "write f32" : "write bf16 or f32",
  });
}

/** A multiple of every block size. */
const PIECE_VALUES = 1 << 20;

/** From here on a value, or the f16 scale or minimum of its block, may round to infinity; of K blocks somewhat before. */
const LIMITS: Readonly<Record<GgufTensorType, number>> = {
  f32: Infinity,
  f16: F16_LIMIT,
  bf16: BF16_LIMIT,
  q8_0: F16_LIMIT * 127,
  q4_0: F16_LIMIT * 8,
  q4_1: F16_LIMIT,
  q5_0: F16_LIMIT * 16,
  q5_1: F16_LIMIT,
  q2_k: F16_LIMIT * 8,
  q3_k: F16_LIMIT * 64,
  q4_k: F16_LIMIT * 32,
  q5_k: F16_LIMIT * 32,
  q6_k: F16_LIMIT * 2048,
  mxfp4: Infinity,
};

const RANGES: Readonly<
  Record<Exclude<GgufScalarType, "string" | "bool">, readonly [number | bigint, number | bigint]>
> = {
  u8: [0, 255],
  i8: [-128, 127],
  u16: [0, 65535],
  i16: [-32768, 32767],
  u32: [0, 2 ** 32 - 1],
  i32: [-(2 ** 31), 2 ** 31 - 1],
  u64: [0n, 2n ** 64n - 1n],
  i64: [-(2n ** 63n), 2n ** 63n - 1n],
  f32: [-3.4028234663852886e38, 3.4028234663852886e38],
  f64: [-Number.MAX_VALUE, Number.MAX_VALUE],
};

const WIDTHS = { u8: 1, i8: 1, u16: 2, i16: 2, u32: 4, i32: 4, f32: 4, u64: 8, i64: 8, f64: 8 } as const;

const ARRAY_TYPES = [
  [Uint8Array, "u8"],
  [Int8Array, "i8"],
  [Uint16Array, "u16"],
  [Int16Array, "i16"],
  [Uint32Array, "u32"],
  [Int32Array, "i32"],
  [Float32Array, "f32"],
  [Float64Array, "f64"],
  [BigUint64Array, "u64"],
  [BigInt64Array, "i64"],
] as const;

interface ByteWriter {
  bytes(bytes: Uint8Array): void;
  number(type: Exclude<GgufScalarType, "string" | "bool">, value: number | bigint): void;
  string(text: string): void;
  finish(): Uint8Array;
}

/** Collects little-endian values in a buffer that doubles. */
function byteWriter(): ByteWriter {
  let buffer = new Uint8Array(1 << 16);
  let view = new DataView(buffer.buffer);
  let at = 0;
  const encoder = new TextEncoder();
  const room = (length: number): number => {
    if (at + length > buffer.length) {
      const larger = new Uint8Array(Math.max(2 * buffer.length, at + length));
      larger.set(buffer.subarray(0, at));
      buffer = larger;
      view = new DataView(buffer.buffer);
    }
    at += length;
    return at - length;
  };
  const writer: ByteWriter = {
    bytes(bytes): void {
      const to = room(bytes.length);
      buffer.set(bytes, to);
    },
    number(type, value): void {
      const number = Number(value);
      // Call room() before `view` is read: it may replace the buffer.
      const to = room(WIDTHS[type]);
      switch (type) {
        case "u8":
          return view.setUint8(to, number);
        case "i8":
          return view.setInt8(to, number);
        case "u16":
          return view.setUint16(to, number, true);
        case "i16":
          return view.setInt16(to, number, true);
        case "u32":
          return view.setUint32(to, number, true);
        case "i32":
          return view.setInt32(to, number, true);
        case "f32":
          return view.setFloat32(to, number, true);
        case "f64":
          return view.setFloat64(to, number, true);
        case "u64":
          return view.setBigUint64(to, BigInt(value), true);
        case "i64":
          return view.setBigInt64(to, BigInt(value), true);
      }
    },
    string(text): void {
      const bytes = encoder.encode(text);
      writer.number("u64", bytes.length);
      writer.bytes(bytes);
    },
    finish: (): Uint8Array => buffer.subarray(0, at),
  };
  return writer;
}

function byteLength({ name, type, shape }: GgufItem): number {
  const { block, bytes } = TENSOR_FORMATS[type];
  const sizes = shape.length >= 1 && shape.length <= 4 && shape.every((size) => Number.isSafeInteger(size) && size > 0);
  if (sizes && (shape.at(-1) ?? 0) % block === 0) return elementCount(shape) / block * bytes;
  const rule = `1 to 4 sizes above 0, the last a multiple of ${block} for ${type}`;
  throw unusable(name, rule, `[${shape.join(", ")}]`);
}

function padding(written: number, alignment: number): Uint8Array {
  return new Uint8Array((alignment - written % alignment) % alignment);
}

function unusable(name: string, rule: string, value: string): CompressoError {
  return refusal("usage", `cannot write ${name} into a GGUF`, {
    rule,
    value,
  });
}
