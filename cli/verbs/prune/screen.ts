// What a run shows while it works: progress and notes on stderr, and the dashboard.
import { basename, resolve } from "node:path";
import type { EncodeReport } from "../../../lib/data/encode_report.ts";
import { haveEnds } from "../../../lib/data/prompts/encode.ts";
import type { Row } from "../../../lib/data/rows.ts";
import type { StepRecord } from "../../../lib/run/contract.ts";
import { heldText, type HeldType } from "../../../lib/run/memory/held.ts";
import { stagesOf } from "../../../lib/run/methods/stages.ts";
import type { Alarm } from "../../../lib/run/monitors/alarm.ts";
import { ShownAlarms } from "../../../lib/run/monitors/shown_alarms.ts";
import { type AskedShape, choiceLines } from "../../../lib/run/options/fitting.ts";
import type { ResolvedOptions } from "../../../lib/run/options/options.ts";
import type { PartSeconds } from "../../../lib/run/parts_of_time.ts";
import type { PruneToFolderOptions } from "../../../lib/run/prune_to_folder.ts";
import type { RunPhase } from "../../../lib/run/run_into.ts";
import type { PruneSession } from "../../../lib/run/session.ts";
import type { OriginFile } from "../../../lib/slice/export_options.ts";
import type { MpiRanks } from "../../../lib/ranks/mpi.ts";
import type { Opened } from "../../with_model.ts";
import { alarmLine } from "./alarms.ts";
import type { Dashboard } from "./dashboard/dashboard.ts";
import { dataLine, NO_ENDS } from "./data_line.ts";
import { layoutLines } from "./layout_lines.ts";
import { forecastLine } from "./time_lines.ts";
import { headsLine } from "./targets.ts";

const PHASES: Readonly<Record<RunPhase, string>> = {
  measure: "measuring the model as it is",
  slice: "checking the sliced model",
  export: "writing the files",
};

/** The functions by which a run says what it does. */
type Shown = Pick<
  PruneToFolderOptions,
  "onStart" | "onRecord" | "onPhase" | "onCalibration" | "onScoring" | "onScheduleLog" | "onMasks" | "onDealt"
>;

/** Shows a run. `earlier` are the records of the run that is resumed. */
export function showRun(
  { model, progress, listen }: Opened,
  { out, asked, resolved, rows, origin, held, forecast, dashboard, ranks, earlier }: {
    readonly out: string;
    /** The options that were given. */
    readonly asked: AskedShape;
    readonly resolved: ResolvedOptions;
    readonly rows: readonly Row[];
    readonly origin: readonly OriginFile[];
    /** Types of the matrices of a base of the file's blocks. */
    readonly held: readonly HeldType[] | null;
    readonly forecast: PartSeconds | undefined;
    readonly dashboard: Dashboard | null;
    readonly ranks: MpiRanks | null;
    readonly earlier: readonly StepRecord[];
  },
): Shown {
  const shown = new ShownAlarms();
  let isWriting = false, session: PruneSession | null = null;
  const showAlarms = (alarms: readonly Alarm[]): void => {
    for (const alarm of shown.fresh(alarms)) {
      progress.note(`alarm at ${alarmLine(alarm)}`);
      dashboard?.tell({ kind: "alarm", alarm });
    }
  };
  const noteRun = ({ steps, data, options, expected }: PruneSession): void => {
    const places = ranks ? `${ranks.size} ranks, rank 0 on ` : "", { tokenizer } = model;
    const hasEnds = ({ packed: isPacked }: EncodeReport): boolean =>
      tokenizer !== null && haveEnds(rows[0]?.kind ?? "text", { tokenizer, prompt: resolved.prompt, isPacked });
    const rowsLine = `${dataLine(data, resolved)}${hasEnds(data) ? "" : NO_ENDS}`;
    progress.note(`${rowsLine}; ${steps} steps on ${places}${model.device.facts.description}`);
    if (data.calibration) progress.note(`calibration: ${dataLine(data.calibration, resolved)}`);
    const heads = headsLine(model.source.spec, options);
    const choices = choiceLines(model.source.spec, asked, options);
    for (
      const line of [...choices, ...heads === null ? [] : [heads], ...layoutLines(model.source.spec, options, expected)]
    ) {
      progress.note(line);
    }
    if (held) progress.note(`weights: ${heldText(held)}`);
    if (forecast) progress.note(forecastLine(forecast));
  };
  return {
    onCalibration(share): void {
      if (!isWriting) dashboard?.tell({ kind: "state", text: "Writing texts for calibration." });
      isWriting = true;
      progress.phase("calibration texts", share);
    },
    onScoring: (share) => progress.phase("scoring units", share),
    onScheduleLog: (line) => progress.note(`script: ${line}`),
    onStart(started, doneBefore): void {
      // A sweep starts a session for each sparsity; what all of them share is said once.
      const isFirst = session === null;
      if (isFirst) noteRun(started);
      session = started;
      const { rows: _rows, ...options } = started.options, { description: adapter } = model.device.facts;
      listen();
      shown.know(earlier, doneBefore);
      dashboard?.tell({ kind: "started", folder: out, name: basename(resolve(out)), options, adapter, origin });
      progress.stages(stagesOf(options));
      // Later sessions of a sweep continue the one before, which nobody resumed.
      if (isFirst && doneBefore > 0) progress.note(`resuming after step ${doneBefore}`);
      progress.phase("compiling kernels");
    },
    onRecord(record): void {
      progress.step(record);
      showAlarms(record.alarms);
    },
    onPhase(phase, share): void {
      const text = PHASES[phase];
      if (share === 0 && phase !== "measure") {
        // Alarms of masks that become hard after the last step are in no record.
        if (phase === "slice") showAlarms(session?.result().alarms ?? []);
        dashboard?.tell({ kind: "state", text: `All steps are done: ${text}.` });
      }
      progress.phase(text, share);
    },
    onDealt: ranks ? (counts) => progress.note(dealtLine(counts)) : undefined,
    onMasks: dashboard ? (step, masks) => dashboard.tell({ kind: "masks", step, masks }) : undefined,
  };
}

function dealtLine(counts: readonly number[]): string {
  return `micro-batches dealt again by the ranks' times: ${counts.join(", ")}`;
}
