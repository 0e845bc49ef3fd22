// Makes looks at masks for tests of the oscillation monitor.
import type { KindState, MaskLook } from "../../../lib/run/contract.ts";

/** A look that says which units are closed: all of one kind, or of kinds by name and number of units, in their order. */
export function turningLook(
  closed: Uint8Array,
  counts: Readonly<Record<string, number>> = { units: closed.length },
): MaskLook {
  let first = 0;
  const kinds = Object.entries(counts).map(([name, count]): KindState => {
    const kind = { name, first, count, all: count, cut: 0, share: 1 };
    first += count;
    return kind;
  });
  return { layers: [], kinds, closed, broken: null };
}
