// Starts a run of `prune` or `sweep`: reads its data and model, and runs it with progress and Ctrl-C.
import { basename, join, resolve } from "node:path";
import type { WeightSource } from "../../../lib/spec/source.ts";
import { CompressoError, option } from "../../../lib/core/errors.ts";
import { checkFolder } from "../../../lib/files/atomic.ts";
import { type DataReport, type Row } from "../../../lib/data/rows.ts";
import { readRows } from "../../../lib/local/rows.ts";
import { isHubName } from "../../../lib/hub/name.ts";
import { disk } from "../../../lib/files/disk.ts";
import { modelInfo, openWeights } from "../../../lib/formats/open.ts";
import { DEMO, modelPath } from "../../../lib/local/open_model.ts";
import { checkMemory } from "../../../lib/run/memory/advice.ts";
import { heldTypes } from "../../../lib/run/memory/held.ts";
import { adapterOf } from "../../../lib/run/memory/plan.ts";
import { stagesOf } from "../../../lib/run/methods/stages.ts";
import { recordsIn } from "../../../lib/run/record_file.ts";
import { RECORDS_FILE } from "../../../lib/run/folder.ts";
import type { PruneOptions, ResolvedOptions } from "../../../lib/run/options/options.ts";
import { memoryOptionsOf, trainsNothing } from "../../../lib/run/options/resolve.ts";
import { type PruneToFolderOptions } from "../../../lib/run/prune_to_folder.ts";
import { resolvedFor as resolvedRun } from "../../../lib/run/run_into.ts";
import type { Device } from "../../../lib/gpu/device.ts";
import type { Model } from "../../../lib/model/model.ts";
import type { OpenedModel } from "../../../lib/model/opened.ts";
import { cutsExperts } from "../../../lib/units/kinds/all.ts";
import { promptForTexts } from "../../../lib/run/data.ts";
import { forecastRun, measureSpeed } from "../../../lib/run/forecast.ts";
import type { PartSeconds } from "../../../lib/run/parts_of_time.ts";
import { FORMATS, type OriginFile } from "../../../lib/slice/export_options.ts";
import { originOf } from "../../../lib/run/origin.ts";
import { calledWords, programAsRun, shellWord } from "../../command.ts";
import { modelName, pinned } from "../../hub.ts";
import { calibrationOf, NONE } from "./calibration.ts";
import { type Dashboard } from "./dashboard/dashboard.ts";
import { stderrProgress } from "../../terminal/progress.ts";
import { formatCount } from "../../terminal/output.ts";
import type { MpiRanks } from "../../../lib/ranks/mpi.ts";
import { dataPathOf, type Inputs, inputsOf, savedScores, validationRows, vocabularyRows } from "./inputs.ts";
import { checkSchedule } from "./schedule.ts";
import { clearRunFolder, isResumable } from "./run_folder.ts";
import { showRun } from "./screen.ts";
import { type Loaded, type Opened, withModel, withOpened } from "../../with_model.ts";

import type { RunFlags } from "./flags.ts";
/** The flag by which the folder decides whether its run is resumed. */
const AUTO = "--resume=auto";

/** Experts are cut by given scores without rows. */
const NO_DATA: { readonly rows: readonly Row[]; readonly report: undefined } = { rows: [], report: undefined };

/** Settings of a run, before its model and rows are read. */
export interface Driven<T> {
  /**
   * Runs it, with all that is read and shown: into a folder, or a sweep. The options are given with all defaults too.
   */
  readonly go: (
    model: Model,
    options: PruneToFolderOptions,
    known: { readonly resolved: ResolvedOptions },
  ) => Promise<T>;
  /** Runs it on a model that is not loaded: cuts experts. Default: the model is loaded. */
  readonly cut?: (
    model: OpenedModel,
    options: PruneToFolderOptions,
    known: { readonly resolved: ResolvedOptions },
  ) => Promise<T>;
  readonly flags: RunFlags;
  /** The options as the flags give them, without rows and calibration. */
  readonly options: PruneOptions;
  readonly dashboard: Dashboard | null;
  readonly ranks: MpiRanks | null;
}

/** Name of the pruned or tuned model within a GGUF. */
export function nameOf(path: string, { sparsity }: Pick<RunFlags, "sparsity">): string {
  return `${modelName(path)} ${sparsity === 0 ? "tuned" : "pruned"} by Compresso`;
}

