// The header of a safetensors file: what tensors it holds and where. Format: u64 length, JSON {name: {dtype, shape, data_offsets}, __metadata__:
// {string: string}}, then the data without gaps.
import { CompressoError, refusal } from "../../core/errors.ts";
import { type ByteSource, firstBytes, readBytes } from "../../files/system.ts";
import { looksLike, SNIFFED_BYTES } from "../sniff.ts";
import { parseStrictJson, type StrictJson } from "../../compat/strict_json.ts";

/** Bits of a value of each dtype of the format. */
export const DTYPE_BITS = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

/** A dtype as the header spells it. */
export type SafetensorsDtype = keyof typeof DTYPE_BITS;

/** Place of a tensor in its file. */
export interface SafetensorsEntry {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** First byte, counted from the start of the file. */
  readonly offset: number;
  readonly byteLength: number;
}

/** All that the header says. */
export interface SafetensorsHeader {
  readonly metadata: ReadonlyMap<string, string>;
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>;
}

/** The format's own limit on the header. */
export const MAX_HEADER_BYTES = 100_000_000;

/**
 * Reads and checks the header of a safetensors file.
 *
 * @throws CompressoError("input") naming the broken rule: not such a file, truncated, header too large, duplicate key, unknown dtype, offsets that
 * overlap, leave a gap, leave the file or do not fit the shape.
 */
export async function readSafetensorsHeader(source: ByteSource): Promise<SafetensorsHeader> {
  const { name: path, size } = source, head = await firstBytes(source, SNIFFED_BYTES);
  const guess = looksLike(head);
  if (size < 8 || head[8] !== 0x7b) {
    // The first 8 bytes of a text or an archive are a huge length; say what the file is instead.
    const { what, fix } = guess ?? { what: "something else", fix: "check that this is the right file" };
    throw broken(path, "a safetensors file starts with a length and '{'", what, fix);
  }
  const length = new DataView(head.buffer).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw broken(path, `the header has at most ${MAX_HEADER_BYTES} bytes`, `${length} bytes`);
  }
  const dataStart = 8 + Number(length);
  if (dataStart > size) {
    throw broken(path, `the file holds its header of ${length} bytes`, `${size} bytes in all`, AGAIN);
  }
  const header = await readBytes(source, 8, Number(length)), objects = objectsIn(header);
  if (objects > MOST_TENSORS + 2) {
    throw broken(path, `a file has at most ${MOST_TENSORS} tensors`, `${objects} objects in its header`);
  }
  let json: StrictJson;
  try {
    json = parseStrictJson(new TextDecoder("utf-8", { fatal: true }).decode(header));
  } catch (error) {
    if (error instanceof CompressoError) throw error;
    throw broken(path, "the header is JSON in UTF-8", error instanceof Error ? error.message : String(error));
  }
  if (!(json instanceof Map)) throw broken(path, "the header is a JSON object", kindOf(json));
  const tensors = new Map<string, SafetensorsEntry>();
  let metadata: ReadonlyMap<string, string> = new Map();
  for (const [name, value] of json) {
    if (name === "__metadata__") metadata = metadataOf(path, value);
    else tensors.set(name, entryOf(name, value, { path, dataStart }));
  }
  checkLayout(path, tensors, { dataStart, size });
  return { metadata, tensors };
}

/** Tensors of a file; the largest models have some 100,000 in all their files. */
const MOST_TENSORS = 2 ** 18;

/** Number of objects in JSON, without parsing it: of `{` outside of texts. */
function objectsIn(json: Uint8Array): number {
  let count = 0, isText = false;
  for (let at = 0; at < json.length; at++) {
    const byte = json[at];
    if (byte === 0x5c && isText) at++;
    else if (byte === 0x22) isText = !isText;
    else if (byte === 0x7b && !isText) count++;
  }
  return count;
}

const AGAIN = "the file is truncated: fetch or write it again";

function metadataOf(path: string, value: StrictJson): ReadonlyMap<string, string> {
  const metadata = new Map<string, string>();
  if (!(value instanceof Map)) throw broken(path, "__metadata__ is an object", kindOf(value));
  for (const [key, entry] of value) {
    if (typeof entry !== "string") throw broken(path, `__metadata__.${key} is a string`, kindOf(entry));
    metadata.set(key, entry);
  }
  return metadata;
}

