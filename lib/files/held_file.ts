// A file of the disk that is held open while it is read.
import { type ByteSource, endsEarly } from "./system.ts";

/** A file that is open until it is disposed. */
export interface HeldFile extends ByteSource, Disposable {}

/** Opens a file. Throws as the system does. */
export async function heldFile(path: string): Promise<HeldFile> {
  const file = await Deno.open(path, { read: true });
  const { size } = await file.stat();
  return {
    name: path,
    size,
    // At once: a file has one position, and several reads may be under way.
    read(target, offset): Promise<void> {
      file.seekSync(offset, Deno.SeekMode.Start);
      for (let done = 0; done < target.length;) {
        const count = file.readSync(target.subarray(done));
        if (count === null) return Promise.reject(endsEarly(path, offset + target.length, offset + done));
        done += count;
      }
      return Promise.resolve();
    },
    [Symbol.dispose]: () => file.close(),
  };
}

/** What is at a path. Throws as the system does. */
export async function fileKind(path: string): Promise<"file" | "folder" | "other"> {
  const { isFile, isDirectory } = await Deno.stat(path);
  return isFile ? "file" : isDirectory ? "folder" : "other";
}

/** Whether an error says that nothing is at a path. */
export function isMissing(error: unknown): boolean {
  return error instanceof Deno.errors.NotFound;
}
