// Checks what a page of a parquet table decodes to before hyparquet decodes it: it makes as many values as a run claims, and copies as many bytes as a prefix says.
import { deltaBinaryUnpack } from "../../core/parquet_package.ts";

/** What decides how the values of a page lie in its bytes. */
export interface PageValues {
  readonly type: string | undefined;
  readonly encoding: string | undefined;
  /** Bytes of a value of fixed length. */
  readonly typeLength: number | undefined;
  /** Values, nulls included. */
  readonly count: number;
}

/** Bytes with a place in them, which reading moves. */
export interface Reader {
  readonly view: DataView;
  offset: number;
}

/** Values of a page: so many, and for each byte so many more. Writers end a page or a row group sooner. */
const FREE_VALUES = 2 ** 20, VALUES_PER_BYTE = 64;
/** The same of bytes that values with a common beginning take. */
const FREE_BYTES = 2 ** 24, BYTES_PER_BYTE = 64;
/** Values that a last run may have beyond those of the page, as writers fill it up. */
const SLACK = 2 ** 16;
/** Largest accepted block of differences; writers use 128 to 1,024 values. */
const MOST_BLOCK = 2 ** 16;

/** Throws an `Error` if a page has more values than its bytes may stand for. */
export function checkCount(count: number, bytes: number): void {
  const most = FREE_VALUES + VALUES_PER_BYTE * bytes;
  if (count > most) throw new Error(`${count} values in a page of ${bytes} bytes, of at most ${most}`);
}

/**
 * Checks the levels of `count` values, moves past them, and returns how many equal the largest level `most`. `length`
 * is their number of bytes, if it is not stored before them. Throws an `Error` for runs that are longer.
 */
export function checkLevels(
  reader: Reader,
  { most, count, length }: { readonly most: number; readonly count: number; readonly length?: number },
): number {
  if (most === 0) return count;
  const end = (length ?? lengthBefore(reader)) + reader.offset;
  const found = checkRuns(reader, { width: 32 - Math.clz32(most), count, wanted: most });
  reader.offset = end;
  return found;
}

/** Checks the values of a page after its levels. Throws an `Error` if they would take more than the page allows. */
export function checkValues(
  reader: Reader,
  { type, encoding, typeLength = 0, count }: PageValues,
  { isV2 }: { readonly isV2: boolean },
): void {
  const left = reader.view.byteLength - reader.offset;
  switch (encoding) {
    case "RLE":
    case "RLE_DICTIONARY":
    case "PLAIN_DICTIONARY": {
      const isBoolean = isV2 ? encoding === "RLE" : type === "BOOLEAN";
      const width = isBoolean ? 1 : count === 0 ? 0 : reader.view.getUint8(reader.offset++);
      if (isBoolean) lengthBefore(reader);
      if (width > 32) throw new Error(`indices of ${width} bits`);
      if (width > 0 || isV2) checkRuns(reader, { width, count, wanted: null });
      return;
    }
    case "DELTA_BINARY_PACKED":
      return checkDeltas(reader);
    case "DELTA_LENGTH_BYTE_ARRAY":
      return void deltas(reader, count);
    case "DELTA_BYTE_ARRAY":
      return checkPrefixes(deltas(reader, count), deltas(reader, count), left);
    case "BYTE_STREAM_SPLIT": {
      const width = { INT32: 4, FLOAT: 4, INT64: 8, DOUBLE: 8 }[type ?? ""] ?? typeLength;
      if (width * count > left + width * SLACK) throw new Error(`${count} values of ${width} bytes in ${left} bytes`);
      return;
    }
    case "ALP":
      if (reader.view.getInt32(reader.offset + 3, true) !== count) throw new Error("another number of ALP values");
  }
}

/** The length that stands before runs. */
function lengthBefore(reader: Reader): number {
  const length = reader.view.getUint32(reader.offset, true);
  reader.offset += 4;
  return length;
}

/** Runs of repeated and of packed values: none is longer than what is left of the values. Returns how many are `wanted`. */
function checkRuns(
  reader: Reader,
  { width, count, wanted }: { readonly width: number; readonly count: number; readonly wanted: number | null },
): number {
  let found = 0;
  for (let seen = 0; seen < count;) {
    const header = varint(reader), isPacked = header % 2 === 1, half = Math.floor(header / 2);
    const length = isPacked ? 8 * half : half, bytes = isPacked ? half * width : width + 7 >> 3;
    if (length > count - seen + SLACK) throw new Error(`a run of ${length} values, where ${count - seen} are left`);
    if (wanted !== null) {
      const taken = Math.min(length, count - seen);
      if (isPacked) { for (let at = 0; at < taken; at++) found += packed(reader, at, width) === wanted ? 1 : 0; }
      else found += packed(reader, 0, width) === wanted ? taken : 0;
    }
    reader.offset += bytes;
    seen += length;
  }
  return found;
}

/** A value of at most 8 bits among packed ones, the low bits first. */
function packed({ view, offset }: Reader, index: number, width: number): number {
  const bit = index * width, at = offset + (bit >> 3), shift = bit % 8;
  const high = shift + width > 8 ? view.getUint8(at + 1) : 0;
  return (view.getUint8(at) | high << 8) >> shift & (1 << width) - 1;
}

/** An unsigned number of groups of 7 bits, of at most 32 bits. */
function varint(reader: Reader): number {
  let result = 0;
  for (let shift = 0; shift < 35; shift += 7) {
    const byte = reader.view.getUint8(reader.offset++);
    result += (byte & 0x7f) * 2 ** shift;
    if (byte < 0x80 && result < 2 ** 32) return result;
  }
  throw new Error("a number of more than 32 bits");
}

/** Checks the sizes of blocks of differences, without moving. */
function checkDeltas({ view, offset }: Reader): void {
  const reader = { view, offset }, block = varint(reader), parts = varint(reader);
  if (block > 0 && block <= MOST_BLOCK && parts > 0 && block % parts === 0) return;
  throw new Error(`blocks of ${block} differences in ${parts} parts`);
}

/** Numbers that are stored as differences. */
function deltas(reader: Reader, count: number): Int32Array {
  const numbers = new Int32Array(count);
  if (count === 0) return numbers;
  checkDeltas(reader);
  deltaBinaryUnpack(reader, count, numbers);
  return numbers;
}

/** Checks what values take that begin as the one before them. */
function checkPrefixes(prefixes: Int32Array, suffixes: Int32Array, bytes: number): void {
  const most = FREE_BYTES + BYTES_PER_BYTE * bytes;
  let last = 0, sum = 0;
  for (const [index, prefix] of prefixes.entries()) {
    const suffix = suffixes[index] ?? 0;
    if (prefix < 0 || suffix < 0 || prefix > last) {
      throw new Error("a value shares more bytes than the previous value has");
    }
    last = prefix + suffix;
    sum += last;
    if (sum > most) throw new Error(`values of more than ${most} bytes in a page of ${bytes}`);
  }
}
