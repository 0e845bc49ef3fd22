// Tokens per second of one text.
import type { FinishReason } from "./generate.ts";

/** Seconds of one text. Time in which no token was asked for is in neither. */
export interface TokenTimes {
  /** Tokens so far. */
  readonly count: number;
  /** Until the first token: reading the prompt, compiling kernels. */
  readonly promptSeconds: number;
  /** Of the tokens after the first. */
  readonly tokenSeconds: number;
}

/** Tokens that are timed as they are asked for. */
export interface TimedTokens {
  readonly tokens: AsyncGenerator<number, FinishReason, undefined>;
  /** Of the tokens so far. */
  readonly times: TokenTimes;
}

/** Times tokens; for figures that mean something, nothing else may use the GPU while one is awaited. */
export function timeTokens(source: AsyncGenerator<number, FinishReason, undefined>): TimedTokens {
  const times = { count: 0, promptSeconds: 0, tokenSeconds: 0 };
  return { tokens: tokens(), times };

  async function* tokens(): AsyncGenerator<number, FinishReason, undefined> {
    try {
      for (;;) {
        const from = performance.now();
        const { done, value } = await source.next();
        const seconds = (performance.now() - from) / 1000;
        if (times.count === 0) times.promptSeconds += seconds;
        else if (!done) times.tokenSeconds += seconds; // an end token does not count
        if (done) return value;
        times.count++;
        yield value;
      }
    } finally {
      await source.return("stop");
    }
  }
}

/** Tokens a second after the first token; null if there are no such tokens. */
export function tokensPerSecond({ count, tokenSeconds }: TokenTimes): number | null {
  return count > 1 && tokenSeconds > 0 ? (count - 1) / tokenSeconds : null;
}