/** The options of a run with the defaults that its model gives them. */
export async function resolvedFor(
  path: string,
  { options, flags }: Pick<Driven<unknown>, "options" | "flags">,
): Promise<ResolvedOptions> {
  const source = await openWeights(disk, await modelPath(path)), { ggufDtype, ggufSize, dtype, formats } = flags;
  const calibration = flags.calibration === NONE ? NONE : "own"; // rows or own texts: the defaults are the same
  return resolvedRun(source, { ...options, calibration, export: { ggufDtype, ggufSize, dtype, formats } });
}

/** Reads data and model, and runs with progress on stderr; null on a rank that is not the first. */
export async function startRun<T>(path: string, driven: Driven<T>): Promise<T | null> {
  const { flags } = driven, { out, memoryLimit, baseDtype, tuning } = flags;
  await modelInfo(disk, await modelPath(path));
  const data = dataPathOf(path, flags), resolved = await resolvedFor(path, driven);
  if (!driven.ranks || driven.ranks.rank === 0) await checkFolder(out);
  const { textField, limitRows, skipBroken } = flags;
  const how = { textField, limit: limitRows, skipBroken };
  using progress = stderrProgress();
  progress.phase("reading the data");
  const { rows, report: reading } = data === null ? NO_DATA : await readRows(data, how);
  const calibrated = await calibrationOf(flags), needed = await vocabularyRows(flags);
  const valRows = await validationRows(flags);
  const scores = await savedScores(flags);
  progress[Symbol.dispose]();
  const { calibration } = calibrated, all = typeof calibration === "string" ? rows : [...rows, ...calibration ?? []];
  if (typeof flags.prompt === "string" && !flags.resume && all.every(({ kind }) => kind === "text")) {
    throw promptForTexts({
      what: `cannot train with the prompt of ${flags.prompt}`,
      fix: `leave ${option("prompt")} out, or train on instructions`,
    });
  }
  let forecast: PartSeconds | undefined;
  const { cut } = driven,
    settings = {
      baseDtype,
      memoryLimit,
      tuning,
      onInterrupt: "stopping after a checkpoint; press Ctrl-C again to end at once",
      listensLater: true,
      onShape: async (source: WeightSource, device: Device): Promise<void> => {
        const { spec } = source, storedDtype = (name: string): string => source.storedDtype(name);
        const isOfExperts = cutsExperts(resolved.units);
        if (trainsNothing(resolved) && !isOfExperts) return;
        const asked = memoryOptionsOf(resolved, { adapter: adapterOf(device), baseDtype, storedDtype });
        await checkMemory(spec, asked, { memoryLimit });
        const { batch, seq } = resolved;
        const speed = await measureSpeed(device, spec, { batch, seq, baseDtype, storedDtype });
        forecast = forecastRun(speed, resolved, {
          formats: (flags.formats ?? FORMATS).length,
          writesTexts: calibration === "own",
          hasText: flags.evalText !== undefined,
          ranks: driven.ranks?.size,
        });
      },
    };
  const run = async (opened: Opened, { tune, go }: Pick<Run<T>, "tune" | "go">): Promise<T> => {
    const origin = await originOf({
      model: path === DEMO || isHubName(path) ? path : resolve(path),
      data: dataPathOf(path, flags),
      calibration: typeof calibration === "string" ? null : flags.calibration,
      vocabulary: flags.vocabData ?? null,
    });
    driven.dashboard?.tell({ kind: "named", name: basename(resolve(out)), origin });
    return await drive(path, opened, {
      ...driven,
      ...{ tune, go, resolved, rows, reading, calibrated, needed, valRows, scores, origin, forecast },
      inputs: await inputsOf(path, flags),
    });
  };
  try {
    return cut && cutsExperts(resolved.units)
      ? await withOpened(path, settings, async (opened) =>
        await run(opened, {
          tune: null,
          go: async (options) => await cut(opened.model, options, { resolved }),
        }))
      : await withModel(path, settings, async (loaded) =>
        await run(loaded, {
          tune: loaded.tune,
          go: async (options) => await driven.go(loaded.model, options, { resolved }),
        }));
  } catch (error) {
    if (error instanceof CompressoError && error.code === "aborted" && await isResumable(out)) {
      throw error.with({ fix: `to resume, run: ${await resumeCommand()}` });
    }
    throw error;
  }
}

