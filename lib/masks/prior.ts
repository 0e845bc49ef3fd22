// Combines the saliency of a few batches with the norms of the weights and with the saliency on other rows.
import type { WeightSource } from "../spec/source.ts";
import { normName, projectionName } from "../spec/decoder.ts";
import { partsOf, type UnitTable } from "../units/table.ts";

/**
 * Relative prior of the units within a kind and layer, [units]. For an FFN column it is the squared norm of its gate
 * row (without a gate of its up row), including the norm's weight, relative to the layer's mean, squared again. For all
 * other units it is 1. It was chosen in trials on instructions (docs/evidence/trials.md). The idea: columns with a
 * large gate open strongly but for few tokens, and a few batches contain too few of those.
 */
export async function priorShape(
  source: Pick<WeightSource, "read">,
  table: UnitTable,
): Promise<Float64Array<ArrayBuffer>> {
  const shape = new Float64Array(table.count).fill(1), { hidden } = table.spec;
  for (const [layer, { ffn: { first, count } }] of table.layers.entries()) {
    if (count === 0) continue;
    const gate = await source.read(projectionName(layer, table.spec.ungated ? "up" : "gate"));
    const norm = await source.read(normName(layer, "ffn"));
    const squares = Float64Array.from({ length: gate.length / hidden }, (_, row) => {
      let sum = 0;
      for (let dim = 0; dim < hidden; dim++) sum += ((gate[row * hidden + dim] ?? 0) * (norm[dim] ?? 0)) ** 2;
      return sum;
    });
    const mean = squares.reduce((sum, square) => sum + square, 0) / squares.length;
    const slots = table.layout.layers[layer]?.ffn ?? 0;
    for (let unit = first; mean > 0 && unit < first + count; unit++) {
      shape[unit] = ((squares[(table.slotFirst[unit] ?? 0) - slots] ?? 0) / mean) ** 2;
    }
  }
  return shape;
}

/** The prior in units of a saliency: `weight` times the median of the unit's kind and layer. */
export function saliencyPrior(
  table: UnitTable,
  saliency: ArrayLike<number>,
  { shape, weight }: { readonly shape: ArrayLike<number>; readonly weight: number },
): Float64Array<ArrayBuffer> {
  const prior = new Float64Array(table.count);
  const scale = (first: number, count: number): void => {
    const sorted = Float64Array.from({ length: count }, (_, index) => saliency[first + index] ?? 0).sort();
    const median = sorted[Math.floor((count - 1) / 2)] ?? 0;
    for (let unit = first; unit < first + count; unit++) prior[unit] = weight * median * (shape[unit] ?? 0);
  };
  for (const { first, count } of partsOf(table)) scale(first, count);
  return prior;
}

/**
 * A saliency on other rows, scaled to `weight` times the mean of a measured one, separately for attention, FFN, hidden
 * dims and layers. A kind whose saliency is 0 throughout is left out.
 */
export function besidePrior(
  table: UnitTable,
  saliency: ArrayLike<number>,
  { other, weight }: { readonly other: ArrayLike<number>; readonly weight: number },
): Float64Array<ArrayBuffer> {
  const prior = new Float64Array(table.count);
  const total = (values: ArrayLike<number>, from: number, end: number): number => {
    let sum = 0;
    for (let unit = from; unit < end; unit++) sum += values[unit] ?? 0;
    return sum;
  };
  for (const { first, end } of Object.values(table.ranges)) {
    const whole = total(other, first, end), factor = whole > 0 ? weight * total(saliency, first, end) / whole : 0;
    for (let unit = first; unit < end; unit++) prior[unit] = factor * (other[unit] ?? 0);
  }
  return prior;
}
