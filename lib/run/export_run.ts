// Writes a finished run: the sliced model in its formats, records.jsonl and, last, run.json.
import { nameOfMethod } from "./methods/all.ts";
import { VERSION } from "../core/version.ts";
import { withoutUndefined } from "../core/check_options.ts";
import { type FileSystem, writeFile } from "../files/system.ts";
import { keptGeneration } from "../formats/hf/model.ts";
import type { OpenedModel } from "../model/opened.ts";
import { stageModel } from "../slice/export.ts";
import {
  checkSessionExport,
  type ExportOptions,
  FORMATS,
  ggufDtypeFor,
  type SessionExportOptions,
} from "../slice/export_options.ts";
import { shapeWritten } from "../slice/layouts.ts";
import type { RunPosition, StepRecord } from "./contract.ts";
import type { FinishedRun } from "./finish.ts";
import type { SavedScores } from "./experts/scores_file.ts";
import { SCORES_FILE, SUMMARY_FILE, VOCABULARY_FILE } from "./folder.ts";
import { runCard } from "./run_card.ts";
import { warningsOf } from "./warnings.ts";
import type { RunHooks } from "./hooks.ts";
import { fileBytes, maskSummary, modelBefore, withSmallerTypes } from "./mask_summary.ts";
import { isGguf } from "./options/fitting.ts";
import type { ResolvedOptions } from "./options/options.ts";
import type { PartTimer } from "./parts_of_time.ts";
import { recordsFor } from "./record_lines.ts";
import type { RunSummary } from "./result.ts";
import { cutsNothing } from "../units/kinds/all.ts";
import { checkExportSize, exportDefaults, GGUF_NAME } from "./size_goal.ts";

/** A run that is to be written. */
export interface RunToWrite {
  readonly model: OpenedModel;
  /** The model as it was given: `model` itself, or what its vocabulary was cut from. */
  readonly dense: OpenedModel;
  /** Ids that the vocabulary keeps; null if it was not cut. */
  readonly kept: Int32Array | null;
  /** What was measured of the experts; absent if they are not cut. */
  readonly scores?: () => SavedScores;
  readonly files: FileSystem;
  readonly options: ResolvedOptions;
  readonly hooks: RunHooks;
  /** Records of this session. */
  readonly records: readonly StepRecord[];
  /** Where a resumed run stood when it was resumed. */
  readonly before: Pick<RunPosition, "step" | "recent">;
  /** Whether model files are written; default true. Records and run.json always are. */
  readonly writesModel?: boolean;
  /** When the session began. */
  readonly startedAt: number;
  /** Times of the run's parts until now. */
  readonly timer: PartTimer;
  /** Sequences of token ids to measure the importance of columns on. */
  readonly sequences: () => number[][];
  /** Slices the model if that was not done yet. */
  readonly finish: () => Promise<FinishedRun>;
  readonly signal: AbortSignal;
}

