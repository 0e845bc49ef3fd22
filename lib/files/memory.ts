// Files in memory: a file system without a disk, as in a browser.
import {
  type ByteSource,
  endsEarly,
  type FileSystem,
  missing,
  notAFile,
  noText,
  occupied,
  type Staged,
  type StagedFile,
} from "./system.ts";

/** A file system in memory, whose files can be read back. */
export interface MemoryFiles extends FileSystem {
  /** The files by their paths. */
  readonly files: ReadonlyMap<string, Uint8Array<ArrayBuffer>>;
}

/** Bytes in memory as a source. */
export function memorySource(name: string, bytes: Uint8Array<ArrayBuffer>): ByteSource {
  return {
    name,
    size: bytes.length,
    read(target, offset): Promise<void> {
      if (offset + target.length > bytes.length) {
        return Promise.reject(endsEarly(name, offset + target.length, bytes.length));
      }
      target.set(bytes.subarray(offset, offset + target.length));
      return Promise.resolve();
    },
  };
}

/**
 * Makes a file system in memory. A folder exists as long as it holds a file.
 *
 * @param initial - Paths and bytes of the files that it holds at first; none by default.
 * @example
 * ```ts
 * import { memoryFiles } from "compresso/browser";
 * const files = memoryFiles([["notes/one.txt", new TextEncoder().encode("hello")]]);
 * if (await files.text("notes/one.txt") !== "hello") throw new Error("another text");
 * ```
 */
export function memoryFiles(initial: Iterable<readonly [string, Uint8Array<ArrayBuffer>]> = []): MemoryFiles {
  const files = new Map(initial);
  const below = (folder: string): string[] => [...files.keys()].filter((path) => path.startsWith(`${folder}/`));
  const names = (folder: string): string[] => {
    const inner = below(folder).map((path) => path.slice(folder.length + 1).split("/", 1)[0] ?? "");
    return [...new Set(inner)].sort();
  };
  const remove = (path: string): boolean => {
    const paths = files.has(path) ? [path] : below(path);
    for (const one of paths) files.delete(one);
    return paths.length > 0;
  };
  const move = (from: string, to: string): void => {
    for (const path of below(from)) {
      files.set(to + path.slice(from.length), files.get(path) ?? new Uint8Array());
      files.delete(path);
    }
  };
  return {
    files,
    info(path): ReturnType<FileSystem["info"]> {
      const file = files.get(path);
      if (file) return Promise.resolve({ isFolder: false, size: file.length });
      return Promise.resolve(below(path).length > 0 ? { isFolder: true, size: 0 } : null);
    },
    names: (folder) => Promise.resolve(names(folder)),
    async open(path): Promise<ByteSource> {
      const file = files.get(path);
      if (file) return memorySource(path, file);
      throw await this.info(path) ? notAFile(path) : missing(path);
    },
    text(path): Promise<string | null> {
      const file = files.get(path);
      if (!file) return Promise.resolve(null);
      try {
        return Promise.resolve(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(file));
      } catch (error) {
        return Promise.reject(noText(path, "it is not UTF-8", error));
      }
    },
    makeFolder: () => Promise.resolve(), // they are there as long as they have files
    stageFile: (path) => Promise.resolve(stageFile(path, (bytes) => files.set(path, bytes))),
    async stageFolder(path, fill, { replace = false } = {}): Promise<Staged> {
      const refuse = (): void => {
        const count = names(path).length;
        if (count > 0 && !replace) throw occupied(path, count);
      };
      refuse();
      const folder = `${path}.tmp`;
      await fill(folder);
      return {
        commit(): Promise<void> {
          refuse();
          remove(path);
          move(folder, path);
          return Promise.resolve();
        },
        [Symbol.dispose]: () => void remove(folder),
      };
    },
    remove: (path) => Promise.resolve(remove(path)),
  };
}

function stageFile(path: string, keep: (bytes: Uint8Array<ArrayBuffer>) => void): StagedFile {
  const parts: Uint8Array[] = [];
  let written = 0;
  return {
    path,
    get written(): number {
      return written;
    },
    write(bytes): Promise<void> {
      parts.push(bytes.slice());
      written += bytes.length;
      return Promise.resolve();
    },
    sync: () => Promise.resolve(),
    commit(): Promise<void> {
      const whole = new Uint8Array(written);
      let at = 0;
      for (const part of parts) {
        whole.set(part, at);
        at += part.length;
      }
      keep(whole);
      return Promise.resolve();
    },
    [Symbol.dispose]: () => void parts.splice(0),
  };
}
