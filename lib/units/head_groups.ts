// Groups query heads that share a KV head, with equal group sizes as every file format requires.

/**
 * Heads of a layer: the base query head or KV head at each position, −1 for zeros. Query head h reads KV head floor(h /
 * size).
 */
export interface HeadPlan {
  readonly heads: Int32Array;
  readonly kvHeads: Int32Array;
}

/** A KV head of the base and the query heads that read it. */
export interface HeadGroup {
  readonly kv: number;
  readonly heads: readonly number[];
}

/**
 * Splits the groups into groups of `size` query heads. A longer group is split and its KV head repeated; a shorter one
 * is padded with heads of zeros. With `kvHeads`, groups of zeros are added up to that number.
 */
export function planHeads(
  groups: readonly HeadGroup[],
  options: { readonly size: number; readonly kvHeads?: number },
): HeadPlan {
  const { size } = options;
  const heads: number[] = [], kvHeads: number[] = [];
  for (const { kv, heads: own } of groups) {
    for (let first = 0; first < own.length; first += size) {
      kvHeads.push(kv);
      for (let i = first; i < first + size; i++) heads.push(own[i] ?? -1);
    }
  }
  while (kvHeads.length < (options.kvHeads ?? 0)) {
    kvHeads.push(-1);
    for (let i = 0; i < size; i++) heads.push(-1);
  }
  return { heads: Int32Array.from(heads), kvHeads: Int32Array.from(kvHeads) };
}

/**
 * The group size with the fewest parameters if all `layers` must have the same group size, and as many KV heads as the
 * layer with the most. Ties go to the largest size, which has the fewest KV heads. A layer is the list of the lengths
 * of its groups.
 */
export function cheapestGroupSize(layers: readonly (readonly number[])[]): number {
  const longest = Math.max(1, ...layers.flat());
  let best = longest, least = Infinity;
  for (let size = longest; size >= 1; size--) {
    const kvHeads = Math.max(0, ...layers.map((groups) => groups.reduce((sum, n) => sum + Math.ceil(n / size), 0)));
    // A group costs its query heads (rows of q, columns of o) and its KV head (rows of k and v), each 2·headDim·hidden.
    const cost = kvHeads * (size + 1);
    if (cost < least) [best, least] = [size, cost];
  }
  return best;
}
