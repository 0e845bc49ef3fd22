// One-shot scores of the units of a loaded model, and the data that each score needs.
import {
  createTaylor,
  type LayerTerms,
  magnitudeScores,
  type OneShotMethod,
  randomScores,
  type Ranking,
  rankWithin,
  type WeightTerms,
} from "../../masks/baselines.ts";
import { type ActivationStats, flapScores, wandaScores } from "../../masks/baselines_activations.ts";
import { applyCompensation, withOutputBiases } from "../../masks/baselines_bias.ts";
import { dealt, type Ranks } from "../../ranks/ranks.ts";
import { CompressoError, option } from "../../core/errors.ts";
import { type Selection, unitName, type UnitTable } from "../../units/table.ts";
import type { Projection } from "../../spec/decoder.ts";
import type { WeightSource } from "../../spec/source.ts";
import type { MaskValues } from "../../nn/mask_slots.ts";
import { shareWeights, writeBiases } from "../../nn/weights.ts";
import type { Batch } from "../../data/batches.ts";
import { calibrate } from "./calibrate.ts";
import { Model } from "../../model/model.ts";

/** Options of {@link oneShotScores}. */
export interface OneShotOptions {
  /** The score. */
  readonly method: OneShotMethod;
  /** Which units are compared; default "all". wanda-sp always compares those of a layer. */
  readonly ranking?: Ranking;
  /**
   * Calibration data of taylor, wanda-sp and flap; other methods do not read it. All batches have `batch` · `seq`
   * tokens.
   */
  readonly batches: Iterable<Batch>;
  /** Sequences of a batch. */
  readonly batch: number;
  /** Tokens of a sequence with its padding. */
  readonly seq: number;
  /** Seed of random scores. */
  readonly seed: number;
  /** Terms of the weights on a batch at the current masks, for taylor; see `Trainer.weightTerms`. */
  readonly weightTerms: (batch: Batch) => Promise<readonly LayerTerms[]>;
  /** Units that are cut before; they rank below all others. Default: none. */
  readonly cut?: CutBefore | undefined;
  /** Processes that share the batches out. Default: this one alone. */
  readonly ranks?: Ranks | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal;
  /** Called after each batch. */
  readonly onBatch?: (() => void) | undefined;
}

/** A cut that a score is measured behind. */
export interface CutBefore {
  /** 0 for each unit that is cut. */
  readonly kept: Selection;
  /** Order of the units in that cut, 0 for the one that falls first; see {@link ranks}. */
  readonly order: ArrayLike<number>;
}

/** Scores of all units; units of the lowest scores are cut first, see `selectUnits`. */
export interface OneShotScores {
  /** One score per unit; higher scores are kept. */
  readonly scores: Float64Array<ArrayBuffer>;
  /** What FLAP's compensation needs; null for other methods. */
  readonly stats: ActivationStats | null;
}

/** Scores the units once. Throws `CompressoError("numeric")` where the model's values on the rows are not finite. */
export async function oneShotScores(model: Model, table: UnitTable, options: OneShotOptions): Promise<OneShotScores> {
  const { scores, stats } = await rawScores(model, table, options), { cut, ranking } = options;
  if (cut) {
    for (const unit of scores.keys()) {
      if (!cut.kept[unit]) scores[unit] = (cut.order[unit] ?? 0) - table.count;
    }
  }
  return { scores: ranking === "layer" ? rankWithin(table, scores) : scores, stats };
}

/** Ranks in ascending order of score, ties by index. Unlike the scores, they keep their order in f32. */
export function ranks(scores: ArrayLike<number>): Float32Array<ArrayBuffer> {
  const order = Array.from({ length: scores.length }, (_, unit) => unit)
    .sort((a, b) => (scores[a] ?? 0) - (scores[b] ?? 0) || a - b);
  const result = new Float32Array(scores.length);
  order.forEach((unit, rank) => result[unit] = rank);
  return result;
}

