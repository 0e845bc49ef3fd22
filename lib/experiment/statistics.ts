// Means and spreads over seeds, and differences between pairs of runs.

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

/** What differs between the runs of a pair, and the seed that both have. */
export interface SeedValue {
  /** Any name; alike in all pairs where there is but one seed. */
  readonly seed: string;
  /** A name of the other options that both runs have. */
  readonly setting: string;
  /** The difference. */
  readonly value: number;
}

/**
 * Mean of a difference over seeds, where the value of a seed is the mean of its pairs. Its standard error is sd /
 * √seeds, null for one seed. If no two seeds have pairs of the same setting, it is the mean of all pairs, without a
 * standard error.
 */
export interface Difference {
  /** The mean. */
  readonly mean: number;
  /** Its standard error. */
  readonly stderr: number | null;
  /** Pairs. */
  readonly n: number;
  /** Seeds that they are of. */
  readonly seeds: number;
  /** Pairs that are left out because other seeds lack their setting. */
  readonly leftOut: number;
}

/**
 * Mean over pairs, seed by seed: two pairs of one seed may share most of their steps, so they are not independent. To measure the spread over seeds alone,
 * only settings count that were run with all seeds of the most common setting. Null for no pairs.
 */
export function differenceOf(pairs: readonly SeedValue[]): Difference | null {
  const seedsOf = (some: readonly SeedValue[]): ReadonlySet<string> => new Set(some.map(({ seed }) => seed));
  const bySetting = new Map(
    [...Map.groupBy(pairs, ({ setting }) => setting)].map(([name, own]) => [name, seedsOf(own)]),
  );
  const seeds = [...bySetting.values()].reduce((most, own) => own.size > most.size ? own : most, new Set<string>());
  const isShared = seeds.size > 1 || seedsOf(pairs).size === 1;
  const used = pairs.filter(({ seed, setting }) =>
    !isShared || (seeds.has(seed) && bySetting.get(setting)?.isSupersetOf(seeds))
  );
  const bySeed = [...Map.groupBy(used, ({ seed }) => seed).values()].map((own) => own.map(({ value }) => value));
  const spread = spreadOf(isShared ? bySeed.map((own) => spreadOf(own)?.mean ?? NaN) : bySeed.flat());
  if (!spread) return null;
  const { mean, sd } = spread, stderr = sd === null || !isShared ? null : sd / Math.sqrt(bySeed.length);
  return { mean, stderr, n: used.length, seeds: bySeed.length, leftOut: pairs.length - used.length };
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
