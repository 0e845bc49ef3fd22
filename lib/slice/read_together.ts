// One reading of a model for two writers that work at the same time.
import type { WeightSource } from "../spec/source.ts";

/** A source for one of the writers; dispose it when that writer has ended. */
export interface SharedSource extends WeightSource, Disposable {}

/** Tensors that are kept for the other writer at a time. */
const MOST_KEPT = 2;

/**
 * The same weights for two writers that read whole tensors in about the same order and do not change them. A tensor is
 * read once and kept until the other writer has read it too. A writer that is ahead waits for the other; if both would
 * wait, a tensor is dropped and read again later.
 */
export function readTogether(source: WeightSource): readonly [SharedSource, SharedSource] {
  const kept = new Map<string, { readonly by: number; readonly values: ReturnType<WeightSource["read"]> }>();
  const begun = new Set<string>(), ended = new Set<number>();
  let waiting: { readonly by: number; readonly go: () => void } | null = null;
  const wake = (): void => {
    waiting?.go();
    waiting = null;
  };
  const read = async (name: string, by: number): ReturnType<WeightSource["read"]> => {
    const isAlone = (): boolean => ended.has(1 - by);
    while (!begun.has(name) && kept.size >= MOST_KEPT && !isAlone() && !waiting) {
      const { promise, resolve } = Promise.withResolvers<void>();
      waiting = { by, go: resolve };
      await promise;
    }
    const own = kept.get(name);
    if (own && own.by !== by) {
      kept.delete(name);
      wake();
      return await own.values;
    }
    const values = source.read(name);
    if (begun.has(name) || isAlone()) return await values;
    begun.add(name);
    const [oldest] = kept.keys();
    if (kept.size >= MOST_KEPT && oldest !== undefined) kept.delete(oldest);
    kept.set(name, { by, values });
    return await values;
  };
  const viewOf = (by: number): SharedSource => ({
    ...source,
    read: (name, rows) => rows ? source.read(name, rows) : read(name, by),
    [Symbol.dispose]: (): void => {
      ended.add(by);
      for (const [name, tensor] of kept) if (tensor.by !== by) kept.delete(name);
      wake();
    },
  });
  return [viewOf(0), viewOf(1)];
}