async function rawScores(model: Model, table: UnitTable, options: OneShotOptions): Promise<OneShotScores> {
  const { method, batches, batch, seq, seed, weightTerms, ranks, signal, onBatch } = options, { source } = model;
  switch (method) {
    case "magnitude":
      return { scores: await magnitudeScores(source, table), stats: null };
    case "random":
      return { scores: randomScores(table, { seed }), stats: null };
    case "taylor": {
      const taylor = createTaylor(table);
      // Maps are passed between ranks as their entries.
      const measure = async (data: Batch): Promise<[Projection, WeightTerms][][]> => {
        signal?.throwIfAborted();
        return (await weightTerms(data)).map((layer) => [...layer]);
      };
      for await (const [{ labelTokens: labels }, layers] of dealt(batches, ranks, measure)) {
        taylor.add(layers.map((entries) => new Map(entries)), { labels });
        onBatch?.();
      }
      const scores = taylor.scores();
      checkUnits(table, scores, { what: `cannot score units by ${method}` });
      return { scores, stats: null };
    }
    case "wanda-sp":
    case "flap": {
      const stats = await calibrate(model, { batches, batch, seq, ranks, onBatch, ...(signal ? { signal } : {}) });
      checkFinite(stats, method);
      if (method === "wanda-sp") return { scores: await wandaScores(source, table, stats), stats: null };
      return { scores: await flapScores(source, table, stats), stats };
    }
  }
}

/** Throws `CompressoError("numeric")` for values of units, computed from gradients on rows, that are not finite. */
export function checkUnits(
  table: UnitTable,
  values: Float64Array,
  { what, fix = ROWS_FIX }: { readonly what: string; readonly fix?: string },
): void {
  const unit = values.findIndex((value) => !Number.isFinite(value));
  if (unit < 0) return;
  throw new CompressoError("numeric", {
    what,
    rule: "the model's gradients on the rows are finite",
    value: `${values[unit]} for ${unitName(table, unit)}`,
    fix,
  });
}

/** Fix for training rows on which units cannot be scored. */
export const OUT_OF_ROWS = "leave the rows out that do this";
/** Fix for rows on which units cannot be scored. */
export const ROWS_FIX = `${OUT_OF_ROWS}, or give others by ${option("calibration")}`;

/** Throws `CompressoError("numeric")` for activations that are not finite, which give no score. */
function checkFinite({ layers }: ActivationStats, method: OneShotMethod): void {
  for (const [layer, { o, down }] of layers.entries()) {
    for (const [name, part] of [["o_proj", o], ["down_proj", down]] as const) {
      const channel = part?.squares.findIndex((value) => !Number.isFinite(value)) ?? -1;
      if (channel < 0) continue;
      throw new CompressoError("numeric", {
        what: `cannot score units by ${method}`,
        rule: "what the model computes of the calibration rows is finite",
        value: `${part?.squares[channel]} in input ${channel} of layer ${layer}'s ${name}`,
        fix: ROWS_FIX,
      });
    }
  }
}

/**
 * The model with biases of o_proj and down_proj, zeros where it has none, for a run that may compensate later. It
 * shares all other weights with `model` and must not outlive it. Disposing it frees its biases and its own passes.
 */
export async function withCompensation(model: Model): Promise<Model> {
  const { device, weights, tokenizer } = model, source = withOutputBiases(model.source);
  return new Model(device, source, { weights: await shareWeights(device, weights, source), tokenizer });
}

/**
 * Writes the compensation for masks into the biases of a model from {@link withCompensation}. It applies from the next
 * forward pass. Returns the weights to slice with these masks instead of `model.source`.
 */
export async function compensate(
  model: Model,
  { masks, stats }: { readonly masks: MaskValues; readonly stats: ActivationStats },
): Promise<WeightSource> {
  const source = applyCompensation(model.source, { masks, stats });
  await writeBiases(model.device, model.weights, source);
  return source;
}
