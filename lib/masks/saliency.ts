// Initial log α from saliency: units ordered by the loss that cutting them costs, from mask gradients.
import type { SlotGradients } from "../nn/mask_slots.ts";
import { unitParameters, type UnitTable } from "../units/table.ts";

/**
 * Mean of squared mask gradients, the diagonal of the empirical Fisher matrix. Gradients are squared by blocks of
 * tokens. A few batches have many blocks, so the mean is far less noisy than that of squared gradients of whole
 * batches.
 */
export interface Saliency {
  /** Adds the gradients of one batch. */
  add(gradients: SlotGradients): void;
  /** Mean square of each unit; for a layer's gate, of its whole gradient. */
  mean(): Float64Array<ArrayBuffer>;
}

/** Starts a mean over batches. */
export function createSaliency(table: UnitTable): Saliency {
  const sums = new Float64Array(table.count);
  let batches = 0;
  return {
    mean: () => sums.map((sum) => sum / Math.max(1, batches)),
    add({ dz, squares }): void {
      batches++;
      for (let unit = 0; unit < table.count; unit++) {
        const first = table.slotFirst[unit] ?? 0, end = first + (table.slotCount[unit] ?? 0);
        const isGate = unit >= table.ranges.layers.first;
        sums[unit] = (sums[unit] ?? 0) + (isGate ? total(dz, first, end) ** 2 : total(squares, first, end));
      }
    },
  };
}

/** Saliency per parameter that the unit saves. */
export function perParameter(table: UnitTable, saliency: Float64Array): Float64Array<ArrayBuffer> {
  return Float64Array.from(saliency, (value, unit) => value / unitParameters(table, unit));
}

function total(values: Float32Array, first: number, end: number): number {
  let sum = 0;
  for (let slot = first; slot < end; slot++) sum += values[slot] ?? 0;
  return sum;
}

/** Initial log α, and how it moves with the logarithm of a saliency. */
export interface MaskStart {
  /** Initial log α of every unit. */
  readonly logAlpha: Float32Array<ArrayBuffer>;
  /** d(log α) / d(log saliency). */
  readonly drift: number;
  /**
   * The saliencies of the least and the largest log α. Saliencies beyond are clamped to this range, so that log α stays
   * a function of saliency.
   */
  readonly range: readonly [least: number, most: number];
}

/**
 * Initial log α: the logarithm of the saliency, centered on its median and scaled by a robust deviation, so that a
 * common shift cuts the units in the order of their saliency. Deviations are limited to ±3, the result to ±3 ·
 * `spread`. Units without saliency, such as zero columns of a padded model, are left out of median and deviation, and
 * start lowest.
 */
export function maskStart(
  saliency: ArrayLike<number>,
  { spread }: { readonly spread: number },
): MaskStart {
  const floor = 1e-30;
  const logs = Float64Array.from(saliency, (value) => Math.log(Math.max(floor, value)));
  const above = logs.filter((log) => log > Math.log(floor)), sorted = (above.length > 0 ? above : logs).slice().sort();
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
  const median = at(0.5), deviation = (at(0.84) - at(0.16)) / 2, drift = spread / Math.max(1e-6, deviation);
  const half = WIDEST * spread, isScale = deviation > 1e-6;
  return {
    logAlpha: Float32Array.from(
      logs,
      (log) => Math.max(-half, Math.min(half, drift * (log - median))),
    ),
    // Equal saliencies have a deviation of 0, which is no scale.
    drift: isScale ? drift : 0,
    range: isScale ? [Math.exp(median - WIDEST * deviation), Math.exp(median + WIDEST * deviation)] : [0, Infinity],
  };
}

/** The logistic deviate that one draw in a thousand exceeds. */
const RARE_NOISE = 7;
/** log α / β from which the stretched gate is 1 without noise. */
const OPEN = Math.log(11);

/** Largest distance of log α of {@link maskStart} from its median, in spreads. */
const WIDEST = 3;

/**
 * Least log α of a unit that is practically always open. The expectation has a noise of at least 0.05, see
 * hard_concrete.wgsl.
 */
function openFrom({ temperature, noise }: { readonly temperature: number; readonly noise: number }): number {
  return OPEN * temperature + RARE_NOISE * Math.max(noise, 0.05);
}

/** Limit of log α below which {@link openStart} cannot open even half of the units. */
export function leastLimit(
  { spread, ...rates }: { readonly spread: number; readonly temperature: number; readonly noise: number },
): number {
  return WIDEST * spread + openFrom(rates);
}

/** The least limit for messages, rounded up so that the named value is allowed. */
export function shownLimit(least: number): string {
  return (Math.ceil(10 * least) / 10).toFixed(1);
}

/**
 * The same log α, shifted such that even the lowest unit is open, as far as `logAlphaLimit` permits. A run's first step
 * is then on the unpruned model, and the constraint cuts from there.
 */
export function openStart(
  logAlpha: Float32Array,
  { temperature, noise, logAlphaLimit }: {
    readonly temperature: number;
    readonly noise: number;
    readonly logAlphaLimit: number;
  },
): Float32Array<ArrayBuffer> {
  let least = Infinity, most = -Infinity;
  for (const value of logAlpha) {
    least = Math.min(least, value);
    most = Math.max(most, value);
  }
  const shift = Math.max(0, Math.min(openFrom({ temperature, noise }) - least, logAlphaLimit - most));
  return Float32Array.from(logAlpha, (value) => value + shift);
}
