// A zip archive of files that are stored as they are (APPNOTE.TXT 6.3.10, method 0): weights hardly shrink.
import { type CompressoError, refusal } from "../../lib/core/errors.ts";

/** Largest archive and file without the zip64 extension. */
const MOST_BYTES = 0xffff_ffff;
/** 1980-01-01, the first date of the format: equal files give equal archives. */
const DATE = 0x21;
const UTF8_NAMES = 0x0800;

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/** Bytes of a file that are read at once. */
const PIECE_BYTES = 1 << 22;

/** CRC-32 of a file, as zip and gzip have it. */
async function crc32(file: Blob): Promise<number> {
  let value = 0xffff_ffff;
  for (let at = 0; at < file.size; at += PIECE_BYTES) {
    const piece = new Uint8Array(await file.slice(at, at + PIECE_BYTES).arrayBuffer());
    for (const byte of piece) value = (TABLE[(value ^ byte) & 0xff] ?? 0) ^ (value >>> 8);
  }
  return (value ^ 0xffff_ffff) >>> 0;
}

/**
 * Packs files by their names. The archive refers to the files: their bytes are not copied, and are read in pieces.
 *
 * @throws CompressoError("input") for 4 GiB and more.
 */
export async function zipOf(files: ReadonlyMap<string, Blob>): Promise<Blob> {
  const parts: (Blob | Uint8Array<ArrayBuffer>)[] = [], entries: Uint8Array<ArrayBuffer>[] = [];
  const total = [...files.values()].reduce((sum, { size }) => sum + size, 0);
  if (total > MOST_BYTES) throw tooLarge(total);
  let offset = 0, ofEntries = 0;
  for (const [name, file] of files) {
    const path = new TextEncoder().encode(name), crc = await crc32(file);
    // Version 2.0, names in UTF-8, stored, date, CRC, both sizes, length of the name, no extra field.
    const common = [[2, 20], [2, UTF8_NAMES], [2, 0], [2, 0], [2, DATE], [4, crc], [4, file.size]] as const;
    const sizes = [[4, file.size], [2, path.length], [2, 0]] as const;
    parts.push(record([[4, 0x04034b50], ...common, ...sizes], path), file);
    // In the directory: made by version 2.0; no comment, first disk, plain bytes, no attributes, place of the file.
    const place = [[2, 0], [2, 0], [2, 0], [4, 0], [4, offset]] as const;
    const entry = record([[4, 0x02014b50], [2, 20], ...common, ...sizes, ...place], path);
    entries.push(entry);
    offset += 30 + path.length + file.size;
    ofEntries += entry.length;
  }
  if (offset + ofEntries > MOST_BYTES) throw tooLarge(offset + ofEntries);
  const count = entries.length;
  const end = record([
    ...[[4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count]] as const,
    ...[[4, ofEntries], [4, offset], [2, 0]] as const,
  ], new Uint8Array());
  return new Blob([...parts, ...entries, end], { type: "application/zip" });
}

function tooLarge(bytes: number): CompressoError {
  const rule = "the archive has less than 4 GiB", fix = "download the GGUF, which holds the same model";
  return refusal("input", "cannot pack the folder", { rule, value: `${bytes} bytes`, fix });
}

/** Little-endian numbers of 2 or 4 bytes, and bytes after them. */
function record(fields: readonly (readonly [size: 2 | 4, value: number])[], tail: Uint8Array): Uint8Array<ArrayBuffer> {
  const length = fields.reduce((sum, [size]) => sum + size, 0), bytes = new Uint8Array(length + tail.length);
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [size, value] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  bytes.set(tail, length);
  return bytes;
}
