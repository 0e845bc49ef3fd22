// The header of a GGUF: metadata and where the tensors are, checked against the file's size.
import { type ByteSource, firstBytes } from "../../files/system.ts";
import { isGguf, looksLike } from "../sniff.ts";
import { elementCount } from "../../spec/row_range.ts";
import {
  ggufError,
  type GgufScalarType,
  type GgufTensorType,
  type GgufValue,
  TENSOR_FORMATS,
  tensorTypeOf,
  VALUE_TYPES,
} from "./types.ts";

/** Place of a tensor in the file. */
export interface GgufTensor {
  /** Name in the file, such as `blk.0.attn_q.weight`. */
  readonly name: string;
  readonly type: GgufTensorType;
  /** Row-major, as [out, in]: the file's own order turned round. */
  readonly shape: readonly number[];
  /** First byte, counted from the start of the file. */
  readonly offset: number;
  readonly byteLength: number;
}

/** All that the header says. */
export interface GgufHeader {
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

/**
 * Reads and checks the header of a GGUF of version 2 or 3.
 *
 * @throws CompressoError("input") for another kind of file, a truncated one, an unknown value or tensor type, a duplicate name, and tensors that
 * overlap or leave the file.
 */
export async function readGgufHeader(source: ByteSource): Promise<GgufHeader> {
  // A header with a large vocabulary is longer than the first bytes, and is parsed again from more.
  for (let most = FIRST_BYTES;; most *= GROWTH) {
    const bytes = await firstBytes(source, most);
    try {
      return parseHeader(source, bytes);
    } catch (error) {
      if (!(error instanceof MoreNeeded)) throw error;
      while (most * GROWTH < error.bytes) most *= GROWTH;
    }
  }
}

/** Parses a header from the first `bytes` of the file. Throws {@link MoreNeeded} if the header is longer. */
function parseHeader({ name: path, size }: ByteSource, bytes: Uint8Array<ArrayBuffer>): GgufHeader {
  if (!isGguf(bytes)) {
    const guess = looksLike(bytes) ?? { what: "something else", fix: "check the path" };
    throw ggufError(path, { rule: "the file starts with GGUF", value: guess.what, fix: guess.fix });
  }
  const cursor = openCursor(path, { bytes, size });
  cursor.take(4);
  const version = cursor.take(4).getUint32(0, true);
  if (version !== 2 && version !== 3) {
    const swapped = version === 0x02000000 || version === 0x03000000;
    const value = swapped ? "a big-endian file" : `version ${version}`;
    throw ggufError(path, { rule: "its version is 2 or 3, little-endian", value, fix: "convert it with llama.cpp" });
  }
  // Both counts are checked against the smallest size of what follows, so that a damaged one ends here.
  const tensorCount = cursor.count("tensors", 24);
  const valueCount = cursor.count("metadata values", 13);
  if (tensorCount > MOST_TENSORS || valueCount > MOST_VALUES) {
    const rule = `a file has at most ${MOST_TENSORS} tensors and ${MOST_VALUES} metadata values`;
    throw ggufError(path, { rule, value: `${tensorCount} and ${valueCount}` });
  }
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < valueCount; i++) {
    const key = cursor.string("a metadata key");
    if (metadata.has(key)) throw ggufError(path, { rule: "each metadata key comes once", value: key });
    metadata.set(key, readValue(cursor, cursor.take(4).getUint32(0, true), key));
  }
  const infos: GgufTensor[] = [];
  for (let i = 0; i < tensorCount; i++) infos.push(readTensorInfo(cursor));
  const alignment = metadata.get("general.alignment") ?? 32;
  if (typeof alignment !== "number" || alignment < 8 || alignment % 8 !== 0) {
    throw ggufError(path, { rule: "general.alignment is a multiple of 8", value: String(alignment) });
  }
  const dataStart = Math.ceil(cursor.position / alignment) * alignment;
  return { version, metadata, tensors: placed(infos, { path, dataStart, alignment, size }) };
}

