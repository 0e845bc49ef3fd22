// One-shot methods: units are scored and cut before any training.
import type { OneShotMethod } from "../../masks/baselines.ts";
import type { WeightSource } from "../../spec/source.ts";
import { writeBiases } from "../../nn/weights.ts";
import { compensate, type OneShotScores, oneShotScores } from "./one_shot_scores.ts";
import {
  CALIBRATION_BATCHES,
  calibrationBatches,
  chooseHard,
  counter,
  NOTHING,
  type SelectorParts,
  type UnitSelector,
} from "./selector.ts";

/** Sequences whose activations are measured; this takes forward passes only. */
const MEASURED_SEQUENCES = 128;

/** The selector of a one-shot method. */
export function oneShotSelector(parts: SelectorParts, method: OneShotMethod): UnitSelector {
  const { model, table, options, trainer, weightTerms, harden, signal, work } = parts, { batch, seq, seed } = options;
  let source: WeightSource | null = null;
  const score = async (): Promise<OneShotScores> => {
    const known = work?.scores ?? await measured();
    if (work) work.scores = known;
    return known;
  };
  const measured = async (): Promise<OneShotScores> => {
    // After a rollback the weights contain a compensation, which the scored model must not have.
    if (method === "flap") await writeBiases(model.device, model.weights, model.source);
    const isMeasured = method === "wanda-sp" || method === "flap";
    const count = isMeasured ? Math.ceil(MEASURED_SEQUENCES / batch) : CALIBRATION_BATCHES;
    const batches = [...parts.calibration?.batches() ?? calibrationBatches(parts, count)];
    return await oneShotScores(model, table, {
      method,
      ranking: options.ranking,
      batches,
      onBatch: counter(parts, batches.length),
      ranks: parts.ranks,
      batch,
      seq,
      seed,
      weightTerms,
      ...(signal ? { signal } : {}),
    });
  };
  let known: { readonly stats: OneShotScores["stats"]; readonly writes: number } | null = null;
  const compensated = async (stats: OneShotScores["stats"]): Promise<void> => {
    if (stats) source = await compensate(model, { masks: await trainer.masks(), stats });
    known = { stats, writes: trainer.maskWrites };
  };
  return {
    ...NOTHING,
    async end({ target }): Promise<number> {
      const { scores, stats } = await score();
      trainer.setLogAlpha(ranks(scores));
      const sparsity = chooseHard(table, scores, { target, options, trainer, harden });
      await compensated(stats);
      return sparsity;
    },
    async settle(): Promise<null> {
      if (known && known.writes !== trainer.maskWrites) await compensated(known.stats);
      return null;
    },
    async resumed(): Promise<void> {
      if (method === "flap") await compensated((await score()).stats);
    },
    get source(): WeightSource | null {
      return source;
    },
  };
}

/** Ranks in ascending order of score, ties by index. Unlike the scores, they keep their order in f32. */
export function ranks(scores: ArrayLike<number>): Float32Array<ArrayBuffer> {
  const order = Array.from({ length: scores.length }, (_, unit) => unit)
    .sort((a, b) => (scores[a] ?? 0) - (scores[b] ?? 0) || a - b);
  const result = new Float32Array(scores.length);
  order.forEach((unit, rank) => result[unit] = rank);
  return result;
}
