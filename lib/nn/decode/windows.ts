// Pages of the KV caches by attention window: in layers with a window a sequence has a ring of pages, which later tokens take again.
import type { Device } from "../../gpu/device.ts";
import { cacheWindowsOf, type DecoderSpec } from "../../spec/decoder.ts";
import type { PageTable } from "../products/matvec.ts";
import { pagesOf, tokensOf } from "./cache.ts";

/** Tokens that a layer reads of its cache (`cacheWindow`); undefined for layers that see all tokens. */
export type Window = number | undefined;

/** Something for the layers of each window that a model has. */
export type ByWindow<T> = ReadonlyMap<Window, T>;

/**
 * Largest number of tokens that one plan reads after cached ones if layers have windows. A ring holds these tokens and
 * what the first of them sees.
 */
export const WINDOW_PART = 256;

/** Pages that a sequence of this many tokens takes in the cache of a layer with this window. */
export function pagesIn(window: Window, tokens: number): number {
  const all = pagesOf(tokens);
  return window === undefined ? all : Math.min(all, pagesOf(window + WINDOW_PART - 2) + 1);
}

/** A value for each window of the model. */
export function byWindow<T>(spec: DecoderSpec, valueOf: (window: Window) => T): Map<Window, T> {
  return new Map(cacheWindowsOf(spec).map((window) => [window, valueOf(window)]));
}

/** Uploads the tables of one sequence: page i of its tokens lies in page i mod n of its n pages. */
export function createPageTables(
  device: Device,
  own: ByWindow<readonly number[]>,
  capacity: number,
): ByWindow<PageTable> & Disposable {
  const stack = new DisposableStack(), perRow = pagesOf(capacity);
  const tables = new Map([...own].map(([window, pages]): [Window, PageTable] => {
    const buffer = stack.use(device.uploadBuffer("pages", pagesAround(pages, perRow)));
    return [window, { buffer, perRow, ring: pages.length }];
  }));
  return Object.assign(tables, { [Symbol.dispose]: () => stack.dispose() });
}

/** The pages of `count` pages of tokens. */
export function pagesAround(own: readonly number[], count: number): Uint32Array<ArrayBuffer> {
  return Uint32Array.from({ length: count }, (_, page) => own[page % own.length] ?? 0);
}

/** The first page that the token after the first `tokens` sees. */
export function firstPageSeen(window: Window, tokens: number): number {
  return window === undefined ? 0 : Math.floor(Math.max(0, tokens + 1 - window) / tokensOf(1));
}

/** Pages of caches, for all sequences, and which of them no sequence has. */
export interface PagePool {
  readonly free: number;
  /** Pages for `tokens` tokens. The first pages are `shared` with other sequences. Null if there are not enough pages. */
  take(tokens: number, shared?: readonly number[]): number[] | null;
  /** Frees pages that no other sequence has. */
  give(pages: readonly number[]): void;
}

/** A pool of the layers with this window. */
export function createPool(window: Window, count: number): PagePool {
  const free = Array.from({ length: count }, (_, page) => count - 1 - page);
  /** Sequences that have each page. */
  const users = new Uint8Array(count);
  return {
    get free(): number {
      return free.length;
    },
    take(tokens, shared = []): number[] | null {
      const wanted = pagesIn(window, tokens) - shared.length;
      if (free.length < wanted) return null;
      const own = [...shared, ...free.splice(free.length - wanted)];
      for (const page of own) users[page] = (users[page] ?? 0) + 1;
      return own;
    },
    give(pages): void {
      for (const page of pages) {
        const left = (users[page] ?? 0) - 1;
        users[page] = left;
        if (left === 0) free.push(page);
      }
    },
  };
}

/**
 * Whether the rings of a sequence still hold what the token after the first `tokens` sees. `reach` is the largest
 * number of tokens that they have held; `pages` counts the pages of the sequence.
 */
export function stillHolds(
  tokens: number,
  { reach, pages }: { readonly reach: number; readonly pages: ByWindow<number> },
): boolean {
  if (tokens === 0) return true;
  return [...pages].every(([window, count]) =>
    window === undefined || firstPageSeen(window, tokens) + count >= pagesOf(reach)
  );
}
