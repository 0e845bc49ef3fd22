// The sink that writes a run into a folder of this machine: records and checkpoints during the steps, then the files.
import type { Row } from "../../data/rows.ts";
import {
  destination,
  makeFolder,
  recoverFolder,
  removeLeftovers,
  unwritable,
  writeFileAtomically,
} from "../../files/atomic.ts";
import { exists } from "../../files/exists.ts";
import { FolderLock } from "../../files/lock.ts";
import { readRows } from "../../local/rows.ts";
import type { Model } from "../../model/model.ts";
import { checkFiles } from "../check_files.ts";
import {
  CALIBRATION_FILE,
  CHECKPOINT_FILE,
  checkResumable,
  MODEL_FOLDERS,
  RECORDS_FILE,
  refuseEarlierRun,
  RUN_FILES,
  textsThere,
} from "../folder.ts";
import { fittingShape } from "../options/fitting.ts";
import { checkResuming } from "../identity.ts";
import { OPTION_TABLE } from "../options/table.ts";
import { ON_DISK } from "../prune.ts";
import type { FolderOptions, PruneToFolderOptions } from "../prune_to_folder.ts";
import { RecordFile, recordsUpTo } from "../record_file.ts";
import { textLine } from "../record_lines.ts";
import type { RunSummary } from "../result.ts";
import type { SinkOptions } from "../run_into.ts";
import type { RunSink } from "./sink.ts";

/** Options of {@link folderSink}. */
export type FolderSinkOptions =
  & FolderOptions
  & Pick<SinkOptions, "identity" | "onPhase">
  & Pick<PruneToFolderOptions, "size" | "layout" | "units">;

/** How a folder's run is resumed. */
export async function resumingOf(
  { out, resume: asked = false, mayDiffer = [] }: Pick<FolderOptions, "out" | "resume" | "mayDiffer">,
): Promise<{ readonly path: string; readonly resume: boolean; readonly mayDiffer: readonly string[] }> {
  const path = `${out}/${CHECKPOINT_FILE}`, resume = asked === "auto" ? await exists(path) : asked;
  return { path, resume, mayDiffer: asked === "auto" && !resume ? [] : mayDiffer };
}

/** The calibration texts in the folder of a run. */
export async function textsIn(out: string): Promise<readonly Row[]> {
  return (await readRows(`${out}/${CALIBRATION_FILE}`)).rows;
}

/**
 * Opens a folder for a run. Until it is disposed it holds the folder. Nothing is written before the run begins.
 *
 * @throws CompressoError("usage") for `resume` without a checkpoint, and for a folder that another run holds, or that
 *   has an earlier run, unless the run is resumed or `export.replace` is set.
 */
export async function folderSink(
  model: Pick<Model, "source" | "tokenizer">,
  options: FolderSinkOptions,
): Promise<RunSink<RunSummary>> {
  const startedAt = performance.now(), { out, identity, size, onReady, onPhase } = options;
  const { checkpointEvery = OPTION_TABLE.checkpointEvery.default, export: wanted = {} } = options;
  const { path, resume, mayDiffer } = await resumingOf(options);
  const files = { startedAt, ...wanted, ...(resume && wanted.replace === undefined ? { replace: true } : {}) };
  const { source } = model, shape = fittingShape(source.spec, options, { source, formats: files.formats });
  checkFiles(files, { size, shape: { ...shape, layout: files.layout ?? shape.layout }, model });
  checkResuming({ mayDiffer, resume, identity });
  const refusesEarlier = !resume && !files.replace;
  using stack = new DisposableStack();
  const lock = stack.use(new FolderLock(out));
  // A resumed run is locked at once; a new run writes nothing before it is prepared.
  if (resume) await lock.take();
  else await lock.check();
  if (resume) await checkResumable(out);
  if (refusesEarlier) await refuseEarlierRun(out);
  const textsPath = `${out}/${CALIBRATION_FILE}`, recordsPath = `${out}/${RECORDS_FILE}`;
  const hasTexts = await exists(textsPath), held = stack.move();
  let records: RecordFile | null = null;
  return {
    platform: ON_DISK,
    checkpoint: { path, every: checkpointEvery > 0 ? checkpointEvery : Infinity, resume, mayDiffer },
    hasTexts,
    async texts(): Promise<readonly Row[] | null> {
      // A run that ended before its first checkpoint left both records and texts. Texts alone are the user's.
      if (hasTexts && refusesEarlier && !await exists(recordsPath)) throw textsThere(textsPath);
      return resume && hasTexts ? await textsIn(out) : null;
    },
    async begin({ doneBefore, texts }): Promise<void> {
      await makeFolder(out);
      await lock.take();
      // A crash may have left files of an earlier run under temporary names. They are refused before the steps.
      for (const name of lock.isHeld ? MODEL_FOLDERS : []) await recoverFolder(`${out}/${name}`);
      // Another run may have ended there meanwhile.
      if (refusesEarlier) await refuseEarlierRun(out);
      await onReady?.();
      await makeFolder(out);
      if (lock.isHeld) await removeLeftovers(out, [...RUN_FILES, RECORDS_FILE, CALIBRATION_FILE]);
      // If this run stops before its first checkpoint, the old checkpoint must not be taken for its own.
      if (!resume && lock.isHeld) await removeCheckpoint(path);
      if (doneBefore === null) return;
      await writeFileAtomically(recordsPath, await recordsUpTo(recordsPath, doneBefore));
      if (texts.length > 0) await writeFileAtomically(textsPath, texts.map(textLine).join(""));
      records = held.use(await RecordFile.open(recordsPath, { last: doneBefore }));
    },
    add: async (record) => await records?.add(record),
    async end(run): Promise<RunSummary> {
      onPhase?.("slice", 0);
      await run.slice({ onProgress: (share) => onPhase?.("slice", share) });
      onPhase?.("export", 0);
      const summary = await run.export(out, {
        ...files,
        onProgress: (share) => {
          wanted.onProgress?.(share);
          onPhase?.("export", share);
        },
      });
      await removeCheckpoint(path).catch(() => undefined);
      return summary;
    },
    [Symbol.dispose]: () => held.dispose(),
  };
}

async function removeCheckpoint(path: string): Promise<void> {
  try {
    await Deno.remove(await destination(path));
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw unwritable(path, error);
  }
}
