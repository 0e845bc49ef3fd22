// A folder of a browser as a file system: the origin's private one, or one that the user gave.
import { CompressoError, refusal } from "../core/errors.ts";
import { blobSource } from "./blob.ts";
import {
  type ByteSource,
  type FileInfo,
  type FileSystem,
  type FolderOptions,
  missing,
  notAFile,
  noText,
  occupied,
  type Staged,
  type StagedFile,
} from "./system.ts";

/** What is used of a browser's `FileSystemDirectoryHandle`. */
export interface DirectoryHandle {
  /** Names of what is in the folder. */
  keys(): AsyncIterable<string>;
  /** A folder in this one. */
  getDirectoryHandle(name: string, options?: { readonly create?: boolean }): Promise<DirectoryHandle>;
  /** A file in this one. */
  getFileHandle(name: string, options?: { readonly create?: boolean }): Promise<FileHandle>;
  /** Removes a file or folder. */
  removeEntry(name: string, options?: { readonly recursive?: boolean }): Promise<void>;
}

/** What is used of a browser's `FileSystemFileHandle`. */
export interface FileHandle {
  /** The file as it is now. */
  getFile(): Promise<File>;
  /** Opens a new version of the file, which `close` puts in place. */
  createWritable(): Promise<FileWriter>;
  /** Moves the file, over another one too. Some browsers have no such method. */
  move?(parent: DirectoryHandle, name: string): Promise<void>;
}

/** What is used of a browser's `FileSystemWritableFileStream`. */
export interface FileWriter {
  /** Appends bytes. */
  write(bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  /** Ends the file. */
  close(): Promise<void>;
  /** Drops what was written. */
  abort(): Promise<void>;
}

/** A file system in a folder of a browser. */
export interface DirectoryFiles extends FileSystem {
  /** A file as the browser has it, to download it without reading it. Throws `CompressoError("input")` if there is none. */
  file(path: string): Promise<File>;
}

/** Bytes that are handed to the browser at once: it copies them. */
const PIECE_BYTES = 1 << 24;

/** What is added to the name of a file or folder while it is written. */
const TEMPORARY = ".tmp";

/**
 * A file system in a folder of a browser, such as the origin's private one or one that the user chose. A file is written
 * under a temporary name and then moved. A folder is moved file by file: a tab that is closed meanwhile leaves a part.
 *
 * @example
 * ```ts
 * import { type DirectoryFiles, directoryFiles, type DirectoryHandle } from "compresso/browser";
 *
 * export function filesIn(folder: DirectoryHandle): DirectoryFiles {
 *   return directoryFiles(folder); // in a page: await showDirectoryPicker({ mode: "readwrite" })
 * }
 * ```
 */
export function directoryFiles(root: DirectoryHandle): DirectoryFiles {
  return {
    file: async (path) => await fileAt(root, path),
    info: async (path) => await infoAt(root, path),
    async names(folder): Promise<string[]> {
      const found = await folderAt(root, folder);
      if (!found) throw missing(folder);
      return await namesIn(found, folder);
    },
    async open(path): Promise<ByteSource> {
      return blobSource(path, await fileAt(root, path));
    },
    async text(path): Promise<string | null> {
      const info = await infoAt(root, path);
      if (!info || info.isFolder) return null;
      const bytes = await (await fileAt(root, path)).arrayBuffer().catch((error: unknown) =>
        fail(unreadable(path, error))
      );
      try {
        return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
      } catch (error) {
        throw noText(path, "it is not UTF-8", error);
      }
    },
    makeFolder: async (path) => void await madeFolder(root, path),
    stageFile: async (path) => await DirectoryFile.open(root, path),
    stageFolder: async (path, fill, options) => await stageFolder(root, path, { fill, ...options }),
    remove: async (path) => await removeAt(root, path),
  };
}

async function fileAt(root: DirectoryHandle, path: string): Promise<File> {
  const { parent, name } = split(path);
  try {
    const folder = await folderAt(root, parent);
    if (!folder) throw missing(path);
    return await (await folder.getFileHandle(name)).getFile();
  } catch (error) {
    if (nameOf(error) === "TypeMismatchError") throw notAFile(path);
    throw nameOf(error) === "NotFoundError" ? missing(path, error) : unreadable(path, error);
  }
}

/** Whether an error says that the browser gives the page no more storage. */
export function isStorageFull(error: unknown): boolean {
  if (nameOf(error) === "QuotaExceededError") return true;
  return error instanceof Error && error.cause !== undefined && isStorageFull(error.cause);
}

/** A file that is written under a temporary name. */
class DirectoryFile implements StagedFile {
  readonly path: string;
  readonly #folder: DirectoryHandle;
  readonly #name: string;
  readonly #handle: FileHandle;
  readonly #writer: FileWriter;
  #written = 0;
  #isOpen = true;

