// Bytes of a file at an offset, and what a file is by its first bytes. Owns the loop over large reads; refuses to know any format's structure.
import { CompressoError } from "../core/errors.ts";

/** One call of the system reads or writes at most 2 GiB − 4 KiB; smaller pieces also let other work in between. */
export const PIECE_BYTES = 1 << 26;

/**
 * Size of a file in bytes.
 * Throws `CompressoError("input")` where the path is missing, not a file or not readable.
 */
export async function fileSize(path: string): Promise<number> {
  try {
    const info = await Deno.stat(path);
    if (!info.isDirectory) return info.size;
  } catch (error) {
    throw unreadable(path, error);
  }
  throw new CompressoError("input", {
    what: `cannot read ${path}`,
    rule: "the path is a file",
    value: "a folder",
    fix: "name a file in it",
  });
}

/** What tells whether a file is still the one that was opened. No inode: some network file systems give another one each time. */
export interface FileState {
  readonly size: number;
  /** Milliseconds; null where the system tells none. */
  readonly changed: number | null;
}

/** State of a file now. Throws as {@link fileSize}. */
export async function fileState(path: string): Promise<FileState> {
  const size = await fileSize(path), { mtime } = await Deno.stat(path);
  return { size, changed: mtime?.getTime() ?? null };
}

/**
 * Reads `length` bytes from `offset` on. Opens and closes the file, so a reader holds no resource; `state` is the file's when its offsets were read.
 * Throws `CompressoError("input")` where the file is missing, ends before, or was changed since.
 */
export async function readBytes(
  path: string,
  offset: number,
  { length, state }: { readonly length: number; readonly state?: FileState },
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  for await (const _piece of readPieces(path, offset, { target: bytes, state })) { /* filled in place */ }
  return bytes;
}

/**
 * Reads `length` bytes from `offset` on in pieces of at most `pieceBytes`, which the caller may use until the next one.
 * Throws as {@link readBytes}.
 */
export async function* streamBytes(
  path: string,
  offset: number,
  options: { readonly length: number; readonly pieceBytes: number; readonly state?: FileState },
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const buffer = new Uint8Array(Math.min(options.length, options.pieceBytes));
  for (let done = 0; done < options.length; done += options.pieceBytes) {
    const piece = buffer.subarray(0, Math.min(options.pieceBytes, options.length - done));
    const { state } = options;
    for await (const _part of readPieces(path, offset + done, { target: piece, state })) { /* filled in place */ }
    yield piece;
  }
}

/** What a file that is not of the wanted format seems to be, or null; `head` holds its first bytes. */
export function looksLike(head: Uint8Array): { readonly what: string; readonly fix: string } | null {
  const text = new TextDecoder("latin1").decode(head.subarray(0, 64));
  if (head.length === 0) return { what: "an empty file", fix: "fetch the file again" };
  if (text.startsWith("version https://git-lfs")) {
    return {
      what: "a Git LFS pointer instead of the file",
      fix: "run `git lfs pull` in its folder, or fetch the file itself",
    };
  }
  if (text.startsWith("GGUF")) return { what: "a GGUF file", fix: "give the path of this file as the model" };
  if (/^(ggml|ggjt|ggla|lmgg|tjgg|algg)/.test(text)) {
    return { what: "a GGML file from before GGUF", fix: "convert it with llama.cpp, or fetch a GGUF" };
  }
  if (text.slice(8).trimStart().startsWith('{"')) {
    return { what: "a safetensors file", fix: "give the folder that holds it and its config.json" };
  }
  if (text.startsWith("PK\x03\x04") || head[0] === 0x80) {
    return { what: "a PyTorch (pickle) file", fix: "convert it to safetensors; pickles run code and are not read" };
  }
  if (/^\s*<(!doctype|html)/i.test(text)) {
    return { what: "an HTML page", fix: "fetch the file itself, not the page that shows it" };
  }
  return null;
}

/** Whether an error is the system's, about a path; of Deno's own permissions the command line tells otherwise. */
export function isOfPath(error: unknown): error is Error {
  return error instanceof Error && !(error instanceof Deno.errors.NotCapable) && /\(os error \d+\)/.test(error.message);
}

/** The error for a path that the system does not let us read. */
export function unreadable(path: string, error: unknown): CompressoError {
  const missing = error instanceof Deno.errors.NotFound;
  return new CompressoError("input", {
    what: `cannot read ${path}`,
    rule: missing ? "the path exists" : "it may be read",
    value: missing ? "no such file or folder" : error instanceof Error ? error.message : String(error),
    fix: `check ${missing ? "the spelling of the path" : "it, and the rights to it"}`,
  }, { cause: error });
}

async function* readPieces(
  path: string,
  offset: number,
  { target, state }: { readonly target: Uint8Array<ArrayBuffer>; readonly state: FileState | undefined },
): AsyncGenerator<void> {
  let file: Deno.FsFile;
  try {
    file = await Deno.open(path, { read: true });
  } catch (error) {
    throw unreadable(path, error);
  }
  try {
    if (state) await checkUnchanged(path, { file, state });
    await file.seek(offset, Deno.SeekMode.Start);
    for (let done = 0; done < target.length;) {
      const got = await file.read(target.subarray(done, done + PIECE_BYTES));
      if (got === null || got === 0) {
        throw new CompressoError("input", {
          what: `cannot read ${path}`,
          rule: `the file has ${offset + target.length} bytes or more`,
          value: `it ends after ${offset + done}`,
          fix: "the file is truncated: fetch or write it again",
        });
      }
      done += got;
      yield;
    }
  } catch (error) {
    throw error instanceof CompressoError ? error : unreadable(path, error);
  } finally {
    file.close();
  }
}

/** Refuses a file that was replaced or written to since its offsets were read: other values stand there. */
async function checkUnchanged(
  path: string,
  { file, state }: { readonly file: Deno.FsFile; readonly state: FileState },
): Promise<void> {
  const { size, mtime } = await file.stat();
  if (size === state.size && (mtime?.getTime() ?? null) === state.changed) return;
  throw new CompressoError("input", {
    what: `cannot read ${path}`,
    rule: "a file of a model stays as it is while the model is in use",
    value: "it was replaced or written to since the model was opened, as by an export into its folder",
    fix: "load the model again",
  });
}
