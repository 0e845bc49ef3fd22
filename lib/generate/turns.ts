// Turns of the GPU: the work of one kind proceeds only during its turns.

/** Work that has turns. */
export interface Turns {
  /** Resolves as soon as there is a turn. Called by the work between its parts. */
  wait(): Promise<void>;
  /** Gives a turn until `end` is called. */
  begin(): void;
  /** Ends the turn; parts that have begun still end. */
  end(): void;
  /** Gives a turn of so many seconds, or until `isDone` settles, and resolves at its end. */
  give(seconds: number, isDone: Promise<unknown>): Promise<void>;
}

/** Makes turns; at first there is none. */
export function createTurns(): Turns {
  let turn = Promise.withResolvers<void>();
  const begin = (): void => turn.resolve();
  const end = (): void => {
    turn = Promise.withResolvers();
  };
  return {
    wait: () => turn.promise,
    begin,
    end,
    async give(seconds, isDone): Promise<void> {
      const late = Promise.withResolvers<void>(), timer = setTimeout(late.resolve, 1000 * seconds);
      begin();
      await Promise.race([late.promise, isDone.catch(() => {})]);
      clearTimeout(timer);
      end();
    },
  };
}
