// How much layers and their attention change the residual stream on calibration data: the forward passes.
import { dealt } from "../../ranks/ranks.ts";
import { writeRows } from "../../nn/key_ranges.ts";
import type { MaskValues } from "../../nn/mask_slots.ts";
import { createPass, recordForward, shiftLabels } from "../../nn/pass.ts";
import { createStateChanges } from "../../nn/state_changes.ts";
import type { Batch } from "../../data/batches.ts";
import { writeAdapters } from "../../model/input.ts";
import type { Model } from "../../model/model.ts";
import { recordOf } from "../../units/kinds/all.ts";
import { kindOf, placeOf, type UnitTable } from "../../units/table.ts";
import type { CalibrateOptions } from "./calibrate.ts";

/** Means of 1 − cos(x, y) over tokens, with the residual stream x before a part of a layer and y after it. */
export interface LayerInfluence {
  /** Of its attention; 0 for a layer without attention. */
  readonly attention: number;
  /** Of the whole layer; 0 for a layer without attention and FFN. */
  readonly layer: number;
}

/** Options of {@link measureInfluence}. */
export interface InfluenceOptions extends CalibrateOptions {
  /** Masks of the model that is measured. Default: all 1. */
  readonly masks?: MaskValues | undefined;
}

/**
 * How much each layer and its attention change the residual stream, as block influence in ShortGPT (Men et al. 2024,
 * arXiv 2403.03853, equation 1). The means are over the tokens before labels, as in `calibrate`. There they are over all
 * tokens. In a layer whose attention and FFN are parallel, y of the attention is x and what attention adds to it. Sums
 * of the batches are added in f64, in their order, so that ranks change no bit.
 */
export async function measureInfluence(model: Model, options: InfluenceOptions): Promise<readonly LayerInfluence[]> {
  const { device, weights, spec } = model, { batches, batch, seq, masks = {}, ranks, signal, onBatch } = options;
  using pass = createPass(device, weights, { batch, seq, ranges: options.documentMask ? "rows" : undefined });
  writeAdapters(device, pass, { spec, masks });
  const context = pass.plan();
  using plan = context.plan;
  using changes = createStateChanges(device, spec, { rows: batch * seq });
  recordForward({ ...context, observeStates: changes.observe });
  plan.finish();
  const measure = async ({ tokens, labels, positions }: Batch): Promise<Measured> => {
    signal?.throwIfAborted();
    device.write(pass.act.tokens, tokens);
    if (pass.ranges) writeRows(pass, positions);
    await plan.run({ signal });
    const counts = shiftLabels(labels, { seq }).map((label) => label >= 0 ? 1 : 0), own = noSums(spec.layers.length);
    for (const { layer, of, distances } of await changes.read()) {
      own[of][layer] = distances.reduce((sum, value, row) => counts[row] === 1 ? sum + value : sum, 0);
    }
    return { ...own, tokens: counts.reduce((sum, count) => sum + count, 0) };
  };
  const sums = noSums(spec.layers.length);
  let total = 0;
  for await (const [, { tokens, ...own }] of dealt(batches, ranks, measure)) {
    for (const part of ["attention", "layer"] as const) {
      own[part].forEach((sum, layer) => sums[part][layer] = (sums[part][layer] ?? NaN) + sum);
    }
    total += tokens;
    onBatch?.();
  }
  const mean = (sum = NaN): number => sum / Math.max(1, total);
  return spec.layers.map((_, layer) => ({ attention: mean(sums.attention[layer]), layer: mean(sums.layer[layer]) }));
}

/** The influence of each unit: that of its layer or attention; NaN for units of other kinds. */
export function unitInfluence(table: UnitTable, layers: readonly LayerInfluence[]): Float64Array<ArrayBuffer> {
  return Float64Array.from({ length: table.count }, (_, unit) => {
    const { attention = NaN, layer = NaN } = layers[table.layer[unit] ?? -1] ?? {};
    if (!recordOf(kindOf(table, unit)).isOnePerLayer) return NaN;
    return placeOf(table, unit) === "layers" ? layer : attention;
  });
}

/** Sums over the tokens of a batch, by layer. */
interface Sums {
  readonly attention: number[];
  readonly layer: number[];
}

interface Measured extends Sums {
  readonly tokens: number;
}

function noSums(layers: number): Sums {
  return { attention: new Array<number>(layers).fill(0), layer: new Array<number>(layers).fill(0) };
}
