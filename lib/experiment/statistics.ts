// Numbers over seeds and pairs of runs. Owns the formulas; refuses to know what they are of.

/** Values of one number over the seeds of a group. */
export interface Spread {
  /** In the order of the cells. */
  readonly values: readonly number[];
  /** How many. */
  readonly n: number;
  /** Their mean. */
  readonly mean: number;
  /** Sample standard deviation, √(Σ (x − mean)² / (n − 1)); null for one value. */
  readonly sd: number | null;
}

/** Mean and spread; null for no values. */
export function spreadOf(values: readonly number[]): Spread | null {
  const n = values.length;
  if (n === 0) return null;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { values, n, mean, sd: n > 1 ? Math.sqrt(squares / (n - 1)) : null };
}

/** Mean of a difference over pairs, and its standard error sd / √n; null for one pair. */
export interface Difference {
  /** The mean. */
  readonly mean: number;
  /** Its standard error. */
  readonly stderr: number | null;
  /** Pairs. */
  readonly n: number;
}

/** Differences b − a of pairs; null for no pairs. */
export function differenceOf(pairs: readonly (readonly [a: number, b: number])[]): Difference | null {
  const spread = spreadOf(pairs.map(([a, b]) => b - a));
  if (!spread) return null;
  return { mean: spread.mean, stderr: spread.sd === null ? null : spread.sd / Math.sqrt(spread.n), n: spread.n };
}

/** Mean distance |a − b| over the places of two lists of the same length. */
export function distanceOf(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, index) => sum + Math.abs(value - (b[index] ?? NaN)), 0) / a.length;
}

/** Mean distance of all pairs of lists; null for fewer than two. */
export function meanDistance(lists: readonly (readonly number[])[]): number | null {
  const distances = lists.flatMap((a, index) => lists.slice(index + 1).map((b) => distanceOf(a, b)));
  return spreadOf(distances)?.mean ?? null;
}
