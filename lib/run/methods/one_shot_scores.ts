// One-shot scores of the units of a loaded model, and the data that each score needs.
import {
  createTaylor,
  type LayerTerms,
  magnitudeScores,
  type Ranking,
  rankWithin,
  type WeightTerms,
} from "../../masks/baselines.ts";
import { type ActivationStats, flapScores, wandaScores } from "../../masks/baselines_activations.ts";
import { createSaliency } from "../../masks/saliency.ts";
import { type UnitMeasure, unitSaliency } from "../../masks/unit_saliency.ts";
import { dealt, type Ranks } from "../../ranks/ranks.ts";
import { refuse } from "../../core/errors.ts";
import { type Selection, unitName, type UnitTable } from "../../units/table.ts";
import type { ConvMatrix, Projection } from "../../spec/decoder.ts";
import type { MaskValues, SlotGradients } from "../../nn/mask_slots.ts";
import type { Batch } from "../../data/batches.ts";
import { calibrate } from "./calibrate.ts";
import { type LayerInfluence, measureInfluence, unitInfluence } from "./influence.ts";
import { isOfGradients, measuresActivations, type OneShotMethod } from "./method.ts";
import type { Model } from "../../model/model.ts";
import { checkUnits, ROWS_FIX } from "./finite_scores.ts";

/** Options of {@link oneShotScores}. */
export interface OneShotOptions {
  /** The method. */
  readonly method: OneShotMethod;
  /** Which units are compared; default "all". A method with a fixed ranking has its own. */
  readonly ranking?: Ranking;
  /** Rows for measures by gradients. All batches have `batch` · `seq` tokens. */
  readonly batches: Iterable<Batch>;
  /** Rows for measures by forward passes; default: the same. */
  readonly activationBatches?: Iterable<Batch>;
  /** Sequences of a batch. */
  readonly batch: number;
  /** Tokens of a sequence with its padding. */
  readonly seq: number;
  /** Whether rows packed into a sequence do not see each other. Default false. */
  readonly documentMask?: boolean | undefined;
  /** Seed of random scores. */
  readonly seed: number;
  /** Terms of the weights on a batch at the current masks; see `Trainer.weightTerms`. */
  readonly weightTerms: (batch: Batch) => Promise<readonly LayerTerms[]>;
  /** Gradients of all slots on a batch at the current masks; see `Trainer.maskGradients`. */
  readonly maskGradients: (batch: Batch) => Promise<SlotGradients>;
  /** Units that are cut before; they rank below all others. Default: none. */
  readonly cut?: CutBefore | undefined;
  /** Processes that share the batches out. Default: this one alone. */
  readonly ranks?: Ranks | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
  /** Called after each batch. */
  readonly onBatch?: (() => void) | undefined;
}

/** An earlier cut: scores are measured on the model after it. */
export interface CutBefore {
  /** Its masks. */
  readonly masks: MaskValues;
  /** 0 for each unit that is cut. */
  readonly kept: Selection;
  /** Order in which the units are cut, 0 for the first; see {@link ranks}. */
  readonly order: ArrayLike<number>;
}

/** Scores of all units; units of the lowest scores are cut first, see `selectUnits`. */
export interface OneShotScores {
  /** One score per unit; higher scores are kept. */
  readonly scores: Float64Array<ArrayBuffer>;
  /** What FLAP's compensation needs; null for other methods. */
  readonly stats: ActivationStats | null;
}

/**
 * Scores the units once.
 *
 * @throws CompressoError("numeric") if the model's values on the rows are not finite.
 * @throws CompressoError("usage") for a score that is not one finite number per unit.
 */
