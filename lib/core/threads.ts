// Runs pure functions of modules on all cores; where no threads can be started, in the calling one.

/** A function of a module with its arguments, as it is sent to a thread. */
export interface ThreadCall {
  /** Address of the module. */
  readonly module: string;
  /** Name under which the module exports the function. */
  readonly name: string;
  readonly args: readonly unknown[];
}

/** What a thread answers: that it has started, a result, or the text of an error. */
export type ThreadAnswer = "ready" | { readonly value: unknown } | { readonly error: string };

/** Name of all threads. */
export const THREAD_NAME = "compresso thread";

/** Most threads: beyond it reading and writing set the pace. */
const MOST_THREADS = 16;

/** Milliseconds in which threads must have started. They take about a tenth of a second. */
const START_LIMIT = 10_000;

/** Calls with fewer bytes are not worth a thread. */
const LEAST_BYTES = 1 << 20;

/** A call that waits for a thread or for its answer. */
interface Waiting {
  readonly call: ThreadCall;
  readonly transfer: ArrayBuffer[];
  readonly answer: PromiseWithResolvers<unknown>;
}

let holders = 0, limit = START_LIMIT, started: Promise<Threads | null> | null = null;

/**
 * Keeps threads for {@link onThread} until it is disposed. They start with the first call; if they do not within
 * `startLimit` milliseconds, there are none.
 */
export function holdThreads({ startLimit = START_LIMIT }: { readonly startLimit?: number } = {}): Disposable {
  const stack = new DisposableStack();
  if (holders++ === 0) limit = startLimit;
  stack.defer(() => {
    if (--holders > 0) return;
    void started?.then((threads) => threads?.[Symbol.dispose]());
    started = null;
  });
  return stack;
}

/** Number of calls of {@link onThread} that can run at once. */
function threadCount(): number {
  return holders > 0 ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
}

/**
 * Calls a function that the module at an address exports under its own name: on a thread, or here where nobody holds
 * threads, none can be started or the work is small. It must depend on its arguments alone. The caller gives up the
 * buffers of `transfer`, which must be among the arguments. The address is asked for where there are threads alone: the
 * one script that a page bundles, as a blob, has no addresses of modules.
 */
export async function onThread<Args extends readonly unknown[], Result>(
  module: () => string,
  work: (...args: Args) => Result,
  args: Args,
  { transfer = [] }: { readonly transfer?: ArrayBuffer[] } = {},
): Promise<Result> {
  const isLarge = transfer.reduce((sum, { byteLength }) => sum + byteLength, 0) >= LEAST_BYTES;
  const threads = holders > 0 && isLarge ? await (started ??= Threads.start(threadCount(), limit)) : null;
  if (!threads) return work(...args);
  return await threads.run({ module: module(), name: work.name, args }, transfer) as Result;
}

/** Works on the pieces of something with so many at a time that all threads are busy, and uses the results in order. */
export async function inOrder<Piece, Result>(
  pieces: readonly Piece[],
  make: (piece: Piece) => Promise<Result>,
  use: (result: Result, piece: Piece) => void | Promise<void>,
): Promise<void> {
  const ahead = threadCount(), pending: Promise<Result>[] = [];
  try {
    for (const [index, piece] of pieces.entries()) {
      for (const next of pieces.slice(index + pending.length, index + ahead)) {
        const result = make(next);
        result.catch(() => {}); // thrown when its turn comes
        pending.push(result);
      }
      const result = pending.shift();
      if (result) await use(await result, piece);
    }
  } finally {
    await Promise.allSettled(pending);
  }
}

/** Beginnings of pieces of so many values. */
export function pieceStarts(values: number, size: number): number[] {
  return Array.from({ length: Math.ceil(values / size) }, (_, index) => index * size);
}

class Threads implements Disposable {
  readonly #idle: Worker[];
  readonly #all: readonly Worker[];
  readonly #waiting: Waiting[] = [];

  private constructor(workers: readonly Worker[]) {
    this.#all = workers;
    this.#idle = [...workers];
  }

  /** Null where threads cannot be started in time, or at all, such as without the right to read their file. */
  static async start(count: number, limit: number): Promise<Threads | null> {
    const workers: Worker[] = [];
    try {
      const file = new URL("./thread.ts", import.meta.url);
      // Where it may not be read this throws, and a worker would print that too.
      await import(file.href);
      for (let index = 0; index < count; index++) {
        workers.push(new Worker(file, { type: "module", name: THREAD_NAME }));
      }
      await within(limit, Promise.all(workers.map((worker) => answerOf(worker))));
      return new Threads(workers);
    } catch {
      for (const worker of workers) worker.terminate();
      return null;
    }
  }

  async run(call: ThreadCall, transfer: ArrayBuffer[]): Promise<unknown> {
    const answer = Promise.withResolvers<unknown>();
    this.#waiting.push({ call, transfer, answer });
    this.#send();
    return await answer.promise;
  }

  #send(): void {
    const worker = this.#waiting.length > 0 ? this.#idle.pop() : undefined, next = worker && this.#waiting.shift();
    if (!worker || !next) return;
    answerOf(worker).then((answer) => {
      this.#idle.push(worker);
      this.#send();
      if (answer === "ready") throw new Error("a thread has started twice");
      if ("error" in answer) throw new Error(answer.error);
      return answer.value;
    }).then(next.answer.resolve, next.answer.reject);
    worker.postMessage(next.call, next.transfer);
  }

  [Symbol.dispose](): void {
    for (const worker of this.#all) worker.terminate();
  }
}

/** What a promise gives, or an error after so many milliseconds. */
async function within<Result>(milliseconds: number, work: Promise<Result>): Promise<Result> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error("the threads have not started")), milliseconds);
  try {
    return await Promise.race([work, promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** The next message of a thread. */
function answerOf(worker: Worker): Promise<ThreadAnswer> {
  const { promise, resolve, reject } = Promise.withResolvers<ThreadAnswer>();
  worker.onmessage = ({ data }: MessageEvent<ThreadAnswer>): void => resolve(data);
  worker.onerror = (event): void => {
    event.preventDefault();
    reject(new Error(event.message));
  };
  return promise;
}
