// Prunes a model into a folder: records and checkpoints during the run, then the export.
import { CompressoError, option } from "../core/errors.ts";
import {
  destination,
  makeFolder,
  recoverFolder,
  removeLeftovers,
  unwritable,
  writeFileAtomically,
} from "../files/atomic.ts";
import { readRows } from "../local/rows.ts";
import type { TextRow } from "../data/rows.ts";
import { exists } from "../files/exists.ts";
import { sourceDigest } from "../spec/source_digest.ts";
import { withoutWrites } from "../files/system.ts";
import { FolderLock } from "../files/lock.ts";
import { calibrationDefault, calibrationTexts, writeCalibration } from "./calibration.ts";
import { checkWord, withoutUndefined } from "../core/check_options.ts";
import { checkResuming } from "./identity.ts";
import type { Model } from "../model/model.ts";
import type { SessionExportOptions } from "../slice/export_options.ts";
import { OPTION_TABLE } from "./options/table.ts";
import { checkOptions, FOLDER_PATHS } from "./options/check.ts";
import type { CheckpointOptions, PruneOptions, ResolvedOptions, RunOptions, Target } from "./options/options.ts";
import { RecordFile, recordsUpTo } from "./record_file.ts";
import type { StepRecord } from "./contract.ts";
import {
  CALIBRATION_FILE,
  CHECKPOINT_FILE,
  checkResumable,
  MODEL_FOLDERS,
  RECORDS_FILE,
  refuseEarlierRun,
  RUN_FILES,
} from "./folder.ts";
import { checkFiles } from "./check_files.ts";
import { type CutForRun, cutForRun } from "./vocabulary.ts";
import { cutVocabularyToFolder } from "./vocabulary_to_folder.ts";
import { type SelfDataOptions, SilenceError } from "../generate/self_data.ts";
import { refuseReading } from "./data.ts";
import { cutsVocabularyAlone, resolveOptions } from "./options/resolve.ts";
import type { RunSummary } from "./result.ts";
import { ON_DISK } from "./prune.ts";
import { PruneSession } from "./session.ts";
import type { RunOfMany } from "./shared_work.ts";

/** Options of {@link pruneToFolder}. */
export type PruneToFolderOptions =
  & Omit<RunOptions, "checkpoint" | "calibration">
  & Target
  & FolderOptions;

/**
 * What a run does beside its steps: `measure`, the model as it was given, where its vocabulary is cut; `slice`, compares
 * the masked and the sliced model; `export`, writes the files.
 */
export type FolderPhase = "measure" | "slice" | "export";

/** Options of {@link pruneToFolder} besides those of `prune`. */
export interface FolderOptions {
  /**
   * Output folder: model/, model.gguf, records.jsonl, run.json and, until the run is done, checkpoint.safetensors; also
   * calibration.jsonl if the model writes calibration texts.
   */
  readonly out: string;
  /**
   * Calibration rows.
   *
   * - Rows, as for `prune`.
   * - "own": texts that the model writes before the run, see `writeCalibration`. The default for masks learned from
   *   saliency with a prior.
   * - "none": the default otherwise.
   *
   * A resumed run uses the texts in its folder, if any.
   */
  readonly calibration?: PruneOptions["calibration"] | "own" | "none";
  /** Called while the model writes calibration texts, with the share that is written, 0 to 1. */
  readonly onCalibration?: (share: number) => void;
  /**
   * Steps between two checkpoints, an integer; default 57. 0 disables periodic checkpoints, but see {@link
   * CheckpointOptions} for when a run saves itself anyway.
   */
  readonly checkpointEvery?: number;
  /** Whether to resume from the folder's checkpoint. "auto": where there is one, else start, so that a restarted program continues. */
  readonly resume?: boolean | "auto";
  /**
   * Names of options of a resumed run that may differ from those of its checkpoint, such as "schedule" or "rates"; see
   * {@link CheckpointOptions.mayDiffer}.
   */
  readonly mayDiffer?: CheckpointOptions["mayDiffer"];
  /**
   * Further facts that must be equal on resuming. `weights`, which identifies the model, is by default a digest of some
   * weights.
   */
  readonly identity?: CheckpointOptions["identity"];
  /**
   * Dtypes and names of the files. A resumed run replaces the files of its folder, unless `replace` is false. Files
   * that this run does not write, such as the adapter of an earlier run, stay.
   */
  readonly export?: SessionExportOptions;
  /** Called when all checks have passed, before anything is written. */
  readonly onReady?: () => Promise<void>;
  /** Called when the run is ready, before the first step, with the steps that a resumed run had done. */
  readonly onStart?: (session: PruneSession, doneBefore: number) => void | Promise<void>;
  /** Called for every step; the next step waits for it. See {@link StepRecord.step} for rollbacks. */
  readonly onRecord?: (record: StepRecord) => void | Promise<void>;
  /** Called before and during each {@link FolderPhase}, with the share that is done, 0 to 1. */
  readonly onPhase?: (phase: FolderPhase, share: number) => void;
}

