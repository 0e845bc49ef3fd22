// What follows the steps of a run: slices the model, compares it with the masked one, and measures both.
import { holdThreads } from "../core/threads.ts";
import type { Adapters, Model } from "../model/model.ts";
import { writeBiases } from "../nn/weights.ts";
import { sliceModel } from "../slice/slice.ts";
import { comparedTokens, verifyShape, verifySliced } from "../slice/verify.ts";
import { parameterCount } from "../spec/decoder.ts";
import type { WeightSource } from "../spec/source.ts";
import { withCompensation } from "./methods/compensation.ts";
import type { ExpertsSummary } from "./experts/summary.ts";
import type { ResolvedOptions } from "./options/options.ts";
import { compareQuality, measureQuality, type QualityChange, type QualityData } from "./quality.ts";
import type { PartTimer } from "./parts_of_time.ts";
import type { PruneOutcome, PruneResult, SlicedModel } from "./result.ts";
import type { SharedWork } from "./shared_work.ts";
import { reachedSize } from "./size_goal.ts";
import type { CutForRun, VocabularySummary } from "./vocabulary.ts";

/** A run whose model is sliced and measured, not yet written. */
export interface FinishedRun {
  readonly result: PruneOutcome;
  readonly sliced: SlicedModel;
  readonly quality: QualityChange;
  /** What became of the vocabulary; null if it was not cut. */
  readonly vocabulary: VocabularySummary | null;
  /** What became of the experts; absent if they were not cut. */
  readonly experts?: ExpertsSummary;
  /** Peak of training and comparison, bytes. */
  readonly peakGpuBytes: number;
}

/** Where and on what a trained run is finished. */
export interface FinishOptions {
  /** The model that was pruned, without its trainer. */
  readonly model: Model;
  readonly options: ResolvedOptions;
  /** What quality is measured on. */
  readonly data: QualityData;
  /** The vocabulary that was cut before; null if it was not. */
  readonly vocabulary: CutForRun | null;
  /** Work shared with other runs on the same model; it keeps the measures of the model before pruning. */
  readonly work?: SharedWork | undefined;
  readonly timer: PartTimer;
  readonly signal: AbortSignal;
  /** Called with the share that is done, 0 to 1. */
  readonly onProgress?: ((share: number) => void) | undefined;
}

/** Share of the progress that the comparison takes; the rest is for measuring quality. */
export const COMPARED = 0.6;

/**
 * Slices the model by the masks and LoRA of a run.
 *
 * @throws CompressoError("mismatch") if logits of the sliced model differ from those of the masked model.
 */
export async function finishRun(result: PruneResult, finish: FinishOptions): Promise<FinishedRun> {
  const { model, options, vocabulary, timer, signal, onProgress } = finish, { device } = model;
  const { masks, lora, heldout, source: base } = result, adapters = { masks, lora };
  const source = sliceModel(base, { masks, lora });
  using _threads = holdThreads();
  const how = { device, adapters, tokens: comparedTokens(heldout, options.check), ...verifyShape(options), signal };
  const onCompared = (share: number): void => onProgress?.(COMPARED * share);
  const maskedVsSliced = await timer.during(
    "check",
    () => verifySliced(base, source, { ...how, onProgress: onCompared }),
  );
  const quality = await timer.during("quality", () => measure(result, { ...finish, adapters }));
  // If a method changed other weights too, masks and LoRA do not give the result.
  const isGiven = base === model.source,
    words = vocabulary && await vocabulary.summary(isGiven ? adapters : null, { signal });
  const sliced = { source, ...sizesOf(source, { model, options, dense: vocabulary?.dense ?? model }), maskedVsSliced };
  return { result, sliced, quality, vocabulary: words, peakGpuBytes: device.peakBytes };
}

/** Shape and sizes of a pruned model. */
export function sizesOf(
  { spec }: Pick<WeightSource, "spec">,
  { model: { tokenizer, source: { provenance } }, options: { size, units }, dense }: {
    readonly model: Pick<Model, "tokenizer" | "source">;
    readonly options: ResolvedOptions;
    /** The model as it was given. */
    readonly dense: Pick<Model, "spec">;
  },
): Pick<SlicedModel, "spec" | "parameters" | "size"> {
  return {
    spec,
    parameters: { before: parameterCount(dense.spec), after: parameterCount(spec) },
    size: size && reachedSize(spec, size, { tokenizer, units, provenance }),
  };
}

/** Quality before and after pruning. */
async function measure(
  { source: base }: PruneResult,
  { model, data, vocabulary, work, adapters, signal, onProgress }: FinishOptions & { readonly adapters: Adapters },
): Promise<QualityChange> {
  const half = (from: number): (share: number) => void => (share) =>
    onProgress?.(COMPARED + (1 - COMPARED) * (from + share / 2));
  const before = work?.dense ?? await measureQuality(model, data, { adapters: {}, signal, onProgress: half(0) });
  if (work) work.dense = before;
  // FLAP's compensation is in biases, which the given model may not have.
  using compensated = base === model.source ? null : await withCompensation(model);
  if (compensated) await writeBiases(model.device, compensated.weights, base);
  // Layers and states are as in the given model, whose head has the whole vocabulary.
  const side = { weights: (vocabulary?.dense ?? model).weights, ids: vocabulary?.kept ?? null };
  const dense = { states: before.states, side };
  const after = await measureQuality(compensated ?? model, data, { adapters, dense, signal, onProgress: half(0.5) });
  // Task scores do not depend on the vocabulary: take those of the model before its vocabulary was cut.
  return compareQuality(data, { ...before, tasks: vocabulary?.tasks ?? before.tasks }, after);
}
