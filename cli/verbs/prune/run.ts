// A prune run as the command line drives it: progress, Ctrl-C, the report. Owns those; refuses the parsing of options.
import { basename, join, resolve } from "node:path";
import { CompressoError } from "../../../lib/core/errors.ts";
import { scheduleName } from "../../../lib/experiment/identity.ts";
import { given } from "../../../lib/core/check_options.ts";
import { checkFolder } from "../../../lib/files/atomic.ts";
import { isOfPath } from "../../../lib/files/bytes.ts";
import { type DataReport, type Row } from "../../../lib/data/rows.ts";
import { readRows } from "../../../lib/disk/rows.ts";
import { fileDigest, modelDigest } from "../../../lib/files/fingerprint.ts";
import { disk } from "../../../lib/files/disk.ts";
import { modelInfo } from "../../../lib/formats/open.ts";
import { DEMO, demoData, modelPath } from "../../../lib/disk/open_model.ts";
import { haveEnds } from "../../../lib/data/prompts/encode.ts";
import type { Projection } from "../../../lib/spec/decoder.ts";
import type { Ranking } from "../../../lib/masks/baselines.ts";
import type { Layout } from "../../../lib/units/layout.ts";
import { layersOf, type UnitKind } from "../../../lib/units/units.ts";
import type { EncodeReport } from "../../../lib/data/encode_report.ts";
import { checkMemory } from "../../../lib/run/memory/advice.ts";
import { type Method, stagesOf } from "../../../lib/run/methods/names.ts";
import type { Alarm, MonitorOptions } from "../../../lib/run/monitors/alarm.ts";
import { ToldAlarms } from "../../../lib/run/monitors/told.ts";
import { recordsIn } from "../../../lib/run/record_lines.ts";
import { checkResumable, RECORDS_FILE } from "../../../lib/run/folder.ts";
import type { PruneOptions } from "../../../lib/run/options/options.ts";
import { pruneToFolder } from "../../../lib/run/prune_to_folder.ts";
import { promptForTexts } from "../../../lib/run/data.ts";
import { checkTrust } from "../../../lib/schedule/open.ts";
import type { OriginFile } from "../../../lib/slice/export_options.ts";
import type { MaskSummary } from "../../../lib/run/mask_summary.ts";
import type { PruneSession, RunSummary } from "../../../lib/run/session.ts";
import { alarmLine } from "./alarms.ts";
import { programAsRun, shellWord } from "../../command.ts";
import { calibrationChoice, calibrationName, calibrationOf, type ChosenSettings, NONE } from "./calibration.ts";
import { type Dashboard, openDashboard } from "./dashboard/dashboard.ts";
import { dataLine, NO_ENDS } from "./data_line.ts";
import { formatCount, note, printJson, writeError } from "../../terminal/output.ts";
import { memoryOptions } from "../plan.ts";
import { type PromptSetting, promptText } from "../../options/prompt.ts";
import { checkSchedule } from "./schedule.ts";
import { learningOf, type RateSettings, ratesOf } from "./rates.ts";
import { checkRunFolder, clearRunFolder, finishedRun, isResumable } from "./run_folder.ts";
import { originOf } from "./origin.ts";
import { showSummary } from "./summary.ts";
import { goalOf, headsLine, type TargetSettings, withScheduleTarget } from "./targets.ts";
import { type Loaded, type ModelSettings, withModel } from "../../with_model.ts";

/** Options of the verb, as parsed. */
export interface PruneSettings extends ModelSettings, RateSettings, TargetSettings {
  readonly out: string;
  readonly data?: string | undefined;
  readonly calibration?: string | undefined;
  readonly method: Method;
  readonly steps: number;
  readonly prefinetune?: number | undefined;
  readonly postfinetune?: number | undefined;
  readonly batch: number;
  readonly seq: number;
  readonly seed: number;
  readonly units: readonly UnitKind[];
  readonly protect?: readonly number[] | undefined;
  readonly align?: number | undefined;
  readonly minHeads: number;
  readonly minFfn: number;
  readonly minHidden: number;
  readonly minLayers: number;
  readonly schedule?: string | undefined;
  readonly trust?: true | undefined;
  readonly prompt?: PromptSetting | undefined;
  readonly textField?: string | undefined;
  readonly limitRows?: number | undefined;
  readonly skipBroken?: true | undefined;
  readonly packing?: boolean | undefined;
  readonly rank: number;
  readonly alpha: number;
  readonly rslora?: true | undefined;
  readonly loraTargets: readonly Projection[];
  readonly dropout: number;
  readonly ranking?: Ranking | undefined;
  readonly layout: Layout;
  readonly saveAdapter?: true | undefined;
  readonly recompute: boolean;
  readonly onAlarm?: MonitorOptions | undefined;
  readonly checkpointEvery: number;
  readonly resume?: true | undefined;
  readonly mayDiffer?: readonly ("schedule" | "rates")[] | undefined;
  readonly overwrite?: true | undefined;
  readonly dashboard?: true | undefined;
  readonly dashboardPort?: number | undefined;
  readonly json?: true | undefined;
}

