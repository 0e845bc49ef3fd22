// A layer's short convolution over cached tokens.
import { existing } from "../../core/guards.ts";
import { cacheWindow } from "../../spec/decoder.ts";
import type { DecoderContext } from "../context.ts";
import { recordCachedShortConv } from "../short_conv.ts";
import { type CacheState, pagesFor, pagesOf, tokensOf } from "./cache.ts";

/**
 * Computes c of each row of the context, and adds the inputs of the rows to the cache. The rows are tokens of one sequence, or with `own` each the
 * next token of a separate one.
 */
export function recordCachedConv(
  { plan, act, weights: { spec, layers } }: DecoderContext,
  state: CacheState,
  { index, own }: { readonly index: number; readonly own: boolean },
): void {
  const { caches, position, capacity } = state,
    { rows } = act,
    { spec: layer, conv } = existing(layers[index], "layer");
  const { bcx, c } = existing(act.layers[index]?.convolved, "buffers of a convolution"),
    cache = existing(caches.convolutions[index], "cache");
  const { length } = existing(spec.convolution, "convolution of the model"), { taps } = existing(conv, "convolution");
  const pages = pagesFor(state, cacheWindow(spec, layer)), { ring = Infinity } = pages;
  // Of tokens that have the same place in a ring the last one stays.
  const first = own ? 0 : Math.max(0, tokensOf(pagesOf(rows) - ring));
  const shape = { rows, width: spec.hidden, length, first, cache, position, pages, capacity, own };
  recordCachedShortConv(plan, { bcx, taps, y: c }, shape);
}
