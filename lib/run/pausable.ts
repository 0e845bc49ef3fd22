// A stream that loops may leave and take up again. Owns the pause; refuses to know what flows.

/**
 * One stream for all loops over it: leaving a loop pauses it, and the next loop goes on right there, with nothing lost in between. It is begun
 * with the first loop, and anew with the one after an error.
 */
export function pausable<T>(begin: () => AsyncGenerator<T, void, undefined>): AsyncIterable<T, void, undefined> {
  let stream: AsyncGenerator<T, void, undefined> | null = null;
  const next = async (): Promise<IteratorResult<T, void>> => {
    stream ??= begin();
    try {
      return await stream.next();
    } catch (error) {
      stream = null;
      throw error;
    }
  };
  return {
    [Symbol.asyncIterator]: () => ({ next, return: () => Promise.resolve({ done: true, value: undefined }) }),
  };
}