/**
 * Runs all stages, slices, verifies and writes. With the unit "vocab" the vocabulary is cut first. With that unit alone,
 * the steps train LoRA on the cut vocabulary; without steps nothing is trained. From its start to its end a run holds its
 * folder. `export.replace` gives up an earlier run's checkpoint, and its calibration texts where the model writes its own
 * anew; what is refused leaves the folder as it is.
 *
 * @throws CompressoError("usage") for options that do not exist or are out of range, for `resume` without a checkpoint, and for a folder that another run
 * holds, or that has an earlier run or texts in the place of the model's own, unless the run is resumed or `export.replace` is set.
 * @throws CompressoError("mismatch") for a checkpoint of another model, of other rows or options.
 * @throws what iterating a {@link PruneSession} and what `exportModel` do.
 */
export async function pruneToFolder(model: Model, options: PruneToFolderOptions): Promise<RunSummary> {
  return await runToFolder(model, options);
}

/** {@link pruneToFolder} for one of several runs. */
export async function runToFolder(
  dense: Model,
  options: PruneToFolderOptions,
  ofMany: RunOfMany = {},
): Promise<RunSummary> {
  checkOptions(options, FOLDER_PATHS, { whose: "pruneToFolder" });
  if (cutsVocabularyAlone(options)) return await cutVocabularyToFolder(dense, options);
  const startedAt = performance.now();
  const {
    out,
    checkpointEvery = OPTION_TABLE.checkpointEvery.default,
    resume: asksResume = false,
    identity,
    mayDiffer: allowed = [],
    export: wanted = {},
    onReady,
    onStart,
    onRecord,
    onPhase,
    onCalibration,
    calibration: asked,
    ...rest
  } = options;
  const path = `${out}/${CHECKPOINT_FILE}`, resume = asksResume === "auto" ? await exists(path) : asksResume;
  const mayDiffer = asksResume === "auto" && !resume ? [] : allowed;
  const files = { startedAt, ...wanted, ...(resume && wanted.replace === undefined ? { replace: true } : {}) };
  const layout = files.layout ?? rest.layout ?? OPTION_TABLE.layout.default;
  checkFiles(files, { size: rest.size, layout, model: dense });
  checkResuming({ mayDiffer, resume, ...(identity ? { identity } : {}) });
  const refusesEarlier = !resume && !files.replace;
  using lock = new FolderLock(out);
  // A run that is not resumed has nothing to write before it is prepared.
  if (resume) await lock.take();
  else await lock.check();
  if (resume) await checkResumable(out);
  if (refusesEarlier) await refuseEarlierRun(out);
  const every = checkpointEvery > 0 ? checkpointEvery : Infinity;
  const weights = identity?.["weights"] ?? await sourceDigest(dense.source);
  const { resolved, rows, isWritten } = await calibrationOf(dense, { asked, rest, files, out, resume, refusesEarlier });
  using vocabulary = await vocabularyOf(dense, resolved, { ...rest, ...withoutUndefined({ onPhase }) });
  const model = vocabulary?.model ?? dense, identified = { ...identity, weights, ...factsOf(vocabulary) };
  const written: TextRow[] = [];
  using session = new PruneSession(model, {
    ...rest,
    ...(rows ? { calibration: rows } : {}),
    checkpoint: { path, every, resume, mayDiffer, identity: identified },
  }, {
    resolved,
    vocabulary: vocabulary ?? undefined,
    ofMany,
    ...ON_DISK,
    calibrate: !isWritten ? undefined : async (how) => {
      written.push(...await writeOwnTexts(model, resolved, { ...how, ranks: rest.ranks, onProgress: onCalibration }));
      return written;
    },
  });
  const before = await session.prepare();
  await makeFolder(out);
  await lock.take();
  // What a crash has put aside is an earlier run's too, and is better refused before the steps than behind them.
  for (const name of lock.isHeld ? MODEL_FOLDERS : []) await recoverFolder(`${out}/${name}`);
  // Another one may have ended there meanwhile.
  if (refusesEarlier) await refuseEarlierRun(out);
  await onReady?.();
  await makeFolder(out);
  if (lock.isHeld) await removeLeftovers(out, [...RUN_FILES, RECORDS_FILE, CALIBRATION_FILE]);
  // A run that replaces another one and stops before its first checkpoint must not be taken for that.
  if (!resume && lock.isHeld) await removeCheckpoint(path);
  const recordsPath = `${out}/${RECORDS_FILE}`;
  await writeFileAtomically(recordsPath, await recordsUpTo(recordsPath, before.steps));
  if (isWritten) await writeFileAtomically(`${out}/${CALIBRATION_FILE}`, written.map(lineOf).join(""));
  await onStart?.(session, before.steps);
  using file = await RecordFile.open(recordsPath, { last: before.steps });
  for await (const record of session) {
    await file.add(record);
    await onRecord?.(record);
  }
  onPhase?.("slice", 0);
  await session.slice({ onProgress: (share) => onPhase?.("slice", share) });
  onPhase?.("export", 0);
  const summary = await session.export(out, {
    ...files,
    onProgress: (share) => {
      wanted.onProgress?.(share);
      onPhase?.("export", share);
    },
  });
  await removeCheckpoint(path).catch(() => undefined);
  return summary;
}

