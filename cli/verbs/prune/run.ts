// Runs `prune`: reads its inputs, prunes with progress and Ctrl-C, and prints the summary.
import { basename, join, resolve } from "node:path";
import { CompressoError, option } from "../../../lib/core/errors.ts";
import { withoutUndefined } from "../../../lib/core/check_options.ts";
import { checkFolder } from "../../../lib/files/atomic.ts";
import { type DataReport, type Row } from "../../../lib/data/rows.ts";
import { readRows } from "../../../lib/local/rows.ts";
import { isHubName } from "../../../lib/hub/name.ts";
import { disk } from "../../../lib/files/disk.ts";
import { modelInfo } from "../../../lib/formats/open.ts";
import { DEMO, modelPath, openModelFiles } from "../../../lib/local/open_model.ts";
import { haveEnds } from "../../../lib/data/prompts/encode.ts";
import type { EncodeReport } from "../../../lib/data/encode_report.ts";
import { checkMemory } from "../../../lib/run/memory/advice.ts";
import { adapterOf } from "../../../lib/run/memory/plan.ts";
import { stagesOf } from "../../../lib/run/methods/stages.ts";
import type { Alarm } from "../../../lib/run/monitors/alarm.ts";
import { ShownAlarms } from "../../../lib/run/monitors/shown_alarms.ts";
import { recordsIn } from "../../../lib/run/record_file.ts";
import { checkResumable, RECORDS_FILE } from "../../../lib/run/folder.ts";
import { atPaths, checkTogether } from "../../../lib/run/options/check.ts";
import type { AskedOptions, ResolvedOptions } from "../../../lib/run/options/options.ts";
import { cutsVocabularyAlone, memoryOptionsOf, resolveOptions } from "../../../lib/run/options/resolve.ts";
import { FLAG_PATHS, pruneOptionsOf, type TableFlags, valueOfFlag } from "../../options/table_flags.ts";
import {
  type FolderPhase,
  followToFolder,
  pruneToFolder,
  type PruneToFolderOptions,
} from "../../../lib/run/prune_to_folder.ts";
import { cutVocabularyToFolder, type VocabularyToFolderOptions } from "../../../lib/run/vocabulary_to_folder.ts";
import type { Model } from "../../../lib/model/model.ts";
import { promptForTexts } from "../../../lib/run/data.ts";
import { checkTrust } from "../../../lib/schedule/open.ts";
import type { OriginFile } from "../../../lib/slice/export_options.ts";
import { originOf } from "../../../lib/run/origin.ts";
import type { MaskSummary } from "../../../lib/run/mask_summary.ts";
import type { PruneSession } from "../../../lib/run/session.ts";
import { alarmLine } from "./alarms.ts";
import { programAsRun, shellWord } from "../../command.ts";
import { fetchInputs, modelName, pinned } from "../../hub.ts";
import { calibrationChoice, calibrationOf, type ChosenFlags, NONE } from "./calibration.ts";
import { type Dashboard, openDashboard } from "./dashboard/dashboard.ts";
import { dataLine, NO_ENDS } from "./data_line.ts";
import { stderrProgress } from "../../terminal/progress.ts";
import { formatCount, note, printJson, writeError } from "../../terminal/output.ts";
import { promptText } from "../../options/prompt.ts";
import type { MpiRanks } from "../../../lib/ranks/mpi.ts";
import { withRanks } from "../../ranks.ts";
import { dataPathOf, evaluationOf, type Inputs, inputsOf, vocabularyRows } from "./inputs.ts";
import { layoutLines } from "./layout_lines.ts";
import { checkSchedule } from "./schedule.ts";
import { checkRunFolder, clearRunFolder, finishedRun, holdsRun, isResumable } from "./run_folder.ts";
import { showSummary } from "./summary.ts";
import { headsLine, targetOf, withFileType, withScheduleTarget } from "./targets.ts";
import { type Loaded, withModel } from "../../with_model.ts";

/** The flag by which the folder decides whether its run is resumed. */
const AUTO = "--resume=auto";

const PHASES: Readonly<Record<FolderPhase, string>> = {
  measure: "measuring the model as it is",
  slice: "checking the sliced model",
  export: "writing the files",
};

/** Flags as they are typed, with defaults for those that have none in the library. */
export type TypedFlags = TableFlags & Pick<RunFlags, "out" | "steps">;

/** Flags of a run. */
export type RunFlags = Omit<TableFlags, "resume"> & {
  readonly out: string;
  readonly steps: number;
  /** Whether the folder's run is resumed, "auto" decided. */
  readonly resume: boolean;
};

