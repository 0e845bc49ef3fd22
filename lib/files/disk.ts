// The files of this machine as a file system.
import { AtomicFile, makeFolder, stageFolder, unwritable } from "./atomic.ts";
import { openDiskFile, unreadable } from "./bytes.ts";
import type { FileInfo, FileSystem } from "./system.ts";
import { textIfThere } from "./text_file.ts";

/** The disk of this machine. Paths may be relative to the working directory. */
export const disk: FileSystem = {
  async info(path): Promise<FileInfo | null> {
    try {
      const { isDirectory, size } = await Deno.stat(path);
      return { isFolder: isDirectory, size };
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return null;
      throw unreadable(path, error);
    }
  },
  async names(folder): Promise<string[]> {
    const names: string[] = [];
    try {
      for await (const { name } of Deno.readDir(folder)) names.push(name);
    } catch (error) {
      throw unreadable(folder, error);
    }
    return names.sort();
  },
  open: openDiskFile,
  text: textIfThere,
  makeFolder,
  stageFile: AtomicFile.open,
  stageFolder,
  async remove(path): Promise<boolean> {
    try {
      await Deno.remove(path, { recursive: true });
      return true;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return false;
      throw unwritable(path, error);
    }
  },
};
