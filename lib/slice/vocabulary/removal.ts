// The order in which tokens are cut: first the tokens whose parts lengthen texts least.
import type { TokenPieces } from "./pieces.ts";

/** Tokens in the order in which they are cut. */
export interface Removal {
  /** Ids of all tokens that may be cut, the first to go first. */
  readonly order: Int32Array;
  /** Expected number of additional tokens in the texts once all tokens up to this one are cut. */
  readonly extra: Float64Array;
}

/**
 * Orders the tokens that may be cut. Each step cuts the token with the least cost: its uses times (number of its parts
 * − 1), where a byte counts as two. Its uses are then added to its parts, so the parts of a frequent word stay. A token
 * is cut only after all tokens that need it.
 */
export function removalOrder(
  { ids, isFixed, isByte, parts, needs }: TokenPieces,
  uses: ArrayLike<number>,
): Removal {
  const count = Float64Array.from(uses),
    isGone = new Uint8Array(isFixed.length),
    dependents = new Int32Array(isFixed.length);
  for (const id of ids) for (const part of needs[id] ?? []) dependents[part] = (dependents[part] ?? 0) + 1;
  const standing = (id: number): number[] =>
    (parts[id] ?? []).flatMap((part) => isGone[part] ? standing(part) : [part]);
  // A model hardly ever saw bytes where a character has a token: a digit that becomes its byte is no longer known.
  const cost = (id: number): number => {
    const stands = standing(id), bytes = stands.reduce((sum, part) => sum + (isByte[part] ?? 0), 0);
    return (count[id] ?? 0) * (stands.length + bytes - 1);
  };
  const heap = new CostHeap(), removable = ids.filter((id) => !isFixed[id]);
  // Of equal costs the later token goes first.
  for (const id of removable.toReversed()) if (dependents[id] === 0) heap.push(id, cost(id));
  const order = new Int32Array(removable.length), extra = new Float64Array(removable.length);
  let done = 0, total = 0;
  for (let next = heap.pop(); next; next = heap.pop()) {
    const { id } = next, now = cost(id);
    if (now !== next.cost) {
      // It has grown since, with the uses of tokens that were cut.
      heap.push(id, now);
      continue;
    }
    const stands = standing(id);
    isGone[id] = 1;
    total += (count[id] ?? 0) * (stands.length - 1);
    order[done] = id;
    extra[done++] = total;
    for (const part of stands) count[part] = (count[part] ?? 0) + (count[id] ?? 0);
    for (const part of needs[id] ?? []) {
      const left = (dependents[part] ?? 0) - 1;
      dependents[part] = left;
      if (left === 0 && !isFixed[part]) heap.push(part, cost(part));
    }
  }
  return { order: order.subarray(0, done), extra: extra.subarray(0, done) };
}

/** A binary heap of ids by cost; of equal ones the first comes first. */
class CostHeap {
  readonly #entries: { readonly id: number; readonly cost: number; readonly turn: number }[] = [];
  #turn = 0;

  push(id: number, cost: number): void {
    const entries = this.#entries, entry = { id, cost, turn: this.#turn++ };
    let at = entries.length;
    entries.push(entry);
    while (at > 0) {
      const above = (at - 1) >> 1, other = entries[above];
      if (!other || !isBefore(entry, other)) break;
      entries[at] = other;
      at = above;
    }
    entries[at] = entry;
  }

  pop(): { readonly id: number; readonly cost: number } | undefined {
    const entries = this.#entries, first = entries[0], last = entries.pop();
    if (!first || !last || entries.length === 0) return first;
    let at = 0;
    for (;;) {
      const left = 2 * at + 1, right = left + 1;
      let least = left;
      const a = entries[left], b = entries[right];
      if (a && b && isBefore(b, a)) least = right;
      const other = entries[least];
      if (!other || !isBefore(other, last)) break;
      entries[at] = other;
      at = least;
    }
    entries[at] = last;
    return first;
  }
}

interface Entry {
  readonly cost: number;
  readonly turn: number;
}

function isBefore(a: Entry, b: Entry): boolean {
  return a.cost < b.cost || (a.cost === b.cost && a.turn < b.turn);
}
