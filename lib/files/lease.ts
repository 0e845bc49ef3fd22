// Leases: parts of work in a folder that several processes share, also on several machines. The holder of a lease
// touches its file; where it has died, another process takes over.
//
// Generation n of the lease `name` is the file `name.n`, and creating a file is atomic. Who takes over a dead lease
// creates generation n + 1. No clock is compared with another: a lease is dead if its file stays untouched while the
// process that looks at it waits.
import { stopped } from "../core/errors.ts";
import { makeFolder, unwritable } from "./atomic.ts";
import { namesIn } from "./exists.ts";

/** A lease that this process holds. Dispose it to release it. */
export interface Lease extends AsyncDisposable {
  /** Fires where another process took over, since this one did not touch the lease for too long. */
  readonly lost: AbortSignal;
}

const DEFAULT_SECONDS = 60;
/** Touches within the time after which a lease is taken over. */
const TOUCHES = 6;
const POLL_MS = 500;

/** Leases in a folder. */
export class Leases {
  readonly #folder: string;
  readonly #milliseconds: number;
  /** When this process first saw a file at its present time of change. */
  readonly #seen = new Map<string, { readonly changed: number; readonly at: number }>();

  /** @param options - `takeOverAfter`: seconds without a touch after which a lease is taken over; default 60. */
  constructor(folder: string, { takeOverAfter = DEFAULT_SECONDS }: { readonly takeOverAfter?: number } = {}) {
    this.#folder = folder;
    this.#milliseconds = 1000 * takeOverAfter;
  }

  /** Takes a lease; null where another process holds it, or holds it perhaps. */
  async take(name: string): Promise<Lease | null> {
    await makeFolder(this.#folder);
    const generations = await this.#generations(name), last = generations.at(-1) ?? 0;
    if (last > 0 && !await this.#isDead(this.#path(name, last))) return null;
    const own = last + 1, path = this.#path(name, own);
    if (!await create(path)) return null;
    // Another process may have begun at generation 1 meanwhile, if the holder of the last one has released it.
    const others = (await this.#generations(name)).filter((one) => one !== own);
    if (others.some((one) => !generations.includes(one))) {
      await remove(path);
      return null;
    }
    for (const one of others) await remove(this.#path(name, one));
    return this.#hold(name, own);
  }

  /** Waits until it can take a lease. Throws the signal's reason. */
  async wait(name: string, signal?: AbortSignal): Promise<Lease> {
    for (;;) {
      signal?.throwIfAborted();
      const lease = await this.take(name);
      if (lease) return lease;
      await this.pause();
    }
  }

  /** Waits a moment before leases are tried again. */
  async pause(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, Math.min(POLL_MS, this.#milliseconds / TOUCHES)));
  }

  #hold(name: string, own: number): Lease {
    const lost = new AbortController(), path = this.#path(name, own);
    const touch = async (): Promise<void> => {
      const now = new Date();
      await Deno.utime(path, now, now).catch(() => {});
      const generations = await this.#generations(name).catch(() => [own]);
      if (generations.includes(own) && generations.at(-1) === own) return;
      clearInterval(timer);
      lost.abort(stopped(`another process took over ${name}`));
    };
    const timer = setInterval(() => void touch(), this.#milliseconds / TOUCHES);
    return {
      lost: lost.signal,
      async [Symbol.asyncDispose](): Promise<void> {
        clearInterval(timer);
        await remove(path);
      },
    };
  }

  #path(name: string, generation: number): string {
    return `${this.#folder}/${encodeURIComponent(name)}.${generation}`;
  }

  /** Generations of a lease that are there, in order. */
  async #generations(name: string): Promise<number[]> {
    const prefix = `${encodeURIComponent(name)}.`;
    const files = (await namesIn(this.#folder)).filter((file) => file.startsWith(prefix));
    const numbers = files.map((file) => file.slice(prefix.length)).filter((text) => /^[1-9]\d{0,14}$/.test(text));
    return numbers.map(Number).sort((a, b) => a - b);
  }

  /** Whether a file stayed untouched for as long as this process has looked at it. */
  async #isDead(path: string): Promise<boolean> {
    const changed = await Deno.stat(path).then(({ mtime }) => mtime?.getTime() ?? 0, () => null);
    if (changed === null) return false; // released just now
    const now = performance.now(), seen = this.#seen.get(path);
    if (seen?.changed === changed) return now - seen.at > this.#milliseconds;
    this.#seen.set(path, { changed, at: now });
    return false;
  }
}

/** Creates a file that says who holds the lease; false if it is there already. */
async function create(path: string): Promise<boolean> {
  const holder = JSON.stringify({ process: Deno.pid, since: new Date().toISOString() });
  try {
    await Deno.writeTextFile(path, `${holder}\n`, { createNew: true });
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.AlreadyExists) return false;
    throw unwritable(path, error);
  }
}

async function remove(path: string): Promise<void> {
  await Deno.remove(path).catch(() => {});
}