/** Runs the verb. */
export async function runPrune(path: string, typed: PruneSettings): Promise<void> {
  const asked = await withScheduleTarget(path, typed);
  const { out, resume = false, overwrite = false, mayDiffer = [], json } = asked, name = modelName(path);
  goalOf(asked, { name });
  checkTrust(asked.schedule, asked.trust, { option: "--trust" });
  const learning = learningOf(asked, { rules: rulesOf(asked, 0) });
  await checkRunFolder(out, { resume, overwrite, mayDiffer, model: modelPath(path) });
  const prompt = await promptText(asked.prompt ?? true);
  const settings = { ...asked, calibration: await calibrationChoice(asked, learning) };
  const isCalibrated = settings.calibration !== NONE;
  learningOf(asked, { isCalibrated });
  const given = (layers: number): PruneOptions => ({
    rows: [],
    prompt,
    ...(isCalibrated ? { calibration: [] } : {}),
    ...optionsOf(settings, { name, layers }),
  });
  const inputs = (): Promise<Readonly<Record<string, string>>> => inputsOf(path, settings);
  const earlier = resume ? await finishedRun(out, { given, inputs }) : null;
  if (earlier) note(`compresso: the run in ${out} is finished already`);
  else if (resume) await checkResumable(out);
  const port = settings.dashboardPort ?? (settings.dashboard ? 0 : null);
  await using dashboard = earlier || port === null ? null : await openDashboard(port, { onTrouble: note });
  // A result of its own: without it nobody finds the page.
  if (dashboard) writeError(`dashboard   ${dashboard.url}\n`);
  const summary = earlier ?? await start(path, { settings, prompt, name, dashboard });
  dashboard?.tell({ kind: "finished" });
  if (json) printJson(summary);
  else showSummary(summary, out);
}

/** Digests and names of what a run is made from. */
type Inputs = Readonly<Record<"model" | "baseDtype" | "data" | "calibration" | "schedule" | "files", string>>;

/** What a run is driven with, before its model and rows are read. */
interface Driven {
  readonly settings: ChosenSettings;
  readonly prompt: string | null;
  /** Name of the model within a GGUF. */
  readonly name: string;
  readonly dashboard: Dashboard | null;
}

async function start(path: string, driven: Driven): Promise<RunSummary> {
  const { settings } = driven, { out, memoryLimit } = settings;
  await modelInfo(disk, modelPath(path));
  await checkFolder(out);
  const { textField, limitRows, skipBroken } = settings;
  const how = given({ textField, limit: limitRows, skipBroken });
  const { rows, report: reading } = await readRows(dataPathOf(path, settings), how);
  const beside = await calibrationOf(settings);
  const { calibration } = beside, all = typeof calibration === "string" ? rows : [...rows, ...calibration ?? []];
  if (typeof settings.prompt === "string" && !settings.resume && all.every(({ kind }) => kind === "text")) {
    throw promptForTexts({
      what: `cannot train with the prompt of ${settings.prompt}`,
      fix: "leave --prompt out, or train on instructions",
    });
  }
  try {
    return await withModel(path, {
      ...settings,
      onInterrupt: "stopping after a checkpoint; once more ends at once",
      listensLater: true,
      onShape: (spec, { limits, facts: { isCpu } }) =>
        checkMemory(
          spec,
          memoryOptions(settings, { adapter: { limits, isCpu }, rules: rulesOf(settings, spec.layers.length) }),
          memoryLimit === undefined ? {} : { memoryLimit },
        ),
    }, async (loaded) => {
      const origin = await originOf({
        model: path,
        data: dataPathOf(path, settings),
        calibration: typeof calibration === "string" ? undefined : settings.calibration,
      });
      return await drive(loaded, { ...driven, rows, reading, beside, origin, inputs: await inputsOf(path, settings) });
    });
  } catch (error) {
    if (error instanceof CompressoError && error.code === "aborted" && await isResumable(out)) {
      throw new CompressoError("aborted", { ...error.parts, fix: `to go on, run: ${resumeCommand()}` });
    }
    throw error;
  }
}

