// Rows of a derived tensor from base rows in memory, on a thread: selected, scaled, with a low-rank update. Computed in
// f64, rounded once.

/** Rows to derive. */
export interface RowWork {
  /** Base rows, [any, baseWidth]. */
  readonly values: Float32Array<ArrayBuffer>;
  readonly baseWidth: number;
  /** Place of each new row within `values`; −1 for zeros. */
  readonly rows: Int32Array<ArrayBuffer>;
  /** Base column of each new column, −1 for zeros; null for all in order. */
  readonly cols: Int32Array | null;
  /** Factors of the new rows; null for 1. */
  readonly rowScale: Float64Array | null;
  /** Factors of the new columns; null for 1. */
  readonly colScale: Float64Array | null;
  readonly update: LowRankRows | null;
}

/** Low-rank update of new rows: row i gets Σᵣ factors[i, r]·a[r]. */
export interface LowRankRows {
  /** [rank, new columns]; zeros for columns of −1. */
  readonly a: Float64Array;
  /** [new rows, rank]. */
  readonly factors: Float64Array;
}

/** The new rows, [rows, new columns]. */
export function remapRows(work: RowWork): Float32Array<ArrayBuffer> {
  const { values, baseWidth, rows, cols, rowScale, colScale, update } = work;
  const width = cols?.length ?? baseWidth, isScaled = rowScale !== null || colScale !== null;
  const out = new Float32Array(rows.length * width);
  const sum = update || isScaled ? new Float64Array(width) : null;
  const empty = cols?.includes(-1) ? [...cols.keys()].filter((i) => (cols[i] as number) < 0) : [];
  for (let place = 0; place < rows.length; place++) {
    const row = rows[place] as number, from = row * baseWidth, to = place * width;
    if (row < 0) continue;
    const target = sum ?? out, at = sum ? 0 : to;
    if (cols) { for (let i = 0; i < width; i++) target[at + i] = values[from + (cols[i] as number)] as number; }
    else target.set(values.subarray(from, from + width), at);
    if (sum) {
      if (update) addLowRank(sum, update, place);
      if (isScaled) scale(sum, rowScale?.[place] ?? 1, colScale);
      out.set(sum, to);
    }
    for (const i of empty) out[to + i] = 0;
  }
  return out;
}

/** Adds rank by rank, so that the order of the sum does not depend on how many are taken at once. */
function addLowRank(sum: Float64Array, { a, factors }: LowRankRows, place: number): void {
  const width = sum.length, rank = a.length / width, active: number[] = [];
  for (let r = 0; r < rank; r++) if (factors[place * rank + r] !== 0) active.push(r);
  const factor = (index: number): number => factors[place * rank + (active[index] as number)] as number;
  const begin = (index: number): number => width * (active[index] as number);
  let done = 0;
  for (; done + 4 <= active.length; done += 4) {
    const f0 = factor(done), f1 = factor(done + 1), f2 = factor(done + 2), f3 = factor(done + 3);
    const a0 = begin(done), a1 = begin(done + 1), a2 = begin(done + 2), a3 = begin(done + 3);
    for (let i = 0; i < width; i++) {
      sum[i] = (sum[i] as number) + f0 * (a[a0 + i] as number) + f1 * (a[a1 + i] as number) +
        f2 * (a[a2 + i] as number) + f3 * (a[a3 + i] as number);
    }
  }
  for (; done < active.length; done++) {
    const f = factor(done), first = begin(done);
    for (let i = 0; i < width; i++) sum[i] = (sum[i] as number) + f * (a[first + i] as number);
  }
}

function scale(sum: Float64Array, factor: number, colScale: Float64Array | null): void {
  if (colScale) { for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) * factor * (colScale[i] as number); }
  else for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) * factor;
}
