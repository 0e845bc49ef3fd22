// Bytes of a data file as text: pieces of a file, unpacked where they are gzip or Zstandard, decoded as UTF-8. Owns
// telling by content what a file is; refuses to interpret the text.
import { constants, createGunzip, createZstdDecompress } from "node:zlib";
import { Readable } from "node:stream";
import { CompressoError } from "../../core/errors.ts";
import { byFrame } from "../../compat/zstd_frames.ts";

/** How a file is compressed. */
export type Compression = "none" | "gzip" | "zstd";

/** What a file is, by its first bytes. */
export type FileKind = "parquet" | Compression;

const PIECE = 1 << 20;

/** A fault of a data file. */
export function dataError(
  path: string,
  rule: string,
  parts: { readonly value: string; readonly fix?: string; readonly cause?: unknown },
): CompressoError {
  return new CompressoError("input", {
    what: `cannot read the data of ${path}`,
    rule,
    value: parts.value,
    ...(parts.fix ? { fix: parts.fix } : {}),
  }, { cause: parts.cause });
}

/** The fault of a folder in the place of a data file. */
export function notOneFile(path: string): CompressoError {
  return dataError(path, "the data are one file", { value: "a folder", fix: "name a file in it" });
}

/** Opens a data file and tells what it is. Throws `CompressoError("input")` where it is missing or a folder. */
export async function openData(path: string): Promise<{ readonly file: Deno.FsFile; readonly kind: FileKind }> {
  let file: Deno.FsFile | null = null;
  try {
    const { isDirectory, isFile } = await Deno.stat(path);
    if (isDirectory) throw notOneFile(path);
    if (!isFile) {
      throw dataError(path, "the data are a file, as they are read more than once", {
        value: "a pipe or a device",
        fix: "write them to a file first",
      });
    }
    file = await Deno.open(path, { read: true });
    const head = new Uint8Array(4);
    let length = 0;
    for (let got: number | null = 0; got !== null && length < 4; length += got ?? 0) {
      got = await file.read(head.subarray(length));
    }
    await file.seek(0, Deno.SeekMode.Start);
    return { file, kind: kindOf(head.subarray(0, length)) };
  } catch (error) {
    file?.close();
    if (error instanceof CompressoError) throw error;
    const missing = error instanceof Deno.errors.NotFound;
    throw dataError(path, "the file can be read", {
      value: missing ? "no such file" : messageOf(error),
      fix: missing ? "check the path" : "check the path, and the rights to it",
      cause: error,
    });
  }
}

/**
 * The text of an open file in pieces. Throws `CompressoError("input")` for a broken compression and for what is no UTF-8
 * text. The file stays open.
 */
export async function* textOf(
  file: Deno.FsFile,
  { path, compression }: { readonly path: string; readonly compression: Compression },
): AsyncGenerator<string, void, undefined> {
  const bytes = compression === "none" ? piecesOf(file) : unpacked(piecesOf(file), { path, compression });
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

/** The message of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function kindOf(head: Uint8Array): FileKind {
  const starts = (...bytes: readonly number[]): boolean => bytes.every((byte, index) => head[index] === byte);
  if (starts(0x50, 0x41, 0x52, 0x31)) return "parquet"; // PAR1
  if (starts(0x1f, 0x8b)) return "gzip";
  const skippable = starts((head[0] ?? 0) & 0x0f | 0x50, 0x2a, 0x4d, 0x18); // pzstd begins with such a frame
  return skippable || starts(0x28, 0xb5, 0x2f, 0xfd) ? "zstd" : "none";
}

async function* piecesOf(file: Deno.FsFile): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined> {
  for (;;) {
    // A new array each time: an unpacker may hold the last one.
    const piece = new Uint8Array(PIECE);
    const got = await file.read(piece);
    if (got === null) return;
    yield piece.subarray(0, got);
  }
}

/** Files of `zstd --long=31` too, as large corpora often are; above 128 MiB zlib refuses them by itself. */
const LONG_WINDOWS = { params: { [constants.ZSTD_d_windowLogMax]: 31 } };

/** node's unpacker and not the web's DecompressionStream: that one stops after the first of several gzip members. */
async function* unpacked(
  pieces: AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined>,
  { path, compression }: { readonly path: string; readonly compression: "gzip" | "zstd" },
): AsyncGenerator<Uint8Array, void, undefined> {
  const unpacker = compression === "gzip" ? createGunzip() : createZstdDecompress(LONG_WINDOWS);
  const source = Readable.from(compression === "gzip" ? pieces : byFrame(pieces));
  source.on("error", (error) => unpacker.destroy(error));
  source.pipe(unpacker);
  try {
    for await (const piece of unpacker) yield piece;
  } catch (error) {
    throw dataError(path, `the ${compression} data are whole`, {
      value: messageOf(error),
      fix: "fetch the file again",
    });
  } finally {
    unpacker.destroy();
    source.destroy();
    await pieces.return();
  }
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
