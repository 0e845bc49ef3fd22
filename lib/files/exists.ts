// Whether a path exists, whether it is a folder, and what is in it.
import { unreadable } from "./bytes.ts";

/** Whether a file or folder is there and may be looked at. */
export async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

/** Whether a folder is there. */
export async function isFolder(path: string): Promise<boolean> {
  return await Deno.stat(path).then(({ isDirectory }) => isDirectory, () => false);
}

/** Names of what is in a folder, in order; nothing if there is none. Throws `CompressoError("input")` if it may not be read. */
export async function namesIn(folder: string): Promise<string[]> {
  const names: string[] = [];
  try {
    for await (const { name } of Deno.readDir(folder)) names.push(name);
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    if (!(error instanceof Deno.errors.NotFound)) throw unreadable(folder, error);
  }
  return names.sort();
}
