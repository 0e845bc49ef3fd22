// One cell: prunes a model, then measures the result.
import { CompressoError } from "../core/errors.ts";
import { openModelFiles } from "../local/open_model.ts";
import { loadModelFrom, type Model } from "../model/model.ts";
import type { Alarm } from "../run/monitors/alarm.ts";
import { ShownAlarms } from "../run/monitors/shown_alarms.ts";
import { originOf } from "../run/origin.ts";
import { pruneToFolder } from "../run/prune_to_folder.ts";
import type { RunPhase } from "../run/run_into.ts";
import { promptForTexts } from "../run/data.ts";
import type { StepRecord } from "../run/contract.ts";
import { spellMeasure } from "./failure.ts";
import type { SourceRows } from "./rows.ts";
import { missingOf, type Store } from "./store.ts";
import type { DataSource, Measure, PlannedCell } from "./types.ts";

/** How a program follows a cell. */
export interface CellEvents {
  /** Called for every step. */
  readonly onRecord?: ((record: StepRecord) => void | Promise<void>) | undefined;
  /** Called for every alarm, once. */
  readonly onAlarm?: ((alarm: Alarm) => void) | undefined;
  /** Called during other work, with its share done where known. */
  readonly onPhase?: ((text: string, share?: number) => void) | undefined;
  /** Stops the work; a run saves itself first. */
  readonly signal?: AbortSignal | undefined;
}

/** Steps between two checkpoints. */
const CHECKPOINT_EVERY = 50;

/**
 * Runs a cell up to its pruned model: from its checkpoint where there is one, or from the start with `restarts`. That removes the cell's earlier files, once
 * all checks of the run have passed, when `onBegin` is called.
 */
export async function pruneCell(
  cell: PlannedCell,
  model: Model,
  { rows, calibration, heldOut, store, events, restarts, onBegin }: {
    readonly rows: SourceRows;
    readonly calibration: SourceRows | null;
    readonly heldOut: SourceRows | null;
    readonly store: Store;
    readonly events: CellEvents;
    readonly restarts: boolean;
    readonly onBegin: () => void;
  },
): Promise<void> {
  const { folder, prune, identity } = cell, shown = new ShownAlarms();
  const resume = !restarts && await store.isResumable(folder), earlier = resume ? await store.records(folder) : [];
  if (!resume) refusePrompt(cell, rows);
  const origin = await originOf({
    model: cell.model.path,
    data: fileOf(cell.source),
    calibration: cell.calibration && fileOf(cell.calibration),
  });
  const showNew = (alarms: readonly Alarm[]): void => {
    for (const alarm of shown.fresh(alarms)) events.onAlarm?.(alarm);
  };
  const { alarms } = await pruneToFolder(model, {
    ...prune,
    ...rows,
    calibration: calibration?.rows ?? "none",
    ...(calibration ? { calibrationReading: calibration.reading } : {}),
    valRows: heldOut?.rows,
    out: store.cell(folder),
    checkpointEvery: CHECKPOINT_EVERY,
    resume,
    async onReady(): Promise<void> {
      if (restarts) await store.begin(folder, identity, { restarts });
      onBegin();
    },
    identity: { weights: cell.model.weights },
    // The folder alone is measured; a GGUF would hold the same weights.
    export: { formats: ["hf"], replace: true, origin },
    signal: events.signal,
    onStart: (_, doneBefore) => shown.know(earlier, doneBefore),
    async onRecord(record): Promise<void> {
      await events.onRecord?.(record);
      showNew(record.alarms);
    },
    onScoring: (share) => events.onPhase?.("scoring units", share),
    onPhase: (phase, share) => events.onPhase?.(PHASES[phase], share),
  });
  // Alarms of masks that become hard after the last step are in no record.
  showNew(alarms);
}

const PHASES: Readonly<Record<RunPhase, string>> = {
  measure: "measuring the model before",
  slice: "comparing the sliced model with the masked one",
  export: "writing the model",
};

/** The file of a source, of answers that of the instructions; null for texts that a model writes. */
function fileOf(source: DataSource): string | null {
  if (typeof source === "string") return source;
  if ("answers" in source) return source.answers.file;
  return "generate" in source ? null : source.file;
}

/** Texts get no prompt: a cell with one would equal the run without. Throws `CompressoError("usage")`. */
function refusePrompt({ options: { prompt } }: PlannedCell, { rows }: SourceRows): void {
  if (prompt === undefined || prompt === false || rows.some(({ kind }) => kind !== "text")) return;
  throw promptForTexts({
    what: "cannot train with a prompt",
    fix: "set prompt to false for them, in a grid of their own",
  });
}

/**
 * Takes the missing measures of a cell's pruned model, with the tokenizer of the model that it was made from, or its own
 * where the vocabulary was cut.
 */
export async function measureCell(
  cell: PlannedCell,
  base: Pick<Model, "device" | "tokenizer">,
  { store, measures, events }: {
    readonly store: Store;
    readonly measures: readonly Measure[];
    readonly events: CellEvents;
  },
): Promise<void> {
  const dir = store.cell(cell.folder), missing = missingOf(measures, await store.measured(dir));
  if (missing.length === 0) return;
  const { source, tokenizer } = await openModelFiles(store.model(cell.folder));
  using pruned = await loadModelFrom(source, {
    device: base.device,
    tokenizer: cell.prune.units?.includes("vocab") ? tokenizer : base.tokenizer,
    baseDtype: cell.model.baseDtype,
    signal: events.signal,
  });
  await takeMeasures(pruned, missing, { dir, store, events });
}

/** Takes measures one by one; each is on disk before the next begins. */
export async function takeMeasures(
  model: Model,
  measures: readonly Measure[],
  { dir, store, events }: { readonly dir: string; readonly store: Store; readonly events: CellEvents },
): Promise<void> {
  for (const measure of measures) {
    events.signal?.throwIfAborted();
    const values = await measure.take(model, {
      signal: events.signal,
      onProgress: (share) => events.onPhase?.(`measuring ${measure.id}`, share),
    }).catch((error) => {
      // A stop on purpose is no failure of the measure.
      if (!(error instanceof CompressoError) || error.code === "aborted") throw error;
      throw error.with({ spell: spellMeasure, at: `measure ${measure.id}` });
    });
    await store.addMeasured(dir, measure, values);
  }
}
