// Medians and spreads of repeated measurements.

/** Middle of the sorted values, the mean of the two middle ones for an even count; NaN for none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b), half = sorted.length >> 1;
  const upper = sorted[half] ?? NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[half - 1] ?? NaN) + upper) / 2;
}

/** Repeats of one measurement in short. */
export interface Repeats {
  /** Middle value. */
  readonly median: number;
  /** Smallest value. */
  readonly least: number;
  /** Largest value. */
  readonly most: number;
}

/** Median and range of at least one value. */
export function repeatsOf(values: readonly number[]): Repeats {
  return { median: median(values), least: Math.min(...values), most: Math.max(...values) };
}