/** A run on an opened model. */
interface Run<T> extends Omit<Driven<unknown>, "go" | "cut"> {
  readonly go: (options: PruneToFolderOptions) => Promise<T>;
  /** Null for a model that is not loaded. */
  readonly tune: Loaded["tune"] | null;
  readonly resolved: ResolvedOptions;
  readonly rows: readonly Row[];
  readonly reading: DataReport | undefined;
  readonly calibrated: Awaited<ReturnType<typeof calibrationOf>>;
  readonly inputs: Inputs;
  /** Rows that tell which tokens are needed. */
  readonly needed: readonly Row[] | undefined;
  /** Rows to measure the held-out loss on. */
  readonly valRows: readonly Row[] | undefined;
  readonly scores: PruneOptions["scores"];
  readonly origin: readonly OriginFile[];
  /** Seconds of the run's parts; undefined where nothing is trained. */
  readonly forecast: PartSeconds | undefined;
}

async function drive<T>(
  path: string,
  opened: Opened,
  { resolved, rows, reading, calibrated, needed, valRows, scores, inputs, origin, forecast, tune, go, ...driven }: Run<
    T
  >,
): Promise<T> {
  const { flags, options: { calibration: _none, checkpoint: _file, ...asked }, dashboard, ranks } = driven;
  const { signal, progress, listen } = opened, { out, resume, dtype, ggufDtype, formats } = flags;
  // One rank alone must not stop before the others do.
  if (ranks) signal.addEventListener("abort", () => ranks.stopAll(signal.reason));
  const tokens = resolved.batch * resolved.seq;
  const steps = stagesOf(resolved).reduce((sum, stage) => sum + stage.steps, 0);
  if (!trainsNothing(resolved)) {
    await tune?.({ rows: tokens, rank: resolved.lora.rank, tokens: tokens * resolved.accumulate * steps });
  }
  progress.phase(`encoding ${formatCount(rows.length)} rows`);
  const earlier = resume ? await recordsIn(join(out, RECORDS_FILE)) : [];
  const isFirst = ranks === null || ranks.rank === 0, { source, device, baseDtype } = opened.model;
  const held = baseDtype === "file" ? await heldTypes(source, { adapter: adapterOf(device) }) : null;
  return await go({
    ...asked,
    rows,
    reading,
    valRows,
    vocab: needed ? { ...asked.vocab, rows: needed } : asked.vocab,
    scores,
    ...calibrated,
    mayDiffer: flags.mayDiffer,
    checkpointEvery: flags.checkpointEvery,
    signal: ranks ? ranks.signal : signal,
    out,
    resume,
    identity: { weights: inputs.model },
    export: {
      dtype,
      ggufDtype,
      ggufSize: flags.ggufSize,
      ggufImatrix: flags.ggufImatrix,
      formats,
      name: nameOf(path, flags),
      // Files of a run that was killed while moving them into place are its own.
      replace: resume || (flags.overwrite ?? false),
      saveAdapter: flags.saveAdapter ?? false,
      inputs,
      origin,
      // The time is measured from the start of the process.
      startedAt: 0,
      forecast,
      command: ["compresso", ...runWords().map(shellWord)].join(" "),
    },
    onReady: async (): Promise<void> => {
      await checkSchedule(flags, inputs.schedule);
      // Only here: a command that is refused must not delete the earlier run.
      if (flags.overwrite) await clearRunFolder(out, { files: [flags.data, flags.calibration, flags.valData] });
    },
    // The other ranks are silent.
    ...(isFirst
      ? showRun(opened, { out, asked, resolved, rows, origin, held, forecast, dashboard, ranks, earlier })
      : { onStart: () => listen() }),
  });
}

/** The command that resumes this run, as the user typed it; names on the Hub with their revisions. */
export async function resumeCommand(): Promise<string> {
  if (calledWords().includes(AUTO)) return [programAsRun(), ...calledWords().map(shellWord)].join(" ");
  const words = await pinned(runWords()), end = words.indexOf("--");
  return [programAsRun(), ...words.toSpliced(end < 0 ? words.length : end, 0, "--resume").map(shellWord)].join(" ");
}

/** The words that the user typed, without `--overwrite` and `--resume`. */
function runWords(): string[] {
  return calledWords().filter((word) => !["--overwrite", "--resume", AUTO].includes(word));
}
