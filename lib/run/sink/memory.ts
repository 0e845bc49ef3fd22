// The sink that writes a run into files in memory, or into any other file system, such as in a browser.
import type { FileSystem } from "../../files/system.ts";
import type { SessionExportOptions } from "../../slice/export_options.ts";
import type { RunSummary } from "../result.ts";
import type { RunSink } from "./sink.ts";

/** Where and how {@link memorySink} writes. */
export interface MemorySinkOptions {
  /** Folder within the file system. */
  readonly out: string;
  /** Dtypes and names of the files. */
  readonly export?: SessionExportOptions | undefined;
}

/** A sink that writes all files after the last step. The run saves no checkpoint. Scripts and tasks are refused. */
export function memorySink(
  files: FileSystem,
  { out, export: wanted = {} }: MemorySinkOptions,
): RunSink<RunSummary> {
  const done = (): Promise<void> => Promise.resolve();
  return {
    platform: { files, openScript: null, loadTasks: null },
    checkpoint: null,
    hasTexts: false,
    texts: () => Promise.resolve(null),
    begin: done,
    add: done,
    end: async (run) => await run.export(out, wanted),
    [Symbol.dispose]: () => {},
  };
}