/** Bytes of a header that are read at first. */
const FIRST_BYTES = 1 << 20;
/** How much more is read where they are too few: vocabularies take some 10 MB. */
const GROWTH = 4;

/** Items of an array in the metadata; vocabularies have some 300,000. */
const MOST_ITEMS = 2 ** 24;

/** Tensors and metadata values of a file; large models have some 2,000 and 60. */
const MOST_TENSORS = 2 ** 18, MOST_VALUES = 2 ** 16;

/** Thrown where a header does not end within the bytes that were read. */
class MoreNeeded extends Error {
  /** Bytes from the file's start that are needed at least. */
  readonly bytes: number;

  constructor(bytes: number) {
    super("the header is longer than what was read");
    this.bytes = bytes;
  }
}

/** Reads forward through the header. */
interface Cursor {
  readonly path: string;
  readonly position: number;
  /** The next bytes. */
  take(length: number): DataView<ArrayBuffer>;
  /** A u64 that counts things of at least `least` bytes each. */
  count(of: string, least: number): number;
  string(of: string): string;
}

function openCursor(
  path: string,
  { bytes, size }: { readonly bytes: Uint8Array<ArrayBuffer>; readonly size: number },
): Cursor {
  // U+FEFF is a token of LLaMA's vocabulary, not a mark.
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let at = 0;

  function take(length: number): DataView<ArrayBuffer> {
    if (at + length > size) throw truncated(path, at + length, size);
    if (at + length > bytes.length) throw new MoreNeeded(at + length);
    at += length;
    return new DataView(bytes.buffer, at - length, length);
  }

  function count(of: string, least: number): number {
    const value = take(8).getBigUint64(0, true);
    const left = size - at;
    if (value * BigInt(least) > BigInt(left)) {
      const rule = `${of} (${value}) of at least ${least} bytes each fit into the file`;
      throw ggufError(path, {
        rule,
        value: `${left} bytes are left`,
        fix: "the file is truncated or damaged: fetch it again",
      });
    }
    return Number(value);
  }

  return {
    path,
    get position(): number {
      return at;
    },
    take,
    count,
    string(of): string {
      const bytes = take(count(`characters of ${of}`, 1));
      try {
        return decoder.decode(bytes);
      } catch {
        throw ggufError(path, { rule: "strings are UTF-8", value: `${of} is not` });
      }
    },
  };
}

function readValue(cursor: Cursor, typeId: number, key: string): GgufValue {
  const type = valueType(cursor.path, typeId, key);
  if (type !== "array") return type === "string" ? cursor.string(key) : scalar(cursor.take(WIDTH[type]), type);
  const items = valueType(cursor.path, cursor.take(4).getUint32(0, true), key);
  if (items === "array") throw ggufError(cursor.path, { rule: "arrays hold no arrays", value: key });
  const length = cursor.count(`items of ${key}`, items === "string" ? 8 : WIDTH[items]);
  if (length > MOST_ITEMS) {
    throw ggufError(cursor.path, { rule: `arrays have at most ${MOST_ITEMS} items`, value: `${key} has ${length}` });
  }
  if (items === "string") {
    const list: string[] = [];
    for (let i = 0; i < length; i++) list.push(cursor.string(key));
    return list;
  }
  const view = cursor.take(length * WIDTH[items]);
  // A copy: the bytes are not aligned, and are dropped soon.
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice();
  return items === "bool" ? Array.from(bytes, (byte) => byte !== 0) : new ARRAYS[items](bytes.buffer);
}

function scalar(view: DataView, type: Exclude<GgufScalarType, "string">): GgufValue {
  switch (type) {
    case "u8":
      return view.getUint8(0);
    case "i8":
      return view.getInt8(0);
    case "u16":
      return view.getUint16(0, true);
    case "i16":
      return view.getInt16(0, true);
    case "u32":
      return view.getUint32(0, true);
    case "i32":
      return view.getInt32(0, true);
    case "f32":
      return view.getFloat32(0, true);
    case "f64":
      return view.getFloat64(0, true);
    case "bool":
      return view.getUint8(0) !== 0;
    case "u64":
      return exact(view.getBigUint64(0, true));
    case "i64":
      return exact(view.getBigInt64(0, true));
  }
}

