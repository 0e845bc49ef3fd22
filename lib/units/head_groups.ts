// Query heads in groups that share a KV head, made equal in size as every file format requires.

/** Heads of a layer: the base's query head or KV head at each place, −1 for zeros. Query head h reads KV head floor(h / size). */
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
 * Cuts the groups into groups of `size` query heads. A longer group is split, its KV head repeated; a shorter one is filled with zero heads.
 * With `kvHeads`, zero groups follow until there are so many.
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
 * The group size with the fewest parameters where all of `layers` must have it and as many KV heads as the one with most.
 * Of equal ones the largest, which has the fewest KV heads. A layer is the list of its groups' lengths.
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
