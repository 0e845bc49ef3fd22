// Cuts the vocabulary of a model into a folder, without training.
import { withoutUndefined } from "../core/check_options.ts";
import { CompressoError, option } from "../core/errors.ts";
import { makeFolder, removeLeftovers } from "../files/atomic.ts";
import { FolderLock } from "../files/lock.ts";
import type { Model } from "../model/model.ts";
import type { VerifyResult } from "../slice/verify.ts";
import { parameterCount } from "../spec/decoder.ts";
import { checkFiles } from "./check_files.ts";
import { encodeRun } from "./data.ts";
import { sequencesToMeasure } from "./calibration.ts";
import { exportRun } from "./export_run.ts";
import { checkResumable, RECORDS_FILE, refuseEarlierRun, RUN_FILES } from "./folder.ts";
import type { FolderOptions } from "./prune_to_folder.ts";
import type { WantedSize } from "./contract.ts";
import { atPaths, checkOptions, FOLDER_PATHS, PRUNE_PATHS, valueAt } from "./options/check.ts";
import type { AskedOptions, RunOptions } from "./options/options.ts";
import { resolveOptions } from "./options/resolve.ts";
import { ON_DISK } from "./prune.ts";
import { compareQuality, measureQuality, qualityData } from "./quality.ts";
import type { RunSummary } from "./result.ts";
import { reachedSize } from "./size_goal.ts";
import { type CutForRun, cutForRun } from "./vocabulary.ts";

/** Options of {@link cutVocabularyToFolder}. */
export interface VocabularyToFolderOptions extends
  Pick<
    RunOptions,
    "rows" | "vocab" | "prompt" | "seq" | "layout" | "evaluate" | "reading" | "skipBroken" | "hooks" | "signal"
  >,
  Pick<FolderOptions, "out" | "export" | "resume" | "onReady" | "onPhase"> {
  /** Size that the model has at most, instead of `vocab.size`. */
  readonly size?: WantedSize | undefined;
}

/** Tokens of the held-out sequence on which logits are compared. */
const COMPARED = 32;

/**
 * Chooses the tokens, cuts, compares the logits of kept tokens with those of the model as it was given, and writes the
 * files of a run without steps. Throws as `pruneToFolder`.
 */
