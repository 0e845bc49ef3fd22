// The end of a run that cuts the vocabulary and trains nothing: compares the logits of kept tokens, measures, and writes.
import { refuse } from "../core/errors.ts";
import type { VerifyResult } from "../slice/verify.ts";
import { sequencesToMeasure } from "./calibration.ts";
import { encodeRun } from "./data.ts";
import { type FinishedRun, sizesOf } from "./finish.ts";
import type { PruneOptions, ResolvedOptions } from "./options/options.ts";
import type { PartTimer } from "./parts_of_time.ts";
import { compareQuality, measureQuality, qualityData } from "./quality.ts";
import type { RunPlatform } from "./session.ts";
import type { DoneRun } from "./sink/sink.ts";
import { untrainedOutcome, untrainedRun } from "./untrained.ts";
import type { CutForRun } from "./vocabulary.ts";

/** Tokens of the held-out sequence on which logits are compared. */
const COMPARED = 32;

/** A run without steps on a model whose vocabulary was cut. Throws as `encodeRun` for rows that cannot be read. */
export function cutAlone(
  cut: CutForRun,
  { original, resolved, platform: { files, loadTasks } }: {
    readonly original: PruneOptions;
    readonly resolved: ResolvedOptions;
    readonly platform: RunPlatform;
  },
): DoneRun {
  const { model, dense, kept } = cut;
  const data = encodeRun(model, resolved, original);
  const { hooks, evaluate, signal = new AbortController().signal } = original;
  const finish = async (timer: PartTimer): Promise<FinishedRun> => {
    const maskedVsSliced = await timer.during("check", () => compareKept(cut, data.heldout[0] ?? [], signal));
    const { source } = model;
    const measures = await qualityData(model, { heldout: [], heldoutLabels: [] }, {
      seq: resolved.seq,
      evaluation: { ...evaluate, text: undefined },
      loadTasks,
      signal,
    });
    const measured = await timer.during("quality", () => measureQuality(model, measures, { adapters: {}, signal }));
    const { peakBytes } = model.device;
    return {
      result: untrainedOutcome(source, {
        lora: resolved.lora,
        data: data.report,
        sparsity: { target: 0, expected: 0, hard: 0 },
        peakBytes,
      }),
      sliced: { source, ...sizesOf(source, { model, options: resolved, dense }), maskedVsSliced },
      quality: compareQuality(measures, { ...measured, tasks: cut.tasks }, measured),
      vocabulary: await cut.summary({}, { compares: true, signal }),
      peakGpuBytes: model.device.peakBytes,
    };
  };
  return untrainedRun({
    ...{ model, dense, kept, files, options: resolved, hooks, finish, signal },
    sequences: () => sequencesToMeasure(data, resolved),
  });
}

/** Compares the logits of kept tokens. Throws `CompressoError("mismatch")` if they differ at all. */
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
  refuse("mismatch", "cannot cut the vocabulary", {
    rule: "logits of kept tokens equal those of the whole model",
    value: `they differ by up to ${maxAbs}`,
    fix: "report this, with the model and the GPU",
  });
}
