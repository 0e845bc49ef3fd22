// How many micro-batches of a step each rank takes, by the times of earlier steps.
import { gathered, type Ranks } from "../ranks/ranks.ts";

/** Which micro-batches of a step a rank takes. The sum is in their order, so the dealing does not change its bits. */
export interface Shares {
  /** The first micro-batch of this rank in the next step, and the one after its last. */
  readonly range: { readonly start: number; readonly end: number };
  /** Takes the seconds of this rank's micro-batches of a step. All ranks call it after each step. */
  add(seconds: number): Promise<void>;
}

/** Steps between two exchanges of times. */
const EVERY = 8;
/** Share of a step's time from which another dealing is worth it; less is noise. */
const WORTH = 0.05;

/**
 * Deals `count` micro-batches evenly, and again by time once ranks differ in speed. `onDealt` then gets the number of
 * each rank.
 */
export function createShares(
  count: number,
  { ranks, onDealt }: {
    readonly ranks?: Ranks | undefined;
    readonly onDealt?: ((counts: readonly number[]) => void) | undefined;
  },
): Shares {
  const { rank, size } = ranks ?? { rank: 0, size: 1 };
  let counts = dealtByTime(count, new Array<number>(size).fill(1)), times: number[] = [];
  /** Seconds that this rank takes for one micro-batch; null if unknown. */
  let known: number | null = null;
  return {
    get range(): Shares["range"] {
      const start = counts.slice(0, rank).reduce((sum, own) => sum + own, 0);
      return { start, end: start + (counts[rank] ?? 0) };
    },
    async add(seconds): Promise<void> {
      if (!ranks || size === 1 || count === size) return; // there is nothing to choose
      times.push(seconds / (counts[rank] ?? 1));
      if (times.length < EVERY) return;
      const recent = median(times);
      known = known === null ? recent : (known + recent) / 2; // a machine that was busy for a while is no slow one
      times = [];
      const all = await gathered(ranks, known), next = dealtByTime(count, all);
      if (longest(next, all) > (1 - WORTH) * longest(counts, all)) return;
      counts = next;
      onDealt?.(counts);
    },
  };
}

/**
 * Deals items to ranks; `seconds` has the time of each rank for one item. Every rank gets one, then each further item
 * goes to the rank that would finish it first.
 */
function dealtByTime(count: number, seconds: readonly number[]): number[] {
  const counts = seconds.map(() => 1);
  for (let left = count - counts.length; left > 0; left--) {
    const ends = seconds.map((own, rank) => own * ((counts[rank] ?? 0) + 1)), first = ends.indexOf(Math.min(...ends));
    counts[first] = (counts[first] ?? 0) + 1;
  }
  return counts;
}

/** Seconds of a step without the sum. */
function longest(counts: readonly number[], seconds: readonly number[]): number {
  return Math.max(...counts.map((count, rank) => count * (seconds[rank] ?? 0)));
}

/** The median, which steps that compile kernels or wait for a disk do not move. */
function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}