export async function cutVocabularyToFolder(
  dense: Model,
  asked: VocabularyToFolderOptions,
): Promise<RunSummary> {
  checkOptions(asked, FOLDER_PATHS, { whose: "cutVocabularyToFolder" });
  refuseIdle(asked);
  const { out, resume = false, export: wanted = {}, onReady, onPhase } = asked;
  const paths = PRUNE_PATHS.filter((path) => path !== "calibration" && path !== "steps");
  const chosen = atPaths(paths.map((path) => [path, valueAt(asked, path)]));
  const options: AskedOptions = { ...chosen, rows: asked.rows, units: ["vocab"], steps: 0 };
  const startedAt = performance.now(), { files: system } = ON_DISK;
  const resolved = resolveOptions(options, dense.spec, {
      source: dense.source,
      ...withoutUndefined({ ggufDtype: wanted.ggufDtype, dtype: wanted.dtype }),
    }),
    { size, units, layout, seq } = resolved;
  const files = { startedAt, ...wanted };
  checkFiles(files, { size: options.size, layout: files.layout ?? layout, model: dense });
  using lock = new FolderLock(out);
  await lock.check();
  // Nothing is saved on the way: there is no checkpoint, which this says.
  if (resume === true) await checkResumable(out);
  if (!files.replace) await refuseEarlierRun(out);
  const signal = options.signal ?? new AbortController().signal;
  using cut = await cutForRun(dense, {
    options: resolved,
    evaluation: options.evaluate,
    rows: options.vocab?.rows,
    signal,
    onMeasured: (share) => onPhase?.("measure", share),
  });
  const { model, kept } = cut, { spec, tokenizer, source } = model;
  const data = encodeRun(model, resolved, options);
  await makeFolder(out);
  await lock.take();
  await onReady?.();
  await makeFolder(out);
  if (lock.isHeld) await removeLeftovers(out, [...RUN_FILES, RECORDS_FILE]);
  onPhase?.("slice", 0);
  const compared = await compareKept(cut, data.heldout[0] ?? [], signal);
  const evaluation = options.evaluate, none = { heldout: [], heldoutLabels: [] };
  const measures = await qualityData(model, none, {
    seq,
    evaluation: withoutUndefined({ ...evaluation, text: undefined }),
    loadTasks: ON_DISK.loadTasks,
    signal,
  });
  const measured = await measureQuality(model, measures, { adapters: {}, signal });
  const quality = compareQuality(measures, { ...measured, tasks: cut.tasks }, measured);
  const vocabulary = await cut.summary({}, signal);
  onPhase?.("export", 0);
  return await exportRun(out, {
    ...files,
    onProgress: (share) => {
      wanted.onProgress?.(share);
      onPhase?.("export", share);
    },
  }, {
    model,
    dense,
    kept,
    files: system,
    options: resolved,
    hooks: options.hooks ?? {},
    records: [],
    sequences: () => sequencesToMeasure(data, resolved),
    before: { step: 0, recent: [] },
    startedAt,
    signal,
    finish: () =>
      Promise.resolve({
        sliced: {
          source,
          spec,
          parameters: { before: parameterCount(dense.spec), after: parameterCount(spec) },
          size: size && reachedSize(spec, size, { tokenizer, units, provenance: source.provenance }),
          maskedVsSliced: compared,
        },
        result: {
          source,
          masks: {},
          lora: { ...resolved.lora, weights: new Map() },
          sparsity: { target: 0, expected: 0, hard: 0 },
          undecided: null,
          data: data.report,
          seconds: { finetune: 0, prune: 0, postfinetune: 0 },
          tokensPerSecond: 0,
          peakGpuBytes: model.device.peakBytes,
          plannedGpuBytes: model.device.peakBytes,
          alarms: [],
          changes: [],
        },
        quality,
        vocabulary,
        peakGpuBytes: model.device.peakBytes,
      }),
  });
}

/** Refuses options of a folder that have no effect without steps. Throws `CompressoError("usage")`. */
function refuseIdle(asked: VocabularyToFolderOptions): void {
  const idle = (["calibration", "checkpointEvery", "mayDiffer", "export.saveAdapter"] as const).find((path) =>
    ![undefined, "none", false].some((value) => value === valueAt(asked, path))
  );
  if (idle === undefined) return;
  throw new CompressoError("usage", {
    what: `cannot use ${option(idle)} where the vocabulary alone is cut`,
    rule: "nothing is trained",
    value: option("units", "vocab"),
    fix: "leave it out, or add units of the layers, such as kv,ffn",
    option: idle,
  });
}

/** Compares the logits of kept tokens. Throws `CompressoError("mismatch")` where they differ at all. */
async function compareKept(
  { model, dense, kept }: CutForRun,
  tokens: readonly number[],
  signal: AbortSignal,
): Promise<VerifyResult> {
  const ids = tokens.slice(0, COMPARED), { vocab } = dense.spec;
  const before = await dense.logits(ids.map((id) => kept[id] ?? 0), { signal }),
    after = await model.logits(ids, { signal });
  await dense.release();
  let maxAbs = 0, least = Infinity, most = -Infinity;
  for (let row = 0; row < ids.length; row++) {
    for (let id = 0; id < kept.length; id++) {
      const logit = after[row * kept.length + id] ?? NaN;
      maxAbs = Math.max(maxAbs, Math.abs(logit - (before[row * vocab + (kept[id] ?? 0)] ?? NaN)));
      least = Math.min(least, logit);
      most = Math.max(most, logit);
    }
  }
  if (maxAbs === 0) return { maxAbs, range: most - least, tokens: ids.length };
  throw new CompressoError("mismatch", {
    what: "cannot cut the vocabulary",
    rule: "logits of kept tokens are those of the whole model",
    value: `they differ by up to ${maxAbs}`,
    fix: "report this, with the model and the GPU",
  });
}