function entryOf(
  name: string,
  value: StrictJson,
  { path, dataStart }: { readonly path: string; readonly dataStart: number },
): SafetensorsEntry {
  const tensor = `tensor ${JSON.stringify(name)}`;
  const keys = value instanceof Map ? [...value.keys()].sort().join(", ") : kindOf(value);
  if (!(value instanceof Map) || keys !== "data_offsets, dtype, shape") {
    throw broken(path, `${tensor} has dtype, shape and data_offsets, and no more`, keys);
  }
  const dtype = value.get("dtype"), shape = value.get("shape"), offsets = value.get("data_offsets");
  if (!isDtype(dtype)) {
    const rule = `${tensor} has a dtype of ${Object.keys(DTYPE_BITS).join(", ")}`;
    throw broken(path, rule, JSON.stringify(dtype) ?? "none", "save it in one of these");
  }
  if (!isCounts(shape)) throw broken(path, `${tensor} has a shape of whole numbers from 0 on`, JSON.stringify(shape));
  if (!isCounts(offsets) || offsets.length !== 2) {
    throw broken(path, `${tensor} has data_offsets [begin, end]`, JSON.stringify(offsets));
  }
  const [begin = 0, end = 0] = offsets;
  const bits = bitsOf(shape, dtype);
  if (bits === null) {
    throw broken(
      path,
      `${tensor}, ${dtype} [${shape.join(", ")}], has a size that a file can have`,
      "2^80 bits or more",
    );
  }
  if (bits % 8n !== 0n) throw broken(path, `${tensor} fills whole bytes`, `${bits} bits`);
  if (bits / 8n !== BigInt(end - begin)) {
    const value = `data_offsets ${begin} to ${end}, ${end - begin} bytes`;
    throw broken(path, `${tensor}, ${dtype} [${shape.join(", ")}], has ${bits / 8n} bytes`, value);
  }
  return { name, dtype, shape, offset: dataStart + begin, byteLength: end - begin };
}

/** Bits of a tensor, in BigInt, as 2^32 × 2^32 must not wrap into a size that fits; null for more than any file has. */
function bitsOf(shape: readonly number[], dtype: SafetensorsDtype): bigint | null {
  if (shape.includes(0)) return 0n;
  let bits = BigInt(DTYPE_BITS[dtype]);
  for (const count of shape) {
    bits *= BigInt(count);
    if (bits >= 2n ** 80n) return null;
  }
  return bits;
}

/** Tensors must fill the rest of the file: each begins where the previous one ends. */
function checkLayout(
  path: string,
  tensors: ReadonlyMap<string, SafetensorsEntry>,
  { dataStart, size }: { readonly dataStart: number; readonly size: number },
): void {
  const sorted = [...tensors.values()].sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength);
  let end = dataStart;
  let before = "the header";
  for (const { name, offset, byteLength } of sorted) {
    const tensor = `tensor ${JSON.stringify(name)}`;
    if (offset < end) throw broken(path, "tensors do not overlap", `${tensor} and ${before} share bytes`);
    if (offset > end) {
      throw broken(path, "tensors leave no gap", `${offset - end} bytes between ${before} and ${tensor}`);
    }
    end = offset + byteLength;
    before = tensor;
  }
  if (end > size) {
    throw broken(path, `the file holds its ${end} bytes`, `${size} bytes, so ${before} is cut off`, AGAIN);
  }
  if (end < size) throw broken(path, `the file ends after its last tensor, at ${end} bytes`, `${size} bytes`);
}

function isDtype(value: StrictJson | undefined): value is SafetensorsDtype {
  return typeof value === "string" && Object.hasOwn(DTYPE_BITS, value);
}

function isCounts(value: StrictJson | undefined): value is number[] {
  return Array.isArray(value) && value.every((count) => Number.isSafeInteger(count) && Number(count) >= 0);
}

function kindOf(value: StrictJson): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "a list" : value instanceof Map ? "an object" : `a ${typeof value}`;
}

function broken(path: string, rule: string, value: string, fix = "fetch or write the file again"): CompressoError {
  return refusal("input", `cannot read the safetensors file ${path}`, { rule, value, fix });
}
