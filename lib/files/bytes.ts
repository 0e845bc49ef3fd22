// Files of the disk as sources of bytes.
import { CompressoError, refusal, refuse } from "../core/errors.ts";
import { type ByteSource, endsEarly, missing, notAFile } from "./system.ts";

/** One call of the system reads or writes at most 2 GiB − 4 KiB; smaller pieces also let other work in between. */
export const PIECE_BYTES = 1 << 26;

/**
 * Opens a file as a source of bytes. Each read opens and closes the file, so that nothing is held, and refuses a file that was changed since.
 *
 * @throws CompressoError("input") if the path is missing, a folder, or not readable.
 */
export async function openDiskFile(path: string): Promise<ByteSource> {
  const info = await Deno.stat(path).catch((error) => {
    throw unreadable(path, error);
  });
  if (info.isDirectory) throw notAFile(path);
  const { size } = info, changed = info.mtime?.getTime() ?? null;
  return { name: path, size, read: (target, offset) => readInto(path, { target, offset, state: { size, changed } }) };
}

/** Whether an error is the system's, about a path; of Deno's own permissions the command line tells otherwise. */
export function isOfPath(error: unknown): error is Error {
  return error instanceof Error && !(error instanceof Deno.errors.NotCapable) && /\(os error \d+\)/.test(error.message);
}

/** The error for a path that the system does not let us read. */
export function unreadable(path: string, error: unknown): CompressoError {
  if (error instanceof Deno.errors.NotFound) return missing(path, error);
  return refusal("input", `cannot read ${path}`, {
    rule: "it may be read",
    value: error instanceof Error ? error.message : String(error),
    fix: "check it, and the permissions to it",
    cause: error,
  });
}

/** Shows whether a file is still the file that was opened. Inodes are not compared: some network file systems give another one each time. */
interface FileState {
  readonly size: number;
  /** Milliseconds; null if the system has no times. */
  readonly changed: number | null;
}

async function readInto(
  path: string,
  { target, offset, state }: {
    readonly target: Uint8Array<ArrayBuffer>;
    readonly offset: number;
    readonly state: FileState;
  },
): Promise<void> {
  let file: Deno.FsFile;
  try {
    file = await Deno.open(path, { read: true });
  } catch (error) {
    throw unreadable(path, error);
  }
  try {
    await checkUnchanged(path, { file, state });
    await file.seek(offset, Deno.SeekMode.Start);
    for (let done = 0; done < target.length;) {
      const got = await file.read(target.subarray(done, done + PIECE_BYTES));
      if (got === null || got === 0) throw endsEarly(path, offset + target.length, offset + done);
      done += got;
    }
  } catch (error) {
    throw error instanceof CompressoError ? error : unreadable(path, error);
  } finally {
    file.close();
  }
}

/** Refuses a file that was replaced or written to since its offsets were read. */
async function checkUnchanged(
  path: string,
  { file, state }: { readonly file: Deno.FsFile; readonly state: FileState },
): Promise<void> {
  const { size, mtime } = await file.stat();
  if (size === state.size && (mtime?.getTime() ?? null) === state.changed) return;
  refuse("input", `cannot read ${path}`, {
    rule: "a file of a model stays as it is while the model is in use",
    value: "it was replaced or written to since the model was opened, as by an export into its folder",
    fix: "load the model again",
  });
}