export async function oneShotScores(model: Model, table: UnitTable, options: OneShotOptions): Promise<OneShotScores> {
  const { method, seed, cut, ranking } = options, { measured, stats } = await measure(model, table, options);
  const scores = Float64Array.from(await method.score(unitSaliency(table, measured, { seed })));
  checkScores(table, scores, method);
  if (cut) {
    for (const unit of scores.keys()) {
      if (!cut.kept[unit]) scores[unit] = (cut.order[unit] ?? 0) - table.count;
    }
  }
  return {
    scores: ranking === "layer" || method.isRankingFixed ? rankWithin(table, scores) : scores,
    stats: method.compensates ? stats : null,
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

/** Number of batches that a method measures, given the counts for gradients and for forward passes. */
export function batchesToMeasure(
  method: OneShotMethod,
  { gradients, activations }: { readonly gradients: number; readonly activations: number },
): number {
  const byGradients = method.from.filter(isOfGradients).length;
  const byStates = method.from.includes("influence") ? 1 : 0;
  return byGradients * gradients + (byStates + (measuresActivations(method) ? 1 : 0)) * activations;
}

/** Takes the measures of a method one after the other; statistics of activations serve all that need them. */
async function measure(model: Model, table: UnitTable, options: OneShotOptions): Promise<{
  readonly measured: ReadonlyMap<UnitMeasure, Float64Array<ArrayBuffer>>;
  readonly stats: ActivationStats | null;
}> {
  const { method, batches, activationBatches = batches, batch, seq, weightTerms, maskGradients } = options;
  const { ranks, signal, onBatch, cut, documentMask } = options,
    { source } = model,
    what = `cannot score units by ${method.name}`;
  const measured = new Map<UnitMeasure, Float64Array<ArrayBuffer>>();
  let stats: ActivationStats | null = null;
  const forward = { batches: activationBatches, batch, seq, documentMask, ranks, onBatch, signal };
  if (measuresActivations(method)) {
    stats = await calibrate(model, forward);
    checkFinite(stats, what);
  }
  for (const one of method.from) {
    switch (one) {
      case "weights":
        measured.set(one, await magnitudeScores(source, table));
        break;
      case "firstOrder": {
        const taylor = createTaylor(table);
        // Maps are passed between ranks as their entries.
        const terms = async (data: Batch): Promise<[Projection | ConvMatrix, WeightTerms][][]> => {
          signal?.throwIfAborted();
          return (await weightTerms(data)).map((layer) => [...layer]);
        };
        for await (const [{ labelTokens: labels }, layers] of dealt(batches, ranks, terms)) {
          taylor.add(layers.map((entries) => new Map(entries)), { labels });
          onBatch?.();
        }
        measured.set(one, taylor.scores());
        break;
      }
      case "fisher": {
        const saliency = createSaliency(table);
        for await (const [, gradients] of dealt(batches, ranks, maskGradients)) {
          saliency.add(gradients);
          onBatch?.();
        }
        measured.set(one, saliency.mean());
        break;
      }
      case "activations":
        if (stats) measured.set(one, await wandaScores(source, table, stats));
        break;
      case "fluctuations":
        if (stats) measured.set(one, await flapScores(source, table, stats));
        break;
      case "influence": {
        const influence = await measureInfluence(model, { ...forward, masks: cut?.masks });
        checkInfluence(influence, what);
        measured.set(one, unitInfluence(table, influence));
      }
    }
    if (isOfGradients(one)) checkUnits(table, measured.get(one) ?? [], { what });
  }
  return { measured, stats };
}

/** Refuses scores that cannot order the units. Throws `CompressoError("usage")`. */
function checkScores(table: UnitTable, scores: Float64Array, { name }: OneShotMethod): void {
  const broken = scores.length === table.count ? scores.findIndex((score) => !Number.isFinite(score)) : -1;
  if (scores.length === table.count && broken < 0) return;
  refuse("usage", `cannot use the scores of the method ${name}`, {
    rule: `they are a finite number for each of the ${table.count} units`,
    value: broken < 0 ? `${scores.length} scores` : `${scores[broken]} for ${unitName(table, broken)}`,
    option: "method",
  });
}

/** Throws `CompressoError("numeric")` for activations that are not finite, which give no score. */
function checkFinite({ layers }: ActivationStats, what: string): void {
  for (const [layer, { o, down }] of layers.entries()) {
    for (const [name, part] of [["o_proj", o], ["down_proj", down]] as const) {
      const channel = part?.squares.findIndex((value) => !Number.isFinite(value)) ?? -1;
      if (channel < 0) continue;
      refuse("numeric", what, {
        rule: "the model's activations on the calibration rows are finite",
        value: `${part?.squares[channel]} in input ${channel} of layer ${layer}'s ${name}`,
        fix: ROWS_FIX,
      });
    }
  }
}

/** Throws `CompressoError("numeric")` for a residual stream that is not finite, which gives no score. */
function checkInfluence(layers: readonly LayerInfluence[], what: string): void {
  const broken = layers.findIndex(({ attention, layer }) => !Number.isFinite(attention + layer));
  if (broken < 0) return;
  refuse("numeric", what, {
    rule: "the model's residual stream on the calibration rows is finite",
    value: `${layers[broken]?.layer} at layer ${broken}`,
    fix: ROWS_FIX,
  });
}
