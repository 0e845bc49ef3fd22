// Locks folders and files, so that one process at a time writes to them. The system releases a lock when its process
// ends.
import { option, refuse } from "../core/errors.ts";
import { unwritable } from "./atomic.ts";

/** Name of the lock file. A file left by a killed process is not locked. */
export const LOCK_FILE = ".lock";

/** What a refusal got where another process holds the lock. */
export const HELD = "another one writes to it";

/** A lock of a folder. Dispose it to release the folder. */
export class FolderLock implements Disposable {
  readonly #folder: string;
  #file: Deno.FsFile | null = null;

  /** Creates the lock of a folder without taking it. */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Whether the lock is held. It is not if the file system has no locks. */
  get isHeld(): boolean {
    return this.#file !== null;
  }

  /**
   * Takes the lock, if the folder exists and its file system has locks.
   *
   * @throws CompressoError("usage") if this or another process already holds it.
   */
  async take(): Promise<void> {
    if (!this.#file) this.#file = await this.#tried({ create: true });
  }

  /** Throws as {@link FolderLock.take} would now, without taking the lock. */
  async check(): Promise<void> {
    const file = this.#file ? null : await this.#tried({ create: false });
    file?.close();
  }

  /** The locked file; null if it cannot be locked. */
  async #tried({ create }: { readonly create: boolean }): Promise<Deno.FsFile | null> {
    const path = `${this.#folder}/${LOCK_FILE}`;
    for (let left = TRIES; left > 0; left--) {
      let file: Deno.FsFile | null = null;
      try {
        file = await Deno.open(path, { read: true, write: true, create });
        const isFree = await file.tryLock(true);
        // The previous holder removed the file at its end.
        if (isFree && await isAt(file, path)) return file;
      } catch {
        file?.close();
        // The file system has no locks.
        if (file && create) await Deno.remove(path).catch(() => {});
        return null;
      }
      file.close();
      // Another process may hold it only for a moment, to check whether it is free.
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
    refuse("usage", `cannot write to ${this.#folder}`, {
      rule: "one run, sitting or export at a time writes to a folder",
      value: HELD,
      fix: `wait for its end, or choose another ${option("out")}`,
    });
  }

  /** Removes the file while it is still locked, then releases the lock. */
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

/** Whether a path still refers to an open file. */
async function isAt(file: Deno.FsFile, path: string): Promise<boolean> {
  const [own, there] = await Promise.all([file.stat(), Deno.stat(path).catch(() => null)]);
  return there !== null && own.ino === there.ino && own.dev === there.dev;
}

/**
 * A file that only this process writes to, at its end. All methods throw `CompressoError("input")` where the system
 * refuses.
 */
export interface OwnFile extends Disposable {
  /** Reads all bytes. */
  readAll(): Promise<Uint8Array<ArrayBuffer>>;
  /** Truncates the file to `length` bytes. */
  cutAt(length: number): Promise<void>;
  /** Appends bytes synchronously. */
  append(bytes: Uint8Array): void;
  /** Flushes appended bytes to the disk. */
  sync(): Promise<void>;
}

/**
 * Opens a file for reading and writing, and locks it. Creates it if it does not exist. `one` names what writes to it.
 *
 * @throws CompressoError("usage") if another process holds it, if its file system has locks.
 * @throws CompressoError("input") if it cannot be written.
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
    // The previous holder may have removed the file at its end.
    if (isFree && await isAt(file, path)) return ownFile(path, file);
    file.close();
    if (!isFree) break;
  }
  refuse("usage", what, {
    rule: `one ${one} at a time writes to a file`,
    value: HELD,
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
    // Read by the same handle: some systems do not let others read a locked file.
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
