// Locks of folders and files that one process at a time writes to. The system releases them when a process ends.
import { CompressoError, option } from "../core/errors.ts";
import { unwritable } from "./atomic.ts";

/** Name of the file that is locked. A file that a killed process has left is not locked. */
export const LOCK_FILE = ".lock";

/** A folder while it is held. Dispose it to let others in. */
export class FolderLock implements Disposable {
  readonly #folder: string;
  #file: Deno.FsFile | null = null;

  /** Of a folder, which is not held yet. */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Whether it is held. A file system may have no locks. */
  get isHeld(): boolean {
    return this.#file !== null;
  }

  /**
   * Holds the folder from here on, where there is one, if its file system has locks.
   *
   * @throws CompressoError("usage") where another one holds it, be it in this process or another.
   */
  async take(): Promise<void> {
    if (!this.#file) this.#file = await this.#tried({ create: true });
  }

  /** Throws as {@link FolderLock.take} would now, and leaves nothing. */
  async check(): Promise<void> {
    const file = this.#file ? null : await this.#tried({ create: false });
    file?.close();
  }

  /** The file with its lock; null where there can be none. */
  async #tried({ create }: { readonly create: boolean }): Promise<Deno.FsFile | null> {
    const path = `${this.#folder}/${LOCK_FILE}`;
    for (let left = TRIES; left > 0; left--) {
      let file: Deno.FsFile | null = null;
      try {
        file = await Deno.open(path, { read: true, write: true, create });
        const isFree = await file.tryLock(true);
        // Whoever held it before has removed it at the end.
        if (isFree && await isAt(file, path)) return file;
      } catch {
        file?.close();
        // The file system has no locks.
        if (file && create) await Deno.remove(path).catch(() => {});
        return null;
      }
      file.close();
      // Another one may only have looked whether it is free.
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
    throw new CompressoError("usage", {
      what: `cannot write to ${this.#folder}`,
      rule: "one run, sitting or export at a time writes to a folder",
      value: "another one writes to it",
      fix: `wait for its end, or choose another ${option("out")}`,
    });
  }

  /** Removes the file while it is still locked, and gives the lock back. */
  [Symbol.dispose](): void {
    const file = this.#file;
    this.#file = null;
    if (!file) return;
    try {
      Deno.removeSync(`${this.#folder}/${LOCK_FILE}`);
    } catch { /* already gone, or the next one finds it unlocked */ }
    file.close();
  }
}

const TRIES = 5;
const PAUSE_MS = 20;

/** Whether a path still leads to an open file. */
async function isAt(file: Deno.FsFile, path: string): Promise<boolean> {
  const [own, there] = await Promise.all([file.stat(), Deno.stat(path).catch(() => null)]);
  return there !== null && own.ino === there.ino && own.dev === there.dev;
}

/** A file that this process alone writes to, at its end. All methods throw `CompressoError("input")` where the system refuses. */
export interface OwnFile extends Disposable {
  /** All bytes. */
  readAll(): Promise<Uint8Array<ArrayBuffer>>;
  /** Cuts the file off after `length` bytes. */
  cutAt(length: number): Promise<void>;
  /** Appends bytes before it returns. */
  append(bytes: Uint8Array): void;
  /** Brings what was appended to the disk. */
  sync(): Promise<void>;
}

/**
 * Opens a file, new where there is none, that one at a time writes to, for reading and writing; `one` names what writes to it.
 *
 * @throws CompressoError("usage") where another one holds it, if its file system has locks.
 * @throws CompressoError("input") where it cannot be written.
 */
export async function openAlone(
  path: string,
  { what, one, fix = "wait for its end, or choose another file" }: {
    readonly what: string;
    readonly one: string;
    readonly fix?: string;
  },
): Promise<OwnFile> {
  for (let left = TRIES; left > 0; left--) {
    let file: Deno.FsFile;
    try {
      file = await Deno.open(path, { read: true, write: true, create: true });
    } catch (error) {
      throw unwritable(path, error);
    }
    const isFree = await file.tryLock(true).catch(() => true);
    // Whoever held it before may have removed it at the end.
    if (isFree && await isAt(file, path)) return ownFile(path, file);
    file.close();
    if (!isFree) break;
  }
  throw new CompressoError("usage", {
    what,
    rule: `one ${one} at a time writes to a file`,
    value: "another one writes to it",
    fix,
  });
}

function ownFile(path: string, file: Deno.FsFile): OwnFile {
  const guarded = async <T>(work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      throw unwritable(path, error);
    }
  };
  return {
    // By the same handle: some systems let no other one read what is locked.
    readAll: () =>
      guarded(async () => {
        await file.seek(0, Deno.SeekMode.Start);
        const bytes = new Uint8Array((await file.stat()).size);
        let done = 0;
        for (let count: number | null = 0; count !== null && done < bytes.length; done += count ?? 0) {
          count = await file.read(bytes.subarray(done));
        }
        return bytes.subarray(0, done);
      }),
    cutAt: (length) =>
      guarded(async () => {
        await file.truncate(length);
        await file.seek(0, Deno.SeekMode.End);
      }),
    append(bytes): void {
      try {
        for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
      } catch (error) {
        throw unwritable(path, error);
      }
    },
    sync: () => guarded(() => file.syncData()),
    [Symbol.dispose]: () => file.close(),
  };
}