/** Runs the verb, on the ranks of an MPI job where it was started in one. */
export async function runPrune(path: string, typed: TypedFlags): Promise<void> {
  await withRanks((ranks) => pruneOn(ranks, path, typed), { asJson: typed.json ?? false });
}

async function pruneOn(ranks: MpiRanks | null, path: string, typed: TypedFlags): Promise<void> {
  const shared = ranks ? { accumulate: ranks.size, ...typed } : typed;
  const whole = await withFileType(path, await withScheduleTarget(path, shared));
  checkTrust(whole.schedule, whole.trust);
  checkTogether(atPaths(FLAG_PATHS.map((one) => [one, valueOfFlag(whole, one)] as const)));
  const asked = await decided(whole), { out, resume, json } = asked, name = `${modelName(path)} pruned by Compresso`;
  const prompt = await promptText(asked.prompt ?? !cutsVocabularyAlone(asked));
  const options: AskedOptions = {
    ...pruneOptionsOf(asked),
    ...(ranks ? { ranks } : {}),
    ...targetOf(asked, { name }),
    rows: [],
    steps: asked.steps,
    prompt,
    ...await evaluationOf(asked),
    ...(asked.calibration === undefined || asked.calibration === NONE ? {} : { calibration: [] }),
  };
  const resolved = resolveOptions(options), isAlone = cutsVocabularyAlone(resolved);
  if (isHubName(path)) dataPathOf(path, asked); // before a model is fetched
  await fetchInputs({ model: [path], data: [asked.data, asked.calibration, asked.vocabData] }, { resumes: resume });
  await checkRunFolder(out, { resume, overwrite: asked.overwrite ?? false, model: await modelPath(path) });
  const flags = { ...asked, calibration: isAlone ? NONE : await calibrationChoice(asked, resolved) };
  // Default widths follow from the model.
  const now = async (): Promise<ResolvedOptions> => {
    const { source } = await openModelFiles(path), { ggufDtype, dtype } = flags;
    const whole = resolveOptions(options, source.spec, { source, ...withoutUndefined({ ggufDtype, dtype }) });
    return { ...whole, calibration: flags.calibration !== NONE };
  };
  const earlier = resume ? await finishedRun(out, { now, inputs: () => inputsOf(path, flags) }) : null;
  if (earlier) note(`compresso: the run in ${out} is finished already`);
  else if (resume) await checkResumable(out);
  const isFirst = ranks === null || ranks.rank === 0;
  const port = !isFirst ? null : asked.dashboardPort ?? (asked.dashboard ? 0 : null);
  await using dashboard = earlier || port === null ? null : await openDashboard(port, { onTrouble: note });
  // Its address is printed on a line of its own, so that the user finds the page.
  if (dashboard) writeError(`dashboard   ${dashboard.url}\n`);
  const work = { go: pruneToFolder, goAlone: cutVocabularyToFolder };
  const driven = { flags, options, resolved, prompt, name, dashboard, ranks, ...work };
  const summary = earlier ?? await startRun(path, driven);
  if (!summary) return;
  dashboard?.tell({ kind: "finished" });
  if (json) printJson(summary);
  else showSummary(summary, { out, model: path });
}

/** Decides whether the folder's run is resumed: with "auto" where it holds one that is stopped or finished. What may differ then is for such a run alone. */
async function decided({ mayDiffer, ...flags }: TypedFlags): Promise<RunFlags> {
  const { out, resume: asked = false } = flags, resume = asked === "auto" ? await holdsRun(out) : asked;
  return { ...flags, resume, ...(resume ? withoutUndefined({ mayDiffer }) : {}) };
}

/** Settings of a run, before its model and rows are read. */
export interface Driven<T> {
  /** Runs it, with all that is read and shown: `pruneToFolder`, or a sweep. */
  readonly go: (model: Model, options: PruneToFolderOptions) => Promise<T>;
  /** Cuts the vocabulary alone; null where that is refused before. */
  readonly goAlone: ((model: Model, options: VocabularyToFolderOptions) => Promise<T>) | null;
  readonly flags: ChosenFlags;
  /** The options as the flags give them. */
  readonly options: AskedOptions;
  /** The options with defaults. */
  readonly resolved: ResolvedOptions;
  readonly prompt: string | null;
  /** Name of the model within a GGUF. */
  readonly name: string;
  readonly dashboard: Dashboard | null;
  readonly ranks: MpiRanks | null;
}

