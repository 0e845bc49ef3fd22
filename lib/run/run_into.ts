// Runs all of a prune run into a sink: calibration texts, the cut of the vocabulary, the steps, and the end.
import { type CompressoError, option, refusal } from "../core/errors.ts";
import type { Row } from "../data/rows.ts";
import { type SelfDataOptions, SilenceError } from "../generate/self_data.ts";
import type { Model } from "../model/model.ts";
import type { OpenedModel } from "../model/opened.ts";
import type { WeightSource } from "../spec/source.ts";
import { sourceDigest } from "../spec/source_digest.ts";
import { calibrationDefault, calibrationTexts, writeCalibration } from "./calibration.ts";
import type { StepRecord } from "./contract.ts";
import { refuseReading } from "./data.ts";
import type { CheckpointOptions, PruneOptions, ResolvedOptions, RunOptions, Target } from "./options/options.ts";
import { checkRowsOr, resolveOptions, trainsNothing } from "./options/resolve.ts";
import { measuredSequences, type TaskLoader } from "./quality.ts";
import { PruneSession } from "./session.ts";
import type { RunOfMany } from "./shared_work.ts";
import type { RunSink } from "./sink/sink.ts";
import type { SessionExportOptions } from "../slice/export_options.ts";
import { cutsExperts } from "../units/kinds/all.ts";
import type { CutForRun } from "./vocabulary.ts";

/**
 * What a run does before and after its steps: `measure` measures the given model if its vocabulary is cut; `slice`
 * compares the masked and the sliced model; `export` writes the files.
 */
export type RunPhase = "measure" | "slice" | "export";

/** Options of {@link runInto} in addition to those of `prune`. */
export interface SinkOptions {
  /**
   * Calibration rows.
   *
   * - Rows, as for `prune`.
   * - "own": texts that the model writes before the run, see `writeCalibration`. The default for masks learned from
   *   saliency with a prior.
   * - "none": the default otherwise.
   *
   * A resumed run uses the texts that its model wrote, if any.
   */
  readonly calibration?: PruneOptions["calibration"] | "own" | "none" | undefined;
  /** Called while the model writes calibration texts, with the share that is written, 0 to 1. */
  readonly onCalibration?: ((share: number) => void) | undefined;
  /**
   * Further facts that must be equal on resuming. `weights`, which identifies the model, is by default a digest of some
   * weights.
   */
  readonly identity?: CheckpointOptions["identity"] | undefined;
  /** Dtypes and names of the files. */
  readonly export?: SessionExportOptions | undefined;
  /** Called when the run is ready, before the first step, with the steps that a resumed run had done. */
  readonly onStart?: ((session: PruneSession, doneBefore: number) => unknown) | undefined;
  /** Called for every step; the next step waits for it. See {@link StepRecord.step} for rollbacks. */
  readonly onRecord?: ((record: StepRecord) => unknown) | undefined;
  /** Called before and during each {@link RunPhase}, with the share that is done, 0 to 1. */
  readonly onPhase?: ((phase: RunPhase, share: number) => void) | undefined;
}

/** Options of a run into a sink. */
export type RunIntoOptions = Omit<RunOptions, "checkpoint" | "calibration"> & Target & SinkOptions;

/**
 * Prunes a model from the first step to the end, and gives the result to the sink. With the unit "vocab" the vocabulary
 * is cut first; with that unit alone, the steps train LoRA on the cut vocabulary, and without steps nothing is trained.
 *
 * @throws what iterating a {@link PruneSession} and the sink do.
 */
export async function runInto<Result>(
  sink: RunSink<Result>,
  dense: Model,
  options: RunIntoOptions,
  ofMany: RunOfMany = {},
): Promise<Result> {
  const { identity, export: _, calibration: asked, onStart, onRecord, onPhase, onCalibration, ...run } = options;
  const known = knownOptions(dense.source, options, ofMany);
  if (cutsExperts(known.units)) return await cutExpertsInto(sink, dense, options, ofMany);
  const { resolved, rows, isWritten } = await calibrationOf(known, { sink, asked, run });
  const isAlone = trainsNothing(resolved), weights = isAlone || await weightsOf(dense, identity);
  using vocabulary = await vocabularyOf(dense, resolved, {
    ...{ ...run, onPhase, loadTasks: sink.platform.loadTasks },
    measures: ofMany.measures ?? true,
  });
  if (isAlone && vocabulary) {
    if (sink.checkpoint?.resume) throw nothingToResume();
    const { cutAlone } = await import("./cut_alone.ts");
    const done = cutAlone(vocabulary, { original: run, resolved, platform: sink.platform });
    await sink.begin({ doneBefore: null, texts: [] });
    return await sink.end(done);
  }
  const model = vocabulary?.model ?? dense, texts: Row[] = [];
  const facts = { ...identity, weights, ...(vocabulary ? { vocabulary: vocabulary.digest } : {}) };
  using session = new PruneSession(model, {
    ...run,
    calibration: rows,
    checkpoint: sink.checkpoint ? { ...sink.checkpoint, identity: facts } : undefined,
  }, {
    ...sink.platform,
    resolved,
    vocabulary: vocabulary ?? undefined,
    ofMany,
    calibrate: !isWritten ? undefined : async (how) => {
      texts.push(...await writeOwnTexts(model, resolved, { ...how, ranks: run.ranks, onProgress: onCalibration }));
      return texts;
    },
  });
  const { steps: doneBefore } = await session.prepare();
  await sink.begin({ doneBefore, texts });
  await onStart?.(session, doneBefore);
  for await (const record of session) {
    await sink.add(record);
    await onRecord?.(record);
  }
  return await sink.end(session);
}