function readTensorInfo(cursor: Cursor): GgufTensor {
  const name = cursor.string("a tensor's name");
  const tensor = `tensor ${JSON.stringify(name)}`;
  const dimensions = cursor.take(4).getUint32(0, true);
  if (dimensions < 1 || dimensions > 4) {
    throw ggufError(cursor.path, { rule: `${tensor} has 1 to 4 dimensions`, value: String(dimensions) });
  }
  const view = cursor.take(8 * dimensions);
  const sizes = Array.from({ length: dimensions }, (_, index) => view.getBigUint64(8 * index, true));
  const typeId = cursor.take(4).getUint32(0, true);
  const offset = cursor.take(8).getBigUint64(0, true);
  const type = tensorTypeOf(typeId, { path: cursor.path, tensor });
  const { block, bytes } = TENSOR_FORMATS[type];
  const values = sizes.reduce((product, size) => product * size, 1n);
  if (values > 2n ** 48n || offset > 2n ** 52n) {
    const value = `${sizes.join(" × ")} at ${offset}`;
    throw ggufError(cursor.path, { rule: `${tensor} has a size and an offset that a file can have`, value });
  }
  const shape = sizes.map(Number).reverse();
  if (Number(sizes[0]) % block !== 0) {
    const rule = `${tensor}, ${type}, has rows of a multiple of ${block} values`;
    throw ggufError(cursor.path, { rule, value: String(sizes[0]) });
  }
  return { name, type, shape, offset: Number(offset), byteLength: elementCount(shape) / block * bytes };
}

/** Turns offsets within the data into offsets within the file; checks that tensors do not overlap and are within the file. */
function placed(
  infos: readonly GgufTensor[],
  file: { readonly path: string; readonly dataStart: number; readonly alignment: number; readonly size: number },
): Map<string, GgufTensor> {
  const { path, dataStart, alignment, size } = file;
  const tensors = new Map<string, GgufTensor>();
  for (const info of infos) {
    if (tensors.has(info.name)) throw ggufError(path, { rule: "each tensor comes once", value: info.name });
    if (info.offset % alignment !== 0) {
      throw ggufError(path, {
        rule: `tensors start at multiples of ${alignment}`,
        value: `${info.name} at ${info.offset}`,
      });
    }
    tensors.set(info.name, { ...info, offset: dataStart + info.offset });
  }
  let end = dataStart, before = "the header";
  for (const { name, offset, byteLength } of [...tensors.values()].sort((a, b) => a.offset - b.offset)) {
    if (offset < end) throw ggufError(path, { rule: "tensors do not overlap", value: `${name} and ${before} do` });
    end = offset + byteLength;
    before = name;
  }
  if (end > size) throw truncated(path, end, size);
  return tensors;
}

function valueType(path: string, id: number, key: string): typeof VALUE_TYPES[number] {
  const type = VALUE_TYPES[id];
  if (type) return type;
  const rule = `${key} has a value type from 0 to ${VALUE_TYPES.length - 1}`;
  throw ggufError(path, { rule, value: String(id), fix: "the file is damaged: fetch it again" });
}

function exact(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function truncated(path: string, needed: number, size: number): Error {
  return ggufError(path, {
    rule: `the file has ${needed} bytes or more`,
    value: `${size} bytes`,
    fix: "the file is truncated: fetch it again",
  });
}

const WIDTH = { u8: 1, i8: 1, u16: 2, i16: 2, u32: 4, i32: 4, f32: 4, bool: 1, u64: 8, i64: 8, f64: 8 } as const;

const ARRAYS = {
  u8: Uint8Array,
  i8: Int8Array,
  u16: Uint16Array,
  i16: Int16Array,
  u32: Uint32Array,
  i32: Int32Array,
  f32: Float32Array,
  f64: Float64Array,
  u64: BigUint64Array,
  i64: BigInt64Array,
} as const;