function dataPathOf(path: string, { data }: Pick<PruneSettings, "data">): string {
  if (data !== undefined) return data;
  if (path === DEMO) return demoData("train");
  throw new CompressoError("usage", {
    what: "cannot prune without data",
    rule: "--data names instruction rows or texts; only demo has its own",
    fix: "add --data FILE",
    value: "no --data",
  });
}

/** What decides a run and its files beside its options. */
async function inputsOf(path: string, settings: ChosenSettings): Promise<Inputs> {
  const { baseDtype, calibration, schedule, trust, textField, limitRows, skipBroken } = settings;
  const { dtype, ggufDtype, saveAdapter } = settings;
  const data = dataPathOf(path, settings);
  try {
    return {
      model: await modelDigest(modelPath(path)),
      baseDtype: baseDtype ?? "f16",
      data: `${await fileDigest(data)} ${JSON.stringify({ textField, limitRows, skipBroken })}`,
      calibration: await calibrationName(calibration),
      schedule: await scheduleName(schedule, { trust }),
      files: JSON.stringify({ dtype, ggufDtype, saveAdapter }),
    };
  } catch (error) {
    if (!isOfPath(error)) throw error;
    throw new CompressoError("input", {
      what: "cannot tell whether the run is the same",
      rule: "model and data are there, and may be read",
      value: error.message,
      fix: "check the paths, and the rights to them",
    }, { cause: error });
  }
}

/** Name of the model within a GGUF. */
function modelName(path: string): string {
  return `${basename(resolve(modelPath(path)))} pruned by Compresso`;
}

/** What the settings say of the run itself, of a model of so many layers. */
function optionsOf(
  settings: PruneSettings,
  { name, layers }: { readonly name: string; readonly layers: number },
): Omit<PruneOptions, "rows" | "prompt"> {
  const { prefinetune, postfinetune, rank, alpha, loraTargets: targets, dropout } = settings;
  return {
    ...goalOf(settings, { name }),
    steps: settings.steps,
    ...(prefinetune === undefined ? {} : { prefinetune }),
    ...(postfinetune === undefined ? {} : { postfinetune }),
    batch: settings.batch,
    seq: settings.seq,
    seed: settings.seed,
    units: settings.units,
    rules: rulesOf(settings, layers),
    lora: { rank, alpha, targets, dropout, ...(settings.rslora ? { rsLora: true } : {}) },
    ...(settings.packing === undefined ? {} : { packing: settings.packing }),
    method: settings.method,
    ...(settings.ranking === undefined ? {} : { ranking: settings.ranking }),
    layout: settings.layout,
    ...ratesOf(settings),
  };
}

/** Which units are never cut. */
function rulesOf(
  { align, minHeads, minFfn, minHidden, minLayers, protect = [] }: PruneSettings,
  layers: number,
): NonNullable<PruneOptions["rules"]> {
  return {
    ...(align === undefined ? {} : { align }),
    // Runs that began before there was a number of layers are known without.
    minimum: { heads: minHeads, ffn: minFfn, hidden: minHidden, ...(minLayers > 0 ? { layers: minLayers } : {}) },
    // −1 is the last layer.
    protect: layersOf(protect, layers),
  };
}

