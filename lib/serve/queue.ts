// A few requests at a time on the GPU; the others wait in order.
import { ApiError } from "./api_error.ts";

/** The line of requests. */
export interface Queue {
  /** Whether any request is being worked on. */
  readonly isBusy: boolean;
  /** Whether newcomers are sent away. */
  readonly isClosed: boolean;
  /** Requests that wait. */
  readonly waiting: number;
  /**
   * Resolves when it is this request's turn, which lasts until the result is disposed.
   * Throws `ApiError` 429 if too many wait and 503 if the line is closed, and the signal's reason if it fires first.
   */
  enter(signal: AbortSignal): Promise<Disposable>;
  /** Refuses all waiting and later requests; turns under way may end. */
  close(): void;
  /** Resolves when nobody has the turn. */
  idle(): Promise<void>;
}

interface Waiting {
  readonly begin: () => void;
  readonly leave: (reason: unknown) => void;
}

/** Makes a line in which at most `most` requests wait, while `turns` (default 1) have their turn. */
export function createQueue({ most, turns = 1 }: { readonly most: number; readonly turns?: number }): Queue {
  const line: Waiting[] = [];
  let running = 0, isClosed = false, idle = Promise.withResolvers<void>();
  idle.resolve();

  const next = (): void => {
    const first = line.shift();
    if (first) first.begin();
    else if (--running === 0) idle.resolve();
  };
  const turn = (): Disposable => {
    let isOver = false;
    return {
      [Symbol.dispose](): void {
        if (isOver) return;
        isOver = true;
        next();
      },
    };
  };

  return {
    get isBusy(): boolean {
      return running > 0;
    },
    get isClosed(): boolean {
      return isClosed;
    },
    get waiting(): number {
      return line.length;
    },
    async enter(signal): Promise<Disposable> {
      signal.throwIfAborted();
      if (isClosed) throw closing();
      if (running < turns) {
        if (running++ === 0) idle = Promise.withResolvers<void>();
        return turn();
      }
      if (line.length >= most) throw full(most);
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const waiting: Waiting = { begin: resolve, leave: reject };
      const onAbort = (): void => {
        const at = line.indexOf(waiting);
        if (at < 0) return; // its turn has begun
        line.splice(at, 1);
        reject(signal.reason);
      };
      line.push(waiting);
      signal.addEventListener("abort", onAbort);
      try {
        await promise;
      } finally {
        signal.removeEventListener("abort", onAbort);
      }
      return turn();
    },
    close(): void {
      isClosed = true;
      for (const { leave } of line.splice(0)) leave(closing());
    },
    idle: () => idle.promise,
  };
}

function full(most: number): ApiError {
  return new ApiError({
    status: 429,
    message: `too many requests: ${most} wait already`,
    type: "rate_limit_error",
    code: "queue_full",
    retryAfter: 1,
  });
}

/** The error of requests that come or wait while the server stops. */
export function closing(): ApiError {
  return new ApiError({ status: 503, message: "the server is shutting down", code: "shutting_down" });
}