  private constructor(
    path: string,
    { folder, name, handle, writer }: {
      readonly folder: DirectoryHandle;
      readonly name: string;
      readonly handle: FileHandle;
      readonly writer: FileWriter;
    },
  ) {
    this.path = path;
    this.#folder = folder;
    this.#name = name;
    this.#handle = handle;
    this.#writer = writer;
  }

  static async open(root: DirectoryHandle, path: string): Promise<DirectoryFile> {
    const { parent, name } = split(path);
    if ((await infoAt(root, path))?.isFolder) throw unwritable(path, "the path is a folder");
    const folder = await madeFolder(root, parent);
    try {
      const handle = await folder.getFileHandle(name + TEMPORARY, { create: true });
      return new DirectoryFile(path, { folder, name, handle, writer: await handle.createWritable() });
    } catch (error) {
      throw unwritable(path, error);
    }
  }

  get written(): number {
    return this.#written;
  }

  async write(bytes: Uint8Array): Promise<void> {
    try {
      for (let done = 0; done < bytes.length; done += PIECE_BYTES) {
        await this.#writer.write(bytes.slice(done, done + PIECE_BYTES));
      }
    } catch (error) {
      throw unwritable(this.path, error);
    }
    this.#written += bytes.length;
  }

  async sync(): Promise<void> {}