/**
 * Cuts experts of a model that need not be loaded, and gives the result to the sink. Nothing is trained.
 *
 * @throws as {@link runInto}.
 */
export async function cutExpertsInto<Result>(
  sink: RunSink<Result>,
  model: OpenedModel,
  options: RunIntoOptions,
  ofMany: RunOfMany = {},
): Promise<Result> {
  const { identity: _, export: _files, calibration: asked, onStart: _start, onRecord: _record, ...others } = options;
  const { onPhase, onCalibration: _written, ...run } = others;
  if (sink.checkpoint?.resume) throw nothingToResume();
  const known = knownOptions(model.source, options, ofMany);
  if (!cutsExperts(known.units)) throw notLoaded(known);
  const { resolved } = await calibrationOf(known, { sink, asked, run });
  const onMeasured = (share: number): void => onPhase?.("measure", share);
  const { cutExpertsAlone } = await import("./experts/cut.ts");
  const done = await cutExpertsAlone(model, { original: run, resolved, platform: sink.platform, onMeasured });
  await sink.begin({ doneBefore: null, texts: [] });
  return await sink.end(done);
}

/** The options with all defaults. The caller may have resolved them before it read the rows. */
function knownOptions(source: WeightSource, options: RunIntoOptions, { resolved }: RunOfMany): ResolvedOptions {
  if (resolved) return { ...resolved, rows: options.rows };
  const { identity: _, onStart: _start, onRecord: _record, onPhase: _phase, onCalibration: _written, ...run } = options;
  return resolvedFor(source, run);
}

async function weightsOf(model: Model, identity: SinkOptions["identity"]): Promise<string | number | boolean | null> {
  return identity?.["weights"] ?? await sourceDigest(model.source);
}

/** Cuts the vocabulary, where it is among the units. */
async function vocabularyOf(
  dense: Model,
  resolved: ResolvedOptions,
  { evaluate, vocab, valRows, signal, onPhase, loadTasks, measures }:
    & Pick<RunOptions, "evaluate" | "vocab" | "valRows" | "signal">
    & { readonly onPhase: SinkOptions["onPhase"] | undefined; readonly loadTasks: TaskLoader | null }
    & Pick<Required<RunOfMany>, "measures">,
): Promise<CutForRun | null> {
  if (!resolved.vocab) return null;
  const { cutForRun } = await import("./vocabulary.ts");
  return await cutForRun(dense, {
    options: resolved,
    evaluation: evaluate,
    rows: vocab?.rows,
    valRows,
    loadTasks,
    sequences: measures ? measuredSequences(resolved) : 0,
    signal,
    onMeasured: (share) => onPhase?.("measure", share),
  });
}

/**
 * The options of a run into a sink with all defaults, as its model and its files give them. Throws as `resolveOptions`
 * does.
 */
export function resolvedFor(
  source: WeightSource,
  { calibration: asked, export: { ggufDtype, ggufSize, dtype, formats } = {}, ...run }:
    & Omit<PruneOptions, "calibration">
    & Target
    & Pick<SinkOptions, "calibration" | "export">,
): ResolvedOptions {
  checkRowsOr(asked, ["own", "none"]);
  const named = asked === undefined || asked === "none" ? {} : { calibration: asked === "own" ? [] : asked };
  return resolveOptions({ ...run, ...named }, source.spec, { source, ggufDtype, ggufSize, dtype, formats });
}

/**
 * The options with what is known of calibration, and its rows: given ones, or those of the resumed run. With `isWritten`
 * the model writes them later.
 */
async function calibrationOf(
  resolved: ResolvedOptions,
  { sink, asked, run }: {
    readonly sink: Pick<RunSink<unknown>, "checkpoint" | "hasTexts" | "texts">;
    readonly asked: SinkOptions["calibration"];
    readonly run: PruneOptions;
  },
): Promise<{
  readonly resolved: ResolvedOptions;
  readonly rows: PruneOptions["calibration"];
  readonly isWritten: boolean;
}> {
  const how = { resume: sink.checkpoint?.resume ?? false, areThere: sink.hasTexts };
  const choice = asked ?? (trainsNothing(resolved) ? "none" : calibrationDefault(resolved, how));
  if (typeof choice === "string") refuseReading(run);
  const own = choice === "own" ? await sink.texts() : null;
  return {
    resolved: { ...resolved, calibration: choice !== "none" },
    rows: typeof choice === "string" ? own ?? undefined : choice,
    isWritten: choice === "own" && own === null,
  };
}

/** Lets the model write its calibration texts. */
async function writeOwnTexts(
  model: Model,
  options: ResolvedOptions,
  how: Pick<SelfDataOptions, "cacheBytes" | "ranks" | "signal" | "onProgress">,
): Promise<readonly Row[]> {
  try {
    return await writeCalibration(model, { tokens: options.seq, count: calibrationTexts(options), ...how });
  } catch (error) {
    if (!(error instanceof SilenceError)) throw error;
    const fix = `give texts by ${option("calibration")}, or take ${option("calibration", "none")}`;
    throw error.with({ fix });
  }
}

function notLoaded({ units }: Pick<ResolvedOptions, "units">): CompressoError {
  return refusal("usage", "cannot prune this model", {
    rule: "a model is loaded, unless experts are cut",
    value: units.join(","),
    fix: "load it by loadModel",
    option: "units",
  });
}

function nothingToResume(): CompressoError {
  return refusal("usage", "cannot resume a run that trains nothing", {
    rule: "a run without steps saves nothing on the way",
    value: option("resume"),
    fix: `leave ${option("resume")} out`,
    option: "resume",
  });
}
