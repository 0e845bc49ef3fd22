// Writing of safetensors files, a tensor at a time, in one file or in shards with their index.
import { type CompressoError, refusal, refuse } from "../../core/errors.ts";
import { type FileSystem, type StagedFile, writeFile } from "../../files/system.ts";
import { inOrder, onThread, pieceStarts } from "../../core/threads.ts";
import { elementCount } from "../../spec/row_range.ts";
import { type HalfDtype, halve, HALVES } from "./halve.ts";
import { DTYPE_BITS, MAX_HEADER_BYTES, type SafetensorsDtype } from "./header.ts";

/**
 * The values of a tensor. A Float32Array is narrowed where the dtype is F16 or BF16; any other view is written byte for byte
 * and must match the dtype (a Uint8Array of raw bytes matches all).
 */
export type TensorData =
  | Float32Array
  | Float64Array
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | BigInt64Array
  | BigUint64Array;

/** A tensor to write. `data` is called once, when its turn comes, and its result is dropped before the next call. */
export interface SafetensorsItem {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly data: () => TensorData | Promise<TensorData>;
}

/** Metadata of the header. */
export interface SafetensorsMetadata {
  /** Strings for the header's `__metadata__`; default `{ format: "pt" }`, which transformers demands. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** Options of the writers. */
export interface SafetensorsWriteOptions extends SafetensorsMetadata {
  /** Where the files are written. */
  readonly files: FileSystem;
}

/** Weights above this many bytes are cut into several files by default: 5 GB, as transformers does. */
const DEFAULT_SHARD_BYTES = 5_000_000_000;

/**
 * Writes a safetensors file atomically. Wider dtypes come first, as in the reference, so that every tensor is aligned.
 *
 * @throws CompressoError("mismatch") if data do not fit dtype and shape.
 * @throws CompressoError("numeric") if a finite value is too large for F16 or BF16.
 * @throws CompressoError("usage") for a name given twice.
 */
export async function writeSafetensors(
  path: string,
  items: readonly SafetensorsItem[],
  options: SafetensorsWriteOptions,
): Promise<void> {
  const sorted = items.toSorted((a, b) => DTYPE_BITS[b.dtype] - DTYPE_BITS[a.dtype]);
  using file = await options.files.stageFile(path);
  await file.write(headerBytes(sorted, { metadata: options.metadata ?? FOR_TORCH, path }));
  for (const item of sorted) await writeItem(file, item);
  await file.commit();
}

/**
 * Writes `model.safetensors` into a folder or, above `maxShardBytes`, `model-00001-of-0000N.safetensors` … and
 * `model.safetensors.index.json`. A shard is closed before the tensor that would make it larger than that.
 * Returns the names of the files written. Throws as {@link writeSafetensors}.
 */
export async function writeShardedSafetensors(
  folder: string,
  items: readonly SafetensorsItem[],
  options: SafetensorsWriteOptions & { readonly maxShardBytes?: number },
): Promise<string[]> {
  const shards = cut(items, options.maxShardBytes ?? DEFAULT_SHARD_BYTES);
  const [only] = shards;
  if (shards.length <= 1) {
    await writeSafetensors(`${folder}/model.safetensors`, only ?? [], options);
    return ["model.safetensors"];
  }
  const names = shards.map((_, index) => `model-${five(index + 1)}-of-${five(shards.length)}.safetensors`);
  const weightMap: Record<string, string> = {};
  for (const [index, shard] of shards.entries()) {
    const name = names[index] ?? "";
    await writeSafetensors(`${folder}/${name}`, shard, options);
    for (const item of shard) weightMap[item.name] = name;
  }
  const total = items.reduce((sum, item) => sum + byteLength(item), 0);
  const index = { metadata: { total_size: total }, weight_map: weightMap };
  await writeFile(options.files, `${folder}/model.safetensors.index.json`, `${JSON.stringify(index, null, 2)}\n`);
  return [...names, "model.safetensors.index.json"];
}

/** Bytes of all files that {@link writeShardedSafetensors} would write these tensors to, without the index. Asks for no data. */
export function shardedSafetensorsBytes(
  items: readonly Omit<SafetensorsItem, "data">[],
  options: SafetensorsMetadata & { readonly maxShardBytes?: number } = {},
): number {
  const shards = cut(items.map((item) => ({ ...item, data: noData })), options.maxShardBytes ?? DEFAULT_SHARD_BYTES);
  return (shards.length > 0 ? shards : [[]]).reduce((sum, shard) => {
    const sorted = shard.toSorted((a, b) => DTYPE_BITS[b.dtype] - DTYPE_BITS[a.dtype]);
    const header = headerBytes(sorted, { metadata: options.metadata ?? FOR_TORCH, path: "the file" });
    return sum + header.length + shard.reduce((bytes, item) => bytes + byteLength(item), 0);
  }, 0);
}

function noData(): never {
  throw new Error("only the size is asked for");
}

/** transformers demands it. */
const FOR_TORCH = { format: "pt" };

function cut(items: readonly SafetensorsItem[], maxBytes: number): SafetensorsItem[][] {
  if (!(maxBytes > 0)) {
    refuse("usage", "cannot cut the weights into shards", {
      rule: "the size of a shard is above 0",
      value: maxBytes,
    });
  }
  const names = new Set<string>();
  const shards: SafetensorsItem[][] = [];
  let size = Infinity;
  for (const item of items) {
    // A duplicate within one file is found below; this finds one across shards.
    if (names.has(item.name)) throw twice(item.name);
    names.add(item.name);
    if (size + byteLength(item) > maxBytes) {
      shards.push([]);
      size = 0;
    }
    shards.at(-1)?.push(item);
    size += byteLength(item);
  }
  return shards;
}

function headerBytes(
  items: readonly SafetensorsItem[],
  { metadata, path }: { readonly metadata: Readonly<Record<string, string>>; readonly path: string },
): Uint8Array {
  const entries: [string, unknown][] = Object.keys(metadata).length > 0 ? [["__metadata__", metadata]] : [];
  const names = new Set<string>();
  let end = 0;
  for (const item of items) {
    if (names.has(item.name) || item.name === "__metadata__") throw twice(item.name);
    names.add(item.name);
    const begin = end;
    end += byteLength(item);
    entries.push([item.name, { dtype: item.dtype, shape: item.shape, data_offsets: [begin, end] }]);
  }
  // Not Object.fromEntries: a tensor named "1" would be moved to the front, "__proto__" be lost.
  const json = `{${entries.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join(",")}}`;
  const text = new TextEncoder().encode(json);
  // Spaces after the JSON bring the data to a multiple of 8 bytes.
  const length = Math.ceil(text.length / 8) * 8;
  if (length > MAX_HEADER_BYTES) {
    refuse("usage", `cannot write ${path}`, {
      rule: `the header of a safetensors file has at most ${MAX_HEADER_BYTES} bytes`,
      value: `${length} bytes`,
      fix: "write fewer tensors or shorter metadata, or cut the weights into shards",
    });
  }
  const bytes = new Uint8Array(8 + length).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(text, 8);
  return bytes;
}

async function writeItem(file: StagedFile, item: SafetensorsItem): Promise<void> {
  const { name, dtype, shape } = item, data = await item.data(), expected = elementCount(shape);
  const isHalved = data instanceof Float32Array && (dtype === "F16" || dtype === "BF16");
  if (!isHalved && !(data instanceof Uint8Array) && !VIEWS[dtype]?.some((type) => data instanceof type)) {
    throw misfit(name, `data of dtype ${dtype}, or raw bytes`, data.constructor.name);
  }
  const bytes = isHalved ? 2 * data.length : data.byteLength;
  if (bytes !== byteLength(item)) {
    const value = `${data.length} (${bytes} bytes)`;
    throw misfit(name, `${expected} values (${byteLength(item)} bytes) for ${dtype} [${shape.join(", ")}]`, value);
  }
  if (!isHalved) return await file.write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  await inOrder(pieceStarts(data.length, PIECE_VALUES), async (start) => {
    const values = data.slice(start, start + PIECE_VALUES);
    return await onThread(() => import.meta.resolve("./halve.ts"), halve, [values, dtype], {
      transfer: [values.buffer],
    });
  }, async (halves, start) => {
    if (typeof halves === "number") throw tooLarge(name, dtype, { data, at: start + halves });
    await file.write(new Uint8Array(halves.buffer));
  });
}

/** Values that are halved at once. */
const PIECE_VALUES = 1 << 20;

function tooLarge(
  name: string,
  dtype: HalfDtype,
  { data, at }: { readonly data: Float32Array; readonly at: number },
): CompressoError {
  const { most, wider } = HALVES[dtype];
  return refusal("numeric", `cannot write ${name} as ${dtype}`, {
    rule: `values lie within ±${most}`,
    value: `${data[at]} at ${at}`,
    fix: `write ${wider}`,
  });
}

/** Views other than Uint8Array that hold the bits of a dtype. */
const VIEWS: Partial<Record<SafetensorsDtype, readonly (new () => TensorData)[]>> = {
  I8: [Int8Array],
  I16: [Int16Array],
  U16: [Uint16Array],
  F16: [Uint16Array],
  BF16: [Uint16Array],
  I32: [Int32Array],
  U32: [Uint32Array],
  F32: [Float32Array],
  F64: [Float64Array],
  I64: [BigInt64Array],
  U64: [BigUint64Array],
};

function byteLength({ name, dtype, shape }: SafetensorsItem): number {
  const bits = elementCount(shape) * DTYPE_BITS[dtype];
  if (shape.every((count) => Number.isSafeInteger(count) && count >= 0) && bits % 8 === 0) return bits / 8;
  throw misfit(name, "a shape of whole numbers that fills whole bytes", `[${shape.join(", ")}] of ${dtype}`);
}

function five(number: number): string {
  return String(number).padStart(5, "0");
}

function twice(name: string): CompressoError {
  return refusal("usage", "cannot write a safetensors file", {
    rule: "each tensor has its own name, other than __metadata__",
    value: `${JSON.stringify(name)} comes twice, or is that name`,
  });
}

function misfit(name: string, rule: string, value: string): CompressoError {
  return refusal("mismatch", `cannot write the tensor ${name}`, {
    rule: `it has ${rule}`,
    value,
  });
}
