// Folders and files in memory that behave as a browser's private file system does, with a limit of bytes.
import type { DirectoryHandle, FileHandle, FileWriter } from "../../lib/files/directory.ts";

/** Bytes that all files under a root may have. */
export interface Quota {
  bytes: number;
}

type Entry = Folder | Content;

/** A folder in memory. */
export class Folder implements DirectoryHandle {
  readonly entries = new Map<string, Entry>();
  readonly #root: Folder;
  readonly #quota: Quota;
  readonly #moves: boolean;

  /** Makes a root, or a folder below one. Some browsers do not move files. */
  constructor(quota: Quota, { moves = true, root }: { readonly moves?: boolean; readonly root?: Folder } = {}) {
    this.#quota = quota;
    this.#moves = moves;
    this.#root = root ?? this;
  }

  /** Bytes of all files below. */
  get size(): number {
    return [...this.entries.values()].reduce((sum, entry) => sum + entry.size, 0);
  }

  async *keys(): AsyncGenerator<string> {
    for (const name of [...this.entries.keys()]) yield await Promise.resolve(name);
  }

  async getDirectoryHandle(name: string, { create = false } = {}): Promise<Folder> {
    const found = await this.#entry(
      name,
      () => new Folder(this.#quota, { moves: this.#moves, root: this.#root }),
      create,
    );
    if (found instanceof Folder) return found;
    throw new DOMException("it is a file", "TypeMismatchError");
  }

  async getFileHandle(name: string, { create = false } = {}): Promise<FileHandle> {
    const found = await this.#entry(name, () => new Content(), create);
    if (found instanceof Folder) throw new DOMException("it is a folder", "TypeMismatchError");
    const move = (parent: DirectoryHandle, to: string): Promise<void> => {
      if (!(parent instanceof Folder)) throw new TypeError("no folder");
      this.entries.delete(name);
      parent.entries.set(to, found);
      return Promise.resolve();
    };
    return {
      getFile: () => Promise.resolve(new File([found.bytes], name)),
      createWritable: () => Promise.resolve(this.#writer(found)),
      ...this.#moves ? { move } : {},
    };
  }

  removeEntry(name: string, { recursive = false } = {}): Promise<void> {
    const found = this.entries.get(name);
    if (!found) return Promise.reject(new DOMException("nothing is there", "NotFoundError"));
    if (found instanceof Folder && found.entries.size > 0 && !recursive) {
      return Promise.reject(new DOMException("it is not empty", "InvalidModificationError"));
    }
    this.entries.delete(name);
    return Promise.resolve();
  }

  #entry(name: string, make: () => Entry, create: boolean): Promise<Entry> {
    const found = this.entries.get(name) ?? (create ? make() : null);
    if (!found) return Promise.reject(new DOMException("nothing is there", "NotFoundError"));
    this.entries.set(name, found);
    return Promise.resolve(found);
  }

  #writer(content: Content): FileWriter {
    let parts: Uint8Array<ArrayBuffer>[] = [], written = 0;
    return {
      write: (bytes): Promise<void> => {
        if (this.#root.size + written + bytes.length > this.#quota.bytes) {
          return Promise.reject(new DOMException("no room", "QuotaExceededError"));
        }
        parts.push(bytes);
        written += bytes.length;
        return Promise.resolve();
      },
      async close(): Promise<void> {
        content.bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
      },
      abort(): Promise<void> {
        parts = [];
        return Promise.resolve();
      },
    };
  }
}

class Content {
  bytes: Uint8Array<ArrayBuffer> = new Uint8Array();

  get size(): number {
    return this.bytes.length;
  }
}