/** Reads data and model, and runs with progress on stderr; null on a rank that is not the first. */
export async function startRun<T>(path: string, driven: Driven<T>): Promise<T | null> {
  const { flags, resolved } = driven, { out, memoryLimit, baseDtype, tuning } = flags;
  await modelInfo(disk, await modelPath(path));
  if (!driven.ranks || driven.ranks.rank === 0) await checkFolder(out);
  const { textField, limitRows, skipBroken } = flags;
  const how = withoutUndefined({ textField, limit: limitRows, skipBroken });
  using progress = stderrProgress();
  progress.phase("reading the data");
  const { rows, report: reading } = await readRows(dataPathOf(path, flags), how);
  const beside = await calibrationOf(flags), needed = await vocabularyRows(flags);
  progress[Symbol.dispose]();
  const { calibration } = beside, all = typeof calibration === "string" ? rows : [...rows, ...calibration ?? []];
  if (typeof flags.prompt === "string" && !flags.resume && all.every(({ kind }) => kind === "text")) {
    throw promptForTexts({
      what: `cannot train with the prompt of ${flags.prompt}`,
      fix: `leave ${option("prompt")} out, or train on instructions`,
    });
  }
  try {
    return await withModel(path, {
      ...withoutUndefined({ baseDtype, memoryLimit, tuning }),
      onInterrupt: "stopping after a checkpoint; press Ctrl-C again to end at once",
      listensLater: true,
      onShape: async (spec, device) =>
        cutsVocabularyAlone(resolved) ? null : await checkMemory(
          spec,
          memoryOptionsOf(resolved, { adapter: adapterOf(device), baseDtype }),
          memoryLimit === undefined ? {} : { memoryLimit },
        ),
    }, async (loaded) => {
      const origin = await originOf({
        model: path === DEMO || isHubName(path) ? path : resolve(path),
        data: dataPathOf(path, flags),
        calibration: typeof calibration === "string" ? null : flags.calibration,
        vocabulary: flags.vocabData ?? null,
      });
      driven.dashboard?.tell({ kind: "named", name: basename(resolve(out)), origin });
      return await drive(loaded, {
        ...driven,
        rows,
        reading,
        beside,
        needed,
        origin,
        inputs: await inputsOf(path, flags),
      });
    });
  } catch (error) {
    if (error instanceof CompressoError && error.code === "aborted" && await isResumable(out)) {
      throw new CompressoError("aborted", { ...error.parts, fix: `to resume, run: ${await resumeCommand()}` });
    }
    throw error;
  }
}

