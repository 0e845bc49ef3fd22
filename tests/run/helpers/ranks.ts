// Ranks in one process, for tests: the sums and texts that they pass.
import { addInto, type Ranks } from "../../../lib/ranks/ranks.ts";

/** Ranks in one process: each call is answered once all have made it. */
export function together(size: number): Ranks[] {
  let calls: { readonly rank: number; readonly value: unknown; readonly resolve: (all: unknown[]) => void }[] = [];
  const meet = async <T>(rank: number, value: T): Promise<T[]> =>
    await new Promise<unknown[]>((resolve) => {
      calls.push({ rank, value, resolve });
      if (calls.length < size) return;
      const met = calls.sort((a, b) => a.rank - b.rank);
      calls = [];
      for (const { resolve } of met) resolve(met.map(({ value }) => value));
    }) as T[];
  return Array.from({ length: size }, (_, rank) => ({
    rank,
    size,
    async sum(parts): Promise<Float32Array<ArrayBuffer>> {
      const all = (await meet(rank, parts)).flat(), total = new Float32Array(all[0]?.length ?? 0);
      for (const part of all) addInto(total, part);
      return total;
    },
    textOf: async (from, text) => (await meet(rank, text))[from] ?? "",
  }));
}