  async commit(): Promise<void> {
    this.#isOpen = false;
    try {
      await this.#writer.close();
      await move(this.#folder, this.#handle, { from: this.#name + TEMPORARY, to: this.#name, parent: this.#folder });
    } catch (error) {
      await this.#folder.removeEntry(this.#name + TEMPORARY).catch(() => {});
      throw unwritable(this.path, error);
    }
  }

  [Symbol.dispose](): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    const left = this.#name + TEMPORARY;
    this.#writer.abort().catch(() => {}).then(() => this.#folder.removeEntry(left)).catch(() => {});
  }
}

async function stageFolder(
  root: DirectoryHandle,
  path: string,
  { fill, replace = false }: FolderOptions & { readonly fill: (folder: string) => Promise<void> },
): Promise<Staged> {
  const refuseContent = async (): Promise<void> => {
    const info = await infoAt(root, path);
    if (info && !info.isFolder) throw unwritable(path, "the path is a file");
    const folder = replace ? null : await folderAt(root, path),
      count = folder ? (await namesIn(folder, path)).length : 0;
    if (count > 0) throw occupied(path, count);
  };
  const temporary = path + TEMPORARY;
  await refuseContent();
  await removeAt(root, temporary);
  let isDone = false;
  try {
    await madeFolder(root, temporary);
    await fill(temporary);
  } catch (error) {
    await removeAt(root, temporary).catch(() => {});
    throw error;
  }
  return {
    async commit(): Promise<void> {
      await refuseContent();
      await removeAt(root, path);
      const [from, to] = [await folderAt(root, temporary), await madeFolder(root, path)];
      if (from) await moveAll(from, to, temporary);
      isDone = true;
      await removeAt(root, temporary);
    },
    [Symbol.dispose](): void {
      if (!isDone) removeAt(root, temporary).catch(() => {});
    },
  };
}

async function moveAll(from: DirectoryHandle, to: DirectoryHandle, path: string): Promise<void> {
  try {
    for (const name of await namesIn(from, path)) {
      const handle = await from.getFileHandle(name).catch((error: unknown) => {
        if (nameOf(error) === "TypeMismatchError") return null;
        throw error;
      });
      if (handle) await move(from, handle, { from: name, to: name, parent: to });
      else {
        const inner = `${path}/${name}`, target = await to.getDirectoryHandle(name, { create: true });
        await moveAll(await from.getDirectoryHandle(name), target, inner);
      }
    }
  } catch (error) {
    throw unwritable(path, error);
  }
}

/** Moves a file of a folder over what is there; where a browser cannot, the file is copied. */
async function move(
  folder: DirectoryHandle,
  handle: FileHandle,
  { from, to, parent }: { readonly from: string; readonly to: string; readonly parent: DirectoryHandle },
): Promise<void> {
  if (handle.move) return await handle.move(parent, to);
  const file = await handle.getFile(),
    writer = await (await parent.getFileHandle(to, { create: true })).createWritable();
  try {
    for (let at = 0; at < file.size; at += PIECE_BYTES) {
      await writer.write(new Uint8Array(await file.slice(at, at + PIECE_BYTES).arrayBuffer()));
    }
  } catch (error) {
    await writer.abort().catch(() => {});
    throw error;
  }
  await writer.close();
  await folder.removeEntry(from);
}

async function infoAt(root: DirectoryHandle, path: string): Promise<FileInfo | null> {
  const { parent, name } = split(path);
  if (name === "") return { isFolder: true, size: 0 };
  const folder = await folderAt(root, parent);
  if (!folder) return null;
  try {
    const { size } = await (await folder.getFileHandle(name)).getFile();
    return { isFolder: false, size };
  } catch (error) {
    if (nameOf(error) === "TypeMismatchError") return { isFolder: true, size: 0 };
    if (nameOf(error) === "NotFoundError") return null;
    throw unreadable(path, error);
  }
}

async function removeAt(root: DirectoryHandle, path: string): Promise<boolean> {
  const { parent, name } = split(path), folder = await folderAt(root, parent);
  try {
    await folder?.removeEntry(name, { recursive: true });
    return folder !== null;
  } catch (error) {
    if (nameOf(error) === "NotFoundError") return false;
    throw unwritable(path, error);
  }
}

/** The folder at a path; null if there is none. */
async function folderAt(root: DirectoryHandle, path: string): Promise<DirectoryHandle | null> {
  try {
    let folder = root;
    for (const name of segments(path)) folder = await folder.getDirectoryHandle(name);
    return folder;
  } catch (error) {
    if (nameOf(error) === "NotFoundError" || nameOf(error) === "TypeMismatchError") return null;
    throw unreadable(path, error);
  }
}

async function madeFolder(root: DirectoryHandle, path: string): Promise<DirectoryHandle> {
  try {
    let folder = root;
    for (const name of segments(path)) folder = await folder.getDirectoryHandle(name, { create: true });
    return folder;
  } catch (error) {
    throw unwritable(path, error);
  }
}

async function namesIn(folder: DirectoryHandle, path: string): Promise<string[]> {
  try {
    return (await Array.fromAsync(folder.keys())).sort();
  } catch (error) {
    throw unreadable(path, error);
  }
}

function segments(path: string): string[] {
  return path.split("/").filter((part) => part !== "" && part !== ".");
}

function split(path: string): { readonly parent: string; readonly name: string } {
  const parts = segments(path), name = parts.pop() ?? "";
  return { parent: parts.join("/"), name };
}

function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : "";
}

function unreadable(path: string, error: unknown): CompressoError {
  return refused("read", path, { error, rule: "the browser lets it be read" });
}

function unwritable(path: string, error: unknown): CompressoError {
  return isStorageFull(error)
    ? refused("write", path, {
      error,
      rule: "the browser has storage left for this page",
      fix: "free space on the disk, or remove what pages have stored in the settings of the browser",
    })
    : refused("write", path, { error, rule: "the browser lets it be written" });
}

function refused(
  verb: "read" | "write",
  path: string,
  { error, rule, fix }: { readonly error: unknown; readonly rule: string; readonly fix?: string },
): CompressoError {
  if (error instanceof CompressoError) return error;
  const value = error instanceof Error ? error.message || error.name : String(error);
  return refusal("input", `cannot ${verb} ${path}`, { rule, value, fix, cause: error });
}

function fail(error: CompressoError): never {
  throw error;
}