/** Writes the files; see `PruneSession.export`. Returns what run.json holds. */
export async function exportRun(dir: string, asked: SessionExportOptions, run: RunToWrite): Promise<RunSummary> {
  const { model, dense, files, options, hooks, signal } = run;
  checkSessionExport(asked);
  checkExportSize(options.size, asked);
  const { saveAdapter = false, ggufImatrix = false, inputs = {}, origin = [], ...more } = withoutUndefined(asked);
  const { startedAt = run.startedAt, command = null, forecast = null, ...others } = more;
  const { generation: own, formats = FORMATS, ...written } = others,
    generation = { ...keptGeneration(model.source), ...own };
  signal.throwIfAborted();
  run.timer.add("reading", (run.startedAt - startedAt) / 1000);
  const { sliced, result, quality, vocabulary, experts = null, peakGpuBytes } = await run.finish();
  const writingFrom = performance.now();
  const { heldout: heldoutLoss, ...evaluation } = quality, measured = { heldoutLoss, evaluation, vocabulary };
  const warnings = warningsOf(measured);
  await files.makeFolder(dir);
  await hooks.beforeExport?.(dir);
  const sized = exportDefaults(options.size);
  // Chosen by the original model, not by the sliced weights.
  const ggufDtype = sized.ggufDtype ?? ggufDtypeFor(dense.source, written);
  const ggufImportance: ExportOptions["ggufImportance"] = async (source, signal) => {
    const { measureImportance } = await import("../slice/importance.ts");
    const { batch, seq } = options, shape = { window: seq, rows: batch * seq };
    return await measureImportance(source, { device: model.device, tokens: run.sequences(), ...shape, signal });
  };
  const how = {
    layout: options.layout,
    name: GGUF_NAME,
    tokenizer: model.tokenizer,
    ...sized,
    ...written,
    ...(formats.includes("gguf") && written.ggufSize === undefined ? { ggufDtype } : {}),
    formats,
    ...(ggufImatrix ? { ggufImportance } : {}),
    ...(formats.includes("hf") ? { generation } : {}),
    files,
    signal,
    provenance: model.source.provenance,
    card: runCard({ options, origin, command, sliced, result, quality, vocabulary, experts, warnings }),
  };
  const { layout, dtype = "f16", tokenizer, replace = false } = how, { masks, lora } = result;
  // PEFT loads a model that was not cut as it is, unless it is a GGUF.
  const isWhole = cutsNothing(options.units) && !isGguf(dense.source);
  const given = isWhole ? { name: origin.find(({ role }) => role === "model")?.name ?? null } : undefined;
  const recordsPath = `${dir}/records.jsonl`;
  const records = await recordsFor(recordsPath, run.records, { replace, before: run.before.recent, files });
  // All files are written before any is moved: the folder may contain the model that is being read.
  using staged = (run.writesModel ?? true) ? await stageModel(sliced.source, dir, how) : null;
  const ofAdapter = { masks, lora, layout, given, dtype, tokenizer, generation, replace, files, signal };
  using adapter = saveAdapter
    ? await (await import("../slice/export_adapter.ts")).stageAdapter(result.source, dir, ofAdapter)
    : null;
  await staged?.commit();
  await adapter?.commit();
  if (run.kept) await writeFile(files, `${dir}/${VOCABULARY_FILE}`, `${JSON.stringify({ kept: [...run.kept] })}\n`);
  else await files.remove(`${dir}/${VOCABULARY_FILE}`);
  if (run.scores) await writeFile(files, `${dir}/${SCORES_FILE}`, `${JSON.stringify(run.scores())}\n`);
  else await files.remove(`${dir}/${SCORES_FILE}`);
  if (records !== null) await writeFile(files, recordsPath, records);
  const { loadableBy, skipped, parameters, fellBack, ggufDtype: writtenDtype } = staged?.result ??
    { loadableBy: [], skipped: [], parameters: sliced.parameters.after, fellBack: [], ggufDtype: null };
  run.timer.add("writing", (performance.now() - writingFrom) / 1000);
  const { rows: _rows, ...plain } = options, { maxAbs, range } = sliced.maskedVsSliced;
  const summary: RunSummary = {
    sparsity: result.sparsity,
    undecided: result.undecided,
    validation: result.validation,
    parameters: sliced.parameters,
    writtenParameters: parameters,
    ggufDtype: writtenDtype,
    fellBack: fellBack.length,
    size: sliced.size,
    layers: sliced.spec.layers,
    hidden: sliced.spec.hidden,
    maskedVsSliced: { maxAbs, range },
    ...measured,
    experts,
    seconds: result.seconds,
    parts: { seconds: run.timer.seconds, predicted: forecast },
    wallSeconds: (performance.now() - startedAt) / 1000,
    resumedAfter: run.before.step,
    tokensPerSecond: result.tokensPerSecond,
    peakGpuBytes,
    plannedGpuBytes: result.plannedGpuBytes,
    alarms: result.alarms,
    warnings,
    changes: result.changes,
    adapter: model.device.facts.description,
    versions: { compresso: VERSION, deno: runtimeVersion() },
    data: result.data,
    options: { ...plain, method: nameOfMethod(options.method) },
    inputs,
    origin,
    before: modelBefore(dense.source),
    masks: maskSummary(model.source.spec, result.masks),
    fileBytes: withSmallerTypes(await fileBytes(loadableBy.map(({ file }) => file), files), {
      spec: shapeWritten(sliced.spec, layout),
      content: { tokenizer, name: how.name, provenance: how.provenance },
    }),
    files: [...loadableBy, ...adapter?.loadableBy ?? []],
    skipped: skipped.map(({ format, error }) => ({ format, reason: error.message })),
  };
  await writeFile(files, `${dir}/${SUMMARY_FILE}`, JSON.stringify(summary, null, 2) + "\n");
  await hooks.afterExport?.(dir);
  return summary;
}

/** Version of Deno; elsewhere what the browser calls itself. */
function runtimeVersion(): string {
  const { userAgent } = navigator;
  return userAgent.startsWith("Deno/") ? userAgent.slice("Deno/".length) : userAgent;
}