async function drive<T>(
  { model, signal, progress, listen, tune }: Loaded,
  run: Driven<T> & {
    readonly rows: readonly Row[];
    readonly reading: DataReport;
    readonly beside: Awaited<ReturnType<typeof calibrationOf>>;
    readonly inputs: Inputs;
    /** Rows that tell which tokens are needed. */
    readonly needed: readonly Row[] | undefined;
    readonly origin: readonly OriginFile[];
  },
): Promise<T | null> {
  const { flags, options: asked, resolved, rows, reading, beside, prompt, inputs, origin, name, dashboard, ranks } =
    run;
  const { out, resume, dtype, ggufDtype } = flags;
  // One rank alone must not stop before the others do.
  if (ranks) signal.addEventListener("abort", () => ranks.stopAll(signal.reason));
  const stop = ranks ? ranks.signal : signal;
  const tokens = resolved.batch * resolved.seq;
  const steps = stagesOf(resolved).reduce((sum, stage) => sum + stage.steps, 0);
  if (!cutsVocabularyAlone(resolved)) {
    await tune({ rows: tokens, rank: resolved.lora.rank, tokens: tokens * resolved.accumulate * steps });
  }
  const { tokenizer } = model;
  const hasEnds = ({ packed: isPacked }: EncodeReport): boolean =>
    tokenizer !== null && haveEnds(rows[0]?.kind ?? "text", { tokenizer, prompt, isPacked });
  progress.phase(`encoding ${formatCount(rows.length)} rows`);
  const shown = new ShownAlarms(), earlier = resume ? await recordsIn(join(out, RECORDS_FILE)) : [];
  let isWriting = false, session: PruneSession | null = null;
  const showAlarms = (alarms: readonly Alarm[]): void => {
    for (const alarm of shown.fresh(alarms)) {
      progress.note(`alarm at ${alarmLine(alarm)}`);
      dashboard?.tell({ kind: "alarm", alarm });
    }
  };
  const { sparsity: _sparsity, size, ...others } = asked;
  const inputsOfRun = {
    ...others,
    rows,
    reading,
    ...(run.needed ? { vocab: { ...asked.vocab, rows: run.needed } } : {}),
    signal: stop,
    out,
    resume,
  };
  const isAlone = cutsVocabularyAlone(asked);
  if (ranks && ranks.rank > 0 && !isAlone) {
    await followToFolder(model, {
      ...inputsOfRun,
      ...targetOf(flags, { name }),
      ...beside,
      ...withoutUndefined({ mayDiffer: flags.mayDiffer }),
      identity: { weights: inputs.model },
      export: withoutUndefined({ dtype, ggufDtype }),
      ranks,
      onStart: () => listen(),
    });
    return null;
  }
  const shared = {
    ...inputsOfRun,
    export: {
      ...withoutUndefined({ dtype, ggufDtype }),
      name,
      // Files of a run that was killed while moving them into place are its own.
      replace: resume || (flags.overwrite ?? false),
      saveAdapter: flags.saveAdapter ?? false,
      inputs,
      origin,
      // The time is measured from the start of the process.
      startedAt: 0,
      command: ["compresso", ...runWords().map(shellWord)].join(" "),
    },
    onReady: async (): Promise<void> => {
      await checkSchedule(flags, inputs.schedule);
      // Only here: a command that is refused must not delete the earlier run.
      if (flags.overwrite) await clearRunFolder(out, { files: [flags.data, flags.calibration] });
    },
    onPhase: (phase: FolderPhase, share: number): void => {
      const text = PHASES[phase];
      if (share === 0 && phase !== "measure") {
        // Alarms of masks that become hard after the last step are in no record.
        if (phase === "slice") showAlarms(session?.result().alarms ?? []);
        dashboard?.tell({ kind: "state", text: `All steps are done: ${text}.` });
      }
      progress.phase(text, share);
    },
  };
  if (isAlone && run.goAlone) return await run.goAlone(model, { ...shared, size });
  return await run.go(model, {
    ...shared,
    ...targetOf(flags, { name }),
    ...beside,
    onCalibration: (share) => {
      if (!isWriting) dashboard?.tell({ kind: "state", text: "Writing texts for calibration." });
      isWriting = true;
      progress.phase("calibration texts", share);
    },
    onScoring: (share) => progress.phase("scoring units", share),
    ...(ranks ? { onDealt: (counts) => progress.note(dealtLine(counts)) } : {}),
    onScheduleLog: (line) => progress.note(`script: ${line}`),
    ...withoutUndefined({ mayDiffer: flags.mayDiffer, checkpointEvery: flags.checkpointEvery }),
    identity: { weights: inputs.model },
    onStart: (started, doneBefore) => {
      // A sweep starts a session for each sparsity; what all of them share is said once.
      const isFirst = session === null;
      const { steps, data, options: { rows: _rows, ...options } } = session = started;
      listen();
      shown.know(earlier, doneBefore);
      dashboard?.tell({
        kind: "started",
        folder: out,
        name: basename(resolve(out)),
        options,
        adapter: model.device.facts.description,
        origin,
      });
      progress.stages(stagesOf(started.options));
      if (isFirst) {
        const rowsLine = `${dataLine(data, resolved)}${hasEnds(data) ? "" : NO_ENDS}`;
        const places = ranks ? `${ranks.size} ranks, rank 0 on ` : "";
        progress.note(`${rowsLine}; ${steps} steps on ${places}${model.device.facts.description}`);
        if (data.calibration) progress.note(`calibration: ${dataLine(data.calibration, resolved)}`);
        const heads = headsLine(model.spec, options);
        if (heads !== null) progress.note(heads);
        for (const line of layoutLines(model.spec, options)) progress.note(line);
      }
      if (doneBefore > 0) progress.note(`resuming after step ${doneBefore}`);
      progress.phase("compiling kernels");
    },
    ...(dashboard
      ? { onMasks: (step: number, masks: MaskSummary) => dashboard.tell({ kind: "masks", step, masks }) }
      : {}),
    onRecord: (record) => {
      progress.step(record);
      showAlarms(record.alarms);
    },
  });
}

function dealtLine(counts: readonly number[]): string {
  return `micro-batches dealt anew by the ranks' times: ${counts.join(", ")}`;
}

/** The command that resumes this run, as the user typed it; names on the Hub with their revisions. */
export async function resumeCommand(): Promise<string> {
  if (Deno.args.includes(AUTO)) return [programAsRun(), ...Deno.args.map(shellWord)].join(" ");
  const words = await pinned(runWords()), end = words.indexOf("--");
  return [programAsRun(), ...words.toSpliced(end < 0 ? words.length : end, 0, "--resume").map(shellWord)].join(" ");
}

/** The words that the user typed, without those that say how to start. */
function runWords(): string[] {
  return Deno.args.filter((word) => !["--overwrite", "--resume", AUTO].includes(word));
}