/** Options of {@link followToFolder}: those of {@link pruneToFolder} but for what only rank 0 does. */
export type FollowOptions =
  & Omit<RunOptions, "checkpoint" | "calibration">
  & Target
  & Omit<FolderOptions, "checkpointEvery" | "onReady" | "onRecord" | "onPhase">
  & Required<Pick<RunOptions, "ranks">>;

/**
 * Trains the run of {@link pruneToFolder} on a rank that is not the first, with the same options. Nothing is written.
 *
 * @throws what iterating a {@link PruneSession} does.
 */
export async function followToFolder(
  dense: Model,
  options: FollowOptions,
): Promise<void> {
  const { out, resume: asks = false, mayDiffer, identity, export: files = {}, ...others } = options;
  const { calibration: asked, onCalibration, onStart, ...rest } = others;
  const path = `${out}/${CHECKPOINT_FILE}`, resume = asks === "auto" ? await exists(path) : asks;
  const weights = identity?.["weights"] ?? await sourceDigest(dense.source);
  const how = { asked, rest, files, out, resume, refusesEarlier: false };
  const { resolved, rows, isWritten } = await calibrationOf(dense, how);
  using vocabulary = await vocabularyOf(dense, resolved, rest);
  const model = vocabulary?.model ?? dense, identified = { ...identity, weights, ...factsOf(vocabulary) };
  using session = new PruneSession(model, {
    ...rest,
    ...(rows ? { calibration: rows } : {}),
    checkpoint: {
      path,
      every: Infinity,
      resume,
      ...(mayDiffer ? { mayDiffer } : {}),
      identity: identified,
    },
  }, {
    resolved,
    vocabulary: vocabulary ?? undefined,
    openScript: ON_DISK.openScript,
    loadTasks: ON_DISK.loadTasks,
    files: withoutWrites(ON_DISK.files),
    calibrate: isWritten
      ? (settings) => writeOwnTexts(model, resolved, { ...settings, ranks: rest.ranks, onProgress: onCalibration })
      : undefined,
  });
  const { steps } = await session.prepare();
  await onStart?.(session, steps);
  for await (const _ of session);
}