async function drive(
  { model, signal, progress, listen, tune }: Loaded,
  run: Driven & {
    readonly rows: readonly Row[];
    readonly reading: DataReport;
    readonly beside: Awaited<ReturnType<typeof calibrationOf>>;
    readonly inputs: Inputs;
    readonly origin: readonly OriginFile[];
  },
): Promise<RunSummary> {
  const { settings, rows, reading, beside, prompt, inputs, origin, name, dashboard } = run;
  const { out, resume = false } = settings;
  const { prefinetune, postfinetune, rank, dtype, ggufDtype } = settings;
  const tokens = settings.batch * settings.seq;
  await tune({ rows: tokens, rank, tokens: tokens * (settings.steps + (prefinetune ?? 0) + (postfinetune ?? 0)) });
  const { tokenizer } = model;
  const hasEnds = ({ packed: isPacked }: EncodeReport): boolean =>
    tokenizer !== null && haveEnds(rows[0]?.kind ?? "text", { tokenizer, prompt, isPacked });
  progress.phase(`encoding ${formatCount(rows.length)} rows`);
  const told = new ToldAlarms(), earlier = resume ? await recordsIn(join(out, RECORDS_FILE)) : [];
  let isWriting = false, session: PruneSession | null = null;
  const tell = (alarms: readonly Alarm[]): void => {
    for (const alarm of told.fresh(alarms)) {
      progress.note(`alarm at ${alarmLine(alarm)}`);
      dashboard?.tell({ kind: "alarm", alarm });
    }
  };
  return await pruneToFolder(model, {
    ...optionsOf(settings, { name, layers: model.spec.layers.length }),
    rows,
    prompt,
    reading,
    ...beside,
    onCalibration: (share) => {
      if (!isWriting) dashboard?.tell({ kind: "state", text: "Writing texts for calibration." });
      isWriting = true;
      progress.phase("calibration texts", share);
    },
    skipBroken: settings.skipBroken ?? false,
    recompute: settings.recompute,
    ...(settings.schedule === undefined ? {} : { schedule: settings.schedule }),
    trustSchedule: settings.trust ?? false,
    onScoring: (share) => progress.phase("scoring units", share),
    onScheduleLog: (line) => progress.note(`script: ${line}`),
    ...(settings.onAlarm ? { monitors: settings.onAlarm } : {}),
    signal,
    out,
    resume,
    ...(settings.mayDiffer ? { mayDiffer: settings.mayDiffer } : {}),
    checkpointEvery: settings.checkpointEvery,
    identity: { weights: inputs.model },
    export: {
      dtype,
      ggufDtype,
      name,
      // What a run has that died as it moved its files into place is its own.
      replace: resume || (settings.overwrite ?? false),
      saveAdapter: settings.saveAdapter ?? false,
      inputs,
      origin,
      // The clock of the process began with it.
      startedAt: 0,
    },
    onReady: async () => {
      await checkSchedule(settings, inputs.schedule);
      // Not before: what is refused must not cost the earlier run.
      if (settings.overwrite) await clearRunFolder(out, { files: [settings.data, settings.calibration] });
    },
    onStart: (started, doneBefore) => {
      const { steps, data, options: { rows: _rows, ...options } } = session = started;
      listen();
      told.know(earlier, doneBefore);
      dashboard?.tell({
        kind: "started",
        folder: out,
        name: basename(resolve(out)),
        options,
        adapter: model.device.facts.description,
        origin,
      });
      const rowsLine = `${dataLine(data, settings)}${hasEnds(data) ? "" : NO_ENDS}`;
      progress.stages(stagesOf(started.options));
      progress.note(`${rowsLine}; ${steps} steps on ${model.device.facts.description}`);
      // Nothing is learned from these, wherever they are divided.
      const looked = data.calibration && { ...data.calibration, divided: 0 };
      if (looked) progress.note(`calibration: ${dataLine(looked, settings)}`);
      const heads = headsLine(model.spec, options);
      if (heads !== null) progress.note(heads);
      if (doneBefore > 0) progress.note(`going on after step ${doneBefore}`);
    },
    ...(dashboard
      ? { onMasks: (step: number, masks: MaskSummary) => dashboard.tell({ kind: "masks", step, masks }) }
      : {}),
    onRecord: (record) => {
      progress.step(record);
      tell(record.alarms);
    },
    onPhase: (phase, share) => {
      const text = phase === "slice" ? "checking the sliced model" : "writing the files";
      if (share === 0) {
        // No record has those of masks that become hard after the last step.
        if (phase === "slice") tell(session?.result().alarms ?? []);
        dashboard?.tell({ kind: "state", text: `All steps are done: ${text}.` });
      }
      progress.phase(text, share);
    },
  });
}

/** The command that goes on with this run, as the user typed it. */
function resumeCommand(): string {
  const words = Deno.args.filter((word) => !["--overwrite", "--resume"].includes(word)), end = words.indexOf("--");
  return [programAsRun(), ...words.toSpliced(end < 0 ? words.length : end, 0, "--resume").map(shellWord)].join(" ");
}
