// The choices of least error whose bytes stay within a budget.
/** One way to store a part: its bytes, and the error that it makes. */
export interface Choice {
  readonly bytes: number;
  /** At least 0. */
  readonly error: number;
}

/** States kept from one part to the next: below it the result is exact. */
const MOST_STATES = 1 << 14;

/** The useful choices for the parts so far, by rising bytes. A choice is dropped if another has no more bytes and no more error. */
interface Frontier {
  readonly bytes: Float64Array;
  readonly errors: Float64Array;
  /** The choice of the last part, and the state of the parts before it. */
  readonly choice: Uint8Array;
  readonly before: Uint32Array;
}

/**
 * Chooses for each part one of its choices (at most 255) so that the bytes are at most `most` and the sum of errors is
 * least; of equal errors the fewer bytes. Returns the index of each choice, or null if even the smallest are too large.
 *
 * Dynamic programming over the frontier of (bytes, error). While a frontier has at most 16,384 states the result is
 * exact. A longer one keeps the state of least error in each of so many equal spans of bytes; the bytes of all states
 * stay exact, so the budget holds always.
 *
 * @example
 * ```ts ignore
 * leastError([[{ bytes: 2, error: 5 }, { bytes: 4, error: 1 }], [{ bytes: 1, error: 3 }, { bytes: 3, error: 0 }]], 5); // [1, 0]
 * ```
 */
export function leastError(parts: readonly (readonly Choice[])[], most: number): number[] | null {
  // Bytes that the parts from each one on take at least.
  const least = new Float64Array(parts.length + 1);
  for (let at = parts.length - 1; at >= 0; at--) {
    least[at] = (least[at + 1] ?? 0) + Math.min(...(parts[at] ?? []).map(({ bytes }) => bytes));
  }
  const frontiers: Frontier[] = [];
  let last: Pick<Frontier, "bytes" | "errors"> = { bytes: new Float64Array(1), errors: new Float64Array(1) };
  for (const [at, choices] of parts.entries()) {
    const next = extended(last, choices, most - (least[at + 1] ?? 0));
    if (next.bytes.length === 0) return null;
    frontiers.push(next);
    last = next;
  }
  const chosen = new Array<number>(parts.length);
  // The last state has the least error.
  let state = last.bytes.length - 1;
  for (let at = parts.length - 1; at >= 0; at--) {
    chosen[at] = frontiers[at]?.choice[state] ?? 0;
    state = frontiers[at]?.before[state] ?? 0;
  }
  return chosen;
}

/** The frontier with one part more, of states with at most `most` bytes. */
function extended(
  { bytes, errors }: Pick<Frontier, "bytes" | "errors">,
  choices: readonly Choice[],
  most: number,
): Frontier {
  // With each choice the states stay in order: the lists are merged.
  const at = choices.map(() => 0), kept: { bytes: number; error: number; choice: number; before: number }[] = [];
  let best = Infinity;
  while (true) {
    let next = { bytes: Infinity, error: Infinity, choice: -1, before: 0 };
    for (const [choice, own] of choices.entries()) {
      const before = at[choice] ?? 0, total = (bytes[before] ?? Infinity) + own.bytes;
      if (total > next.bytes || total === Infinity) continue;
      const error = (errors[before] ?? 0) + own.error;
      if (total < next.bytes || error < next.error) next = { bytes: total, error, choice, before };
    }
    if (next.choice < 0 || next.bytes > most) break;
    at[next.choice] = next.before + 1;
    if (next.error >= best) continue;
    best = next.error;
    kept.push(next);
  }
  const states = thinned(kept);
  return {
    bytes: Float64Array.from(states, (state) => state.bytes),
    errors: Float64Array.from(states, (state) => state.error),
    choice: Uint8Array.from(states, (state) => state.choice),
    before: Uint32Array.from(states, (state) => state.before),
  };
}

/** Of states by rising bytes and falling error at most {@link MOST_STATES}: the first, and the last of each span of bytes. */
function thinned<State extends { readonly bytes: number }>(states: readonly State[]): readonly State[] {
  const first = states[0]?.bytes ?? 0, last = states.at(-1)?.bytes ?? 0;
  if (states.length <= MOST_STATES) return states;
  const span = (last - first) / (MOST_STATES - 2),
    spanOf = ({ bytes }: State): number => Math.floor((bytes - first) / span);
  return states.filter((state, at) => {
    const next = states[at + 1];
    return at === 0 || !next || spanOf(state) !== spanOf(next);
  });
}