/** Cuts the vocabulary, where it is among the units. */
async function vocabularyOf(
  dense: Model,
  resolved: ResolvedOptions,
  { evaluate, vocab, signal, onPhase }:
    & Pick<RunOptions, "evaluate" | "vocab" | "signal">
    & Pick<FolderOptions, "onPhase">,
): Promise<CutForRun | null> {
  if (!resolved.vocab) return null;
  return await cutForRun(dense, {
    options: resolved,
    evaluation: evaluate,
    rows: vocab?.rows,
    onMeasured: (share) => onPhase?.("measure", share),
    ...withoutUndefined({ signal }),
  });
}

/** What tells runs with other kept tokens apart. */
function factsOf(vocabulary: CutForRun | null): Readonly<Record<string, string>> {
  return vocabulary ? { vocabulary: vocabulary.digest } : {};
}

/** The options with their defaults, and the calibration rows: given, of the folder, or, with `isWritten`, those that the model is to write. */
async function calibrationOf(
  model: Model,
  { asked, rest, files, out, resume, refusesEarlier }: {
    readonly asked: FolderOptions["calibration"];
    readonly rest: PruneOptions;
    readonly files: SessionExportOptions;
    readonly out: string;
    readonly resume: boolean;
    readonly refusesEarlier: boolean;
  },
): Promise<{
  readonly resolved: ResolvedOptions;
  readonly rows: PruneOptions["calibration"];
  readonly isWritten: boolean;
}> {
  const path = `${out}/${CALIBRATION_FILE}`, areThere = await exists(path);
  if (typeof asked === "string") {
    checkWord(asked, ["own", "none"], { what: "cannot calibrate on this; rows are a list, as of readRows" });
  }
  const named = asked === undefined || asked === "none" ? {} : { calibration: asked === "own" ? [] : asked };
  const resolved = resolveOptions({ ...rest, ...named }, model.spec, {
    source: model.source,
    ...withoutUndefined({ ggufDtype: files.ggufDtype, dtype: files.dtype, formats: files.formats }),
  });
  const choice = asked ?? calibrationDefault(resolved, { resume, areThere }), isOwn = choice === "own";
  if (typeof choice === "string") refuseReading(rest);
  // A run that ended before its first checkpoint has left records beside its texts.
  const isLeft = areThere && await exists(`${out}/${RECORDS_FILE}`);
  if (isOwn && refusesEarlier && areThere && !isLeft) throw textsThere(path);
  const isWritten = isOwn && !(resume && areThere);
  const own = isOwn && !isWritten ? (await readRows(path)).rows : undefined;
  return {
    resolved: { ...resolved, calibration: choice !== "none" },
    rows: typeof choice === "string" ? own : choice,
    isWritten,
  };
}

/** Lets the model write its calibration texts. */
async function writeOwnTexts(
  model: Model,
  options: ResolvedOptions,
  how: Pick<SelfDataOptions, "cacheBytes" | "ranks" | "signal" | "onProgress">,
): Promise<readonly TextRow[]> {
  try {
    return await writeCalibration(model, { tokens: options.seq, count: calibrationTexts(options), ...how });
  } catch (error) {
    if (!(error instanceof SilenceError)) throw error;
    const fix = `give texts by ${option("calibration")}, or take ${option("calibration", "none")}`;
    throw new CompressoError(error.code, { ...error.parts, fix }, { cause: error });
  }
}

function lineOf({ text, extra }: TextRow): string {
  return JSON.stringify({ text, ...extra }) + "\n";
}

async function removeCheckpoint(path: string): Promise<void> {
  try {
    await Deno.remove(await destination(path));
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw unwritable(path, error);
  }
}

function textsThere(path: string): CompressoError {
  return new CompressoError("usage", {
    what: `cannot write ${path}`,
    rule: "the model's own calibration texts replace no file unasked",
    value: "it is there already",
    fix: `give it by ${option("calibration")}, choose another ${option("out")}, start with ${
      option("export.replace")
    }, or take ${option("calibration", "none")}`,
  });
}
