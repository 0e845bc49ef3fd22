// Where log α starts: an order of the units by what their loss costs. Owns the map from mask gradients to log α; refuses to run the model.
import { unitParameters, type UnitTable } from "./units.ts";

/** Running mean of squared mask gradients, the diagonal of the empirical Fisher matrix at z = 1. */
export interface Saliency {
  /** Adds one batch's dL/dz of all slots. */
  add(slotGradients: Float32Array): void;
  /** Mean squared gradient of each unit. */
  mean(): Float64Array<ArrayBuffer>;
  /** Mean squared gradient of each unit per parameter that it saves. */
  perParameter(): Float64Array<ArrayBuffer>;
}

/** Starts a mean over batches. */
export function createSaliency(table: UnitTable): Saliency {
  const sums = new Float64Array(table.count);
  let batches = 0;
  const mean = (): Float64Array<ArrayBuffer> => sums.map((sum) => sum / Math.max(1, batches));
  return {
    mean,
    add(slotGradients): void {
      batches++;
      for (let unit = 0; unit < table.count; unit++) {
        const first = table.slotFirst[unit] ?? 0, end = first + (table.slotCount[unit] ?? 0);
        let gradient = 0;
        for (let slot = first; slot < end; slot++) gradient += slotGradients[slot] ?? 0;
        sums[unit] = (sums[unit] ?? 0) + gradient * gradient;
      }
    },
    perParameter: () => mean().map((value, unit) => value / unitParameters(table, unit)),
  };
}

/** Where log α starts, and how it moves with the logarithm of a saliency. */
export interface MaskStart {
  /** Initial log α of every unit. */
  readonly logAlpha: Float32Array<ArrayBuffer>;
  /** d(log α) / d(log saliency). */
  readonly drift: number;
}

/**
 * Initial log α: the logarithm of the saliency, centred on its median and scaled by its spread (a robust deviation), so that a common
 * shift cuts the units in the order of their saliency. Deviations are limited to ±3, the result to ±3 · `spread`.
 */
export function maskStart(
  saliency: ArrayLike<number>,
  { spread }: { readonly spread: number },
): MaskStart {
  const floor = 1e-30;
  const logs = Float64Array.from(saliency, (value) => Math.log(Math.max(floor, value)));
  const sorted = logs.slice().sort();
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
  const median = at(0.5), deviation = (at(0.84) - at(0.16)) / 2, drift = spread / Math.max(1e-6, deviation);
  return {
    logAlpha: Float32Array.from(logs, (log) => Math.max(-3 * spread, Math.min(3 * spread, drift * (log - median)))),
    // Where all are alike their logarithms are no scale.
    drift: deviation > 1e-6 ? drift : 0,
  };
}
