// A stream that loops may leave and take up again. Owns the pause; refuses to know what flows.
import type { Lifetime } from "../model/lifetime.ts";

/**
 * One stream for all loops over it: leaving a loop pauses it, and the next loop goes on right there, with nothing lost in between. It is begun
 * with the first loop, and anew with the one after an error. From the end of `life` on it is refused, unless it had come to its own before.
 */
export function pausable<T>(
  begin: () => AsyncGenerator<T, void, undefined>,
  life: Lifetime,
): AsyncIterable<T, void, undefined> {
  let stream: AsyncGenerator<T, void, undefined> | null = null, isDone = false;
  const step = async (): Promise<IteratorResult<T, void>> => {
    const own = stream ??= begin();
    try {
      const result = await own.next();
      if (result.done) {
        life.check();
        isDone = stream === own; // else an error has ended it
      }
      return result;
    } catch (error) {
      if (stream === own) stream = null;
      throw error;
    }
  };
  const done = { done: true, value: undefined } as const;
  return {
    [Symbol.asyncIterator]: () => ({
      next: async () => isDone ? done : await life.during(step),
      return: () => Promise.resolve(done),
    }),
  };
}
