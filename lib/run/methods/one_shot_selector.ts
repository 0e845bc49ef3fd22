// One-shot methods: units are scored and cut before any training, in several rounds if the options say so.
import { gradualMasks } from "../../masks/gradual.ts";
import type { Batch } from "../../data/batches.ts";
import type { WeightSource } from "../../spec/source.ts";
import { writeBiases } from "../../nn/weights.ts";
import { keptBy } from "./kept.ts";
import { measuresActivations, measuresForward, type OneShotMethod } from "./method.ts";
import { compensate } from "./compensation.ts";
import { batchesToMeasure, type CutBefore, type OneShotScores, oneShotScores, ranks } from "./one_shot_scores.ts";
import {
  CALIBRATION_BATCHES,
  calibrationBatches,
  chooseHard,
  counter,
  NOTHING,
  type SelectorParts,
  type UnitSelector,
} from "./selector.ts";

/** Sequences that are measured by forward passes alone. */
const MEASURED_SEQUENCES = 128;
/**
 * The same where layers alone are measured, whose means need fewer: three times 32 other sequences of 128 tokens give
 * SmolLM2's layers influences within 13 % of each other, docs/evidence/depth.md.
 */
const INFLUENCE_SEQUENCES = 32;

/** The selector of a one-shot method. */
export function oneShotSelector(parts: SelectorParts, method: OneShotMethod): UnitSelector {
  const { model, table, options, trainer, weightTerms, maskGradients, harden, signal, work } = parts,
    { batch, seq, documentMask, seed, ranking, rounds, layout } = options;
  let source: WeightSource | null = null;
  const score = async (target: number): Promise<OneShotScores> => {
    // The scores of several rounds belong to their target.
    if (!work || rounds > 1) return await measured(target);
    return work.scores ??= await measured(target);
  };
  const measured = async (target: number): Promise<OneShotScores> => {
    // After a rollback the weights contain a compensation, which the scored model must not have.
    if (method.compensates) await writeBiases(model.device, model.weights, model.source);
    const rows = (count: number): Batch[] => [...parts.calibration?.batches() ?? calibrationBatches(parts, count)];
    const batches = rows(CALIBRATION_BATCHES);
    const sequences = measuresActivations(method) ? MEASURED_SEQUENCES : INFLUENCE_SEQUENCES;
    const activationBatches = measuresForward(method) ? rows(Math.ceil(sequences / batch)) : [];
    const looks = batchesToMeasure(method, { gradients: batches.length, activations: activationBatches.length });
    const onBatch = counter(parts, rounds * looks);
    const scoresBehind = async (cut?: CutBefore): Promise<OneShotScores> =>
      await oneShotScores(model, table, {
        method,
        ranking,
        batches,
        activationBatches,
        onBatch,
        cut,
        ranks: parts.ranks,
        batch,
        seq,
        documentMask,
        seed,
        weightTerms,
        maskGradients,
        signal,
      });
    if (rounds === 1) return await scoresBehind();
    // A run that was stopped between two rounds has masks of these.
    trainer.setMasks(gradualMasks(table, new Float32Array(table.count), { target: 0, layout }));
    let known = await scoresBehind();
    for (let round = 1; round < rounds; round++) {
      const order = ranks(known.scores),
        masks = gradualMasks(table, order, { target: target * round / rounds, layout });
      trainer.setMasks(masks);
      known = await scoresBehind({ masks, kept: keptBy(table, masks), order });
    }
    return known;
  };
  let known: { readonly stats: OneShotScores["stats"]; readonly writes: number } | null = null;
  const compensated = async (stats: OneShotScores["stats"]): Promise<void> => {
    if (stats) source = await compensate(model, { masks: await trainer.masks(), stats });
    known = { stats, writes: trainer.maskWrites };
  };
  return {
    ...NOTHING,
    async end({ target }): Promise<number> {
      const { scores, stats } = await score(target);
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
      if (method.compensates) await compensated((await score(options.sparsity)).stats);
    },
    get source(): WeightSource | null {
      return source;
    },
  };
}
