// Interfaces of files: bytes under a name, and a file system, of the disk or in memory.
import { type CompressoError, option, refusal } from "../core/errors.ts";

/** Bytes under a name, on a disk, in memory or elsewhere. Holds nothing open. */
export interface ByteSource {
  /** Name in error messages: the path of a file. */
  readonly name: string;
  /** Number of bytes. */
  readonly size: number;
  /**
   * Fills `target` with the bytes from `offset` on.
   *
   * @throws CompressoError("input") if the bytes end before, cannot be read, or were changed since the source was opened.
   */
  read(target: Uint8Array<ArrayBuffer>, offset: number): Promise<void>;
}

/** What is at a path. */
export interface FileInfo {
  /** Whether it is a folder. */
  readonly isFolder: boolean;
  /** Bytes of a file. */
  readonly size: number;
}

/** A file or folder that is written under a temporary name. Without a commit, disposing it removes everything. */
export interface Staged extends Disposable {
  /** Moves it to its path. */
  commit(): Promise<void>;
}

/** A file that is written under a temporary name. */
export interface StagedFile extends Staged {
  /** Its path after the commit. */
  readonly path: string;
  /** Bytes written so far. */
  readonly written: number;
  /** Appends bytes. Throws `CompressoError("input")` if there is no room for them. */
  write(bytes: Uint8Array): Promise<void>;
  /** Flushes the bytes to the disk before the commit, so that the commit rarely fails. */
  sync(): Promise<void>;
}

/** Options of {@link FileSystem.stageFolder}. */
export interface FolderOptions {
  /** Whether a folder with content may be replaced; default false. */
  readonly replace?: boolean;
}

/** Files and folders under paths with `/`. All methods throw `CompressoError("input")` if the system refuses. */
export interface FileSystem {
  /** Whether a path is a file or a folder, and its size; null if nothing is there. */
  info(path: string): Promise<FileInfo | null>;
  /** Names of the files and folders in a folder, sorted. */
  names(folder: string): Promise<string[]>;
  /** Opens a file for reading. Throws if there is none. */
  open(path: string): Promise<ByteSource>;
  /** Text of a UTF-8 file, with its byte order mark if it has one; null if there is no file. */
  text(path: string): Promise<string | null>;
  /** Makes a folder and its parents, if they do not exist. */
  makeFolder(path: string): Promise<void>;
  /** Starts a file. It appears at its path by the commit: complete, or not at all. */
  stageFile(path: string): Promise<StagedFile>;
  /**
   * Calls `fill` with a new temporary folder to write into; the commit moves the folder to `path`. Throws if the folder
   * `path` has content, unless `replace` is set.
   */
  stageFolder(path: string, fill: (folder: string) => Promise<void>, options?: FolderOptions): Promise<Staged>;
  /** Removes a file, or a folder with its content. Returns whether there was one. */
  remove(path: string): Promise<boolean>;
}

/** A file system that is read as it is, and drops what is written to it. */
export function withoutWrites(files: FileSystem): FileSystem {
  const nothing = (): Promise<void> => Promise.resolve();
  const dropped = { commit: nothing, [Symbol.dispose]: () => {} };
  return {
    info: (path) => files.info(path),
    names: (folder) => files.names(folder),
    open: (path) => files.open(path),
    text: (path) => files.text(path),
    makeFolder: nothing,
    stageFile: (path) => Promise.resolve({ ...dropped, path, written: 0, write: nothing, sync: nothing }),
    stageFolder: () => Promise.resolve(dropped),
    remove: () => Promise.resolve(false),
  };
}

/** Whether a file or folder is at a path, and may be looked at. */
export async function isThere(files: FileSystem, path: string): Promise<boolean> {
  return await files.info(path).then((info) => info !== null, () => false);
}

/** What is at a path. Throws `CompressoError("input")` if nothing is. */
export async function infoOf(files: FileSystem, path: string): Promise<FileInfo> {
  return await files.info(path) ?? fail(missing(path));
}

/** The first bytes of a source, at most `most`. */
export async function firstBytes(source: ByteSource, most: number): Promise<Uint8Array<ArrayBuffer>> {
  return await readBytes(source, 0, Math.min(source.size, most));
}

/** Reads `length` bytes from `offset` on: into the beginning of `into` if that is large enough. Throws as {@link ByteSource.read}. */
export async function readBytes(
  source: ByteSource,
  offset: number,
  length: number,
  into = new Uint8Array(),
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = into.length >= length ? into.subarray(0, length) : new Uint8Array(length);
  await source.read(bytes, offset);
  return bytes;
}

/** Reads `length` bytes from `offset` on in pieces of at most `pieceBytes`, which the caller may use until the next one. */
export async function* streamBytes(
  source: ByteSource,
  offset: number,
  { length, pieceBytes }: { readonly length: number; readonly pieceBytes: number },
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const buffer = new Uint8Array(Math.min(length, pieceBytes));
  for (let done = 0; done < length; done += pieceBytes) {
    const piece = buffer.subarray(0, Math.min(pieceBytes, length - done));
    await source.read(piece, offset + done);
    yield piece;
  }
}

/** Writes a whole small file: bytes, or a string as UTF-8. */
export async function writeFile(
  files: Pick<FileSystem, "stageFile">,
  path: string,
  content: Uint8Array | string,
): Promise<void> {
  using file = await files.stageFile(path);
  await file.write(typeof content === "string" ? new TextEncoder().encode(content) : content);
  await file.commit();
}

/** The error of a path where nothing is. */
export function missing(path: string, cause?: unknown): CompressoError {
  return refusal("input", `cannot read ${path}`, {
    rule: "the path exists",
    value: "no such file or folder",
    fix: "check the spelling of the path",
    cause,
  });
}

/** The error of a folder in the place of a file. */
export function notAFile(path: string): CompressoError {
  return refusal("input", `cannot read ${path}`, {
    rule: "the path is a file",
    value: "a folder",
    fix: "name a file in it",
  });
}

/** The error of a file that is no text, or that the system does not let be read; `value` says which. */
export function noText(path: string, value: string, cause: unknown): CompressoError {
  return refusal("input", `cannot read ${path}`, {
    rule: "it is a file of UTF-8 that may be read",
    value,
    fix: "check the file and the permissions to it",
    cause,
  });
}

/** The error of bytes that end too early. */
export function endsEarly(name: string, needed: number, size: number): CompressoError {
  return refusal("input", `cannot read ${name}`, {
    rule: `the file has ${needed} bytes or more`,
    value: `it ends after ${size}`,
    fix: "the file is truncated: fetch or write it again",
  });
}

/** The error of a folder that has content and may not be replaced. */
export function occupied(path: string, count: number): CompressoError {
  return refusal("input", `cannot write the folder ${path}`, {
    rule: "the folder is new or empty",
    value: count === 1 ? "it holds 1 entry" : `it holds ${count} entries`,
    fix: `choose another folder, or allow replacing this one (${option("replace")})`,
  });
}

function fail(error: CompressoError): never {
  throw error;
}
