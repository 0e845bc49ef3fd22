// Bytes of a data file as text: unpacked where they are gzip or Zstandard, and decoded as UTF-8.
import { type CompressoError, type Reasons, refusal } from "../../core/errors.ts";
import { type ByteSource, firstBytes, readBytes } from "../../files/system.ts";

/** How a file is compressed. */
export type Compression = "none" | "gzip" | "zstd";

/** What a file is, by its first bytes. */
export type FileKind = "parquet" | Compression;

const PIECE = 1 << 20;

/** A fault of a data file. */
export function dataError(
  path: string,
  rule: string,
  parts: Omit<Reasons, "rule" | "option">,
): CompressoError {
  return refusal("input", `cannot read the data of ${path}`, { rule, ...parts });
}

/** The fault of a folder in the place of a data file. */
export function notOneFile(path: string): CompressoError {
  return dataError(path, "the data are one file", { value: "a folder", fix: "name a file in it" });
}

/** Unpackers of compressed data, which the platform brings. */
export interface Codecs {
  /** Unpacks all members of a gzip file. */
  gunzip(pieces: AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined>): AsyncIterable<Uint8Array>;
  /** Unpacks all frames of a Zstandard file. */
  unzstd(pieces: AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined>): AsyncIterable<Uint8Array>;
  /** Unpack a page of a parquet table, to at most `most` bytes. */
  readonly pages: Readonly<Record<"GZIP" | "ZSTD" | "BROTLI", (input: Uint8Array, most: number) => Uint8Array>>;
}

/** What a data file is, by its first bytes. */
export async function kindOf(source: ByteSource): Promise<FileKind> {
  const head = await firstBytes(source, 4);
  const starts = (...bytes: readonly number[]): boolean => bytes.every((byte, index) => head[index] === byte);
  if (starts(0x50, 0x41, 0x52, 0x31)) return "parquet"; // PAR1
  if (starts(0x1f, 0x8b)) return "gzip";
  const skippable = starts((head[0] ?? 0) & 0x0f | 0x50, 0x2a, 0x4d, 0x18); // pzstd begins with such a frame
  return skippable || starts(0x28, 0xb5, 0x2f, 0xfd) ? "zstd" : "none";
}

/**
 * The text of a file in pieces.
 *
 * @throws CompressoError("input") for a broken compression, one without codecs, and for what is not UTF-8 text.
 */
export async function* textOf(
  source: ByteSource,
  { compression, codecs }: { readonly compression: Compression; readonly codecs: Codecs | null },
): AsyncGenerator<string, void, undefined> {
  const path = source.name;
  const bytes = compression === "none" ? piecesOf(source) : unpacked(piecesOf(source), { path, compression, codecs });
  let rest = new Uint8Array(0), offset = 0;
  for await (const piece of bytes) {
    const all = joined(rest, piece);
    const whole = all.subarray(0, wholeLength(all));
    yield decode(whole, { path, offset });
    offset += whole.length;
    rest = all.slice(whole.length);
  }
  if (rest.length > 0) decode(rest, { path, offset });
}

/** The message of a thrown value, which need not be an Error. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

async function* piecesOf(source: ByteSource): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  // A new array each time: an unpacker may hold the last one.
  for (let at = 0; at < source.size; at += PIECE) yield await readBytes(source, at, Math.min(PIECE, source.size - at));
}

async function* unpacked(
  pieces: AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined>,
  { path, compression, codecs }: {
    readonly path: string;
    readonly compression: "gzip" | "zstd";
    readonly codecs: Codecs | null;
  },
): AsyncGenerator<Uint8Array, void, undefined> {
  if (!codecs) throw noCodecs(path, compression);
  try {
    yield* compression === "gzip" ? codecs.gunzip(pieces) : codecs.unzstd(pieces);
  } catch (error) {
    throw dataError(path, `the ${compression} data are whole`, {
      value: messageOf(error),
      fix: "fetch the file again",
    });
  } finally {
    await pieces.return();
  }
}

/** The error of a compression that this platform brings no unpacker for. */
export function noCodecs(path: string, compression: string): CompressoError {
  return dataError(path, "the data are not compressed, as there is no unpacker here", {
    value: compression,
    fix: "unpack them first",
  });
}

function joined(rest: Uint8Array<ArrayBuffer>, piece: Uint8Array): Uint8Array {
  if (rest.length === 0) return piece;
  const all = new Uint8Array(rest.length + piece.length);
  all.set(rest);
  all.set(piece, rest.length);
  return all;
}

/** Length without a character that the bytes end within. */
function wholeLength(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back] ?? 0;
    if (byte < 0x80) break; // ASCII
    if (byte < 0xc0) continue; // within a character
    const size = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
    return back < size ? bytes.length - back : bytes.length;
  }
  return bytes.length;
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decode(bytes: Uint8Array, { path, offset }: { readonly path: string; readonly offset: number }): string {
  if (bytes.includes(0)) {
    throw dataError(path, "the file is text", {
      value: "it is binary or UTF-16: it has zero bytes",
      fix: "convert it to UTF-8 JSON lines",
    });
  }
  try {
    return utf8.decode(bytes);
  } catch {
    throw dataError(path, "the file is UTF-8", {
      value: `it is not, from byte ${offset + invalidByte(bytes)}`,
      fix: "convert it to UTF-8",
    });
  }
}

/** Position of the first byte that is not UTF-8. */
function invalidByte(bytes: Uint8Array): number {
  // The longest beginning that decodes as a stream ends within the bad sequence.
  let [low, high] = [0, bytes.length];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (decodes(bytes.subarray(0, middle), true)) low = middle;
    else high = middle - 1;
  }
  while (low > 0 && !decodes(bytes.subarray(0, low), false)) low--;
  return low;
}

function decodes(bytes: Uint8Array, stream: boolean): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream });
    return true;
  } catch {
    return false;
  }
}
