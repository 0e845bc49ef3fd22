// Prunes in a browser: step by step, or at once into files in memory.
import { memoryFiles } from "../files/memory.ts";
import type { FileSystem } from "../files/system.ts";
import type { Model } from "../model/model.ts";
import type { PruneOptions } from "../run/options/options.ts";
import type { RunSummary } from "../run/result.ts";
import { runInto, type RunIntoOptions } from "../run/run_into.ts";
import { pruneOn, type PruneSession } from "../run/session.ts";
import { filesSink, type PlaceOptions } from "../run/sink/files.ts";
import { memorySink } from "../run/sink/memory.ts";

/** A pruned model in memory. */
export interface PrunedFiles {
  /** Contents of run.json. */
  readonly summary: RunSummary;
  /** The files by their names, such as `model.gguf` and `model/config.json`. */
  readonly files: ReadonlyMap<string, Uint8Array<ArrayBuffer>>;
}

/** Folder of the files within their file system. */
const OUT = "out";

/**
 * Prunes a model step by step, like `prune` of the root. Checkpoints and exports are written to `files`. A schedule
 * must be a built-in name or a definition, not a script. Tasks cannot be measured.
 *
 * @param files - Default: memory.
 * @throws CompressoError("usage") for options that do not exist or are out of range.
 * @throws CompressoError("input") for a model without tokenizer, or rows without a response.
 * @example
 * ```ts
 * import { memoryFiles, type Model, prune, type Row } from "compresso/browser";
 *
 * export async function pruned(model: Model, rows: readonly Row[]): Promise<ReadonlyMap<string, Uint8Array>> {
 *   const files = memoryFiles();
 *   using run = prune(model, { rows, sparsity: 0.2, steps: 200 }, files);
 *   for await (const { step, loss } of run) console.log(step, loss);
 *   await run.export("out");
 *   return files.files; // out/model.gguf, out/model/config.json …
 * }
 * ```
 */
export function prune(model: Model, options: PruneOptions, files: FileSystem = memoryFiles()): PruneSession {
  return pruneOn({ files, openScript: null, loadTasks: null }, model, options);
}

/**
 * Prunes a model and returns the files of the pruned one.
 *
 * @throws what iterating and exporting a {@link PruneSession} throw.
 * @example
 * ```ts
 * import { type Model, pruneInMemory, toRow } from "compresso/browser";
 *
 * export async function smaller(model: Model, texts: readonly string[]): Promise<Blob> {
 *   const rows = texts.map((text) => toRow({ text }));
 *   const { files } = await pruneInMemory(model, {
 *     rows,
 *     sparsity: 0.2,
 *     steps: 200,
 *     export: { formats: ["gguf"] },
 *     onRecord: ({ step, loss }) => console.log(step, loss),
 *   });
 *   return new Blob([files.get("model.gguf") ?? ""]);
 * }
 * ```
 */
export async function pruneInMemory(model: Model, options: RunIntoOptions): Promise<PrunedFiles> {
  const written = memoryFiles();
  using sink = memorySink(written, { out: OUT, ...(options.export ? { export: options.export } : {}) });
  const summary = await runInto(sink, model, options);
  const files = new Map(Array.from(written.files, ([path, bytes]) => [path.slice(OUT.length + 1), bytes] as const));
  return { summary, files };
}

/** Options of {@link pruneToFiles}. */
export type PruneToFilesOptions = RunIntoOptions & PlaceOptions;

/**
 * Prunes a model into a folder of a file system, such as the private one of the page's origin. The folder has the files
 * of `pruneToFolder` of the root, and checkpoints from which the run is resumed after the tab was closed. A resumed run
 * has the same bits as one that was not interrupted.
 *
 * @throws CompressoError("usage") for `resume` without a checkpoint, and for a folder with an earlier run, unless the run
 *   is resumed or `export.replace` is set.
 * @throws CompressoError("mismatch") for a checkpoint of another model, or of other rows or options.
 * @throws CompressoError("input") if there is no room for the files.
 * @throws what iterating and exporting a {@link PruneSession} throw.
 * @example
 * ```ts
 * import { type Model, originFiles, pruneToFiles, type Row } from "compresso/browser";
 *
 * export async function goOn(model: Model, rows: readonly Row[]): Promise<number> {
 *   const files = await originFiles();
 *   const run = { rows, sparsity: 0.2, steps: 500, files, out: "run" };
 *   const { parameters } = await pruneToFiles(model, { ...run, resume: "auto", checkpointSeconds: 10 });
 *   return parameters.after;
 * }
 * ```
 */
export async function pruneToFiles(model: Model, options: PruneToFilesOptions): Promise<RunSummary> {
  using sink = await filesSink(model, options);
  const { files: _files, out: _out, checkpointEvery: _every, checkpointSeconds: _seconds, ...others } = options;
  const { resume: _resume, mayDiffer: _may, spare: _spare, onSaved: _saved, onFull: _full, ...run } = others;
  return await runInto(sink, model, run);
}
