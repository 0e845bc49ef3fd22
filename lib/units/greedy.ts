// Pieces that fall in order until an aim is met, and come back where more fell than had to. Owns the order of both; refuses aims of its own.
import type { Piece } from "./pieces.ts";
import type { Tally } from "./tally.ts";
import type { UnitTable } from "./table.ts";

/** When enough is cut, and when too much; slack is in parameters. */
export interface Aim {
  readonly isMet: () => boolean;
  readonly overshoots: (slack: number) => boolean;
}

/**
 * Cuts pieces in order until the aim is met. Pieces that would overshoot by more than the smallest one are passed over; where that does not reach
 * the aim, all is begun anew with the next larger size, at last without limit. False where even that does not reach it.
 */
export function cutUntil(tally: Tally, order: readonly Piece[], aim: Aim): boolean {
  if (aim.isMet()) return true;
  const sizes = [...new Set(order.map(({ size }) => size))].sort((a, b) => a - b).slice(0, MOST_SLACKS);
  for (const slack of [...sizes, Infinity]) {
    const cut: Piece[] = [], stopped = new Set<string | null>();
    for (const piece of order) {
      if (piece.queue !== null && stopped.has(piece.queue)) continue;
      const fell = drop(tally, piece);
      if (fell && !aim.overshoots(slack)) cut.push(piece);
      else {
        if (fell) restore(tally, piece);
        stopped.add(piece.queue);
        continue;
      }
      if (aim.isMet()) return true;
    }
    if (slack !== Infinity) { for (const piece of cut.reverse()) restore(tally, piece); }
  }
  return false;
}

/**
 * {@link cutUntil} for a share of parameters: where a large piece fell last, on top of small ones, those come back that it has made needless.
 * Less than the smallest piece too much is left as it is.
 */
export function cutTo(table: UnitTable, order: readonly Piece[], { tally, aim }: {
  readonly tally: Tally;
  readonly aim: Aim;
}): boolean {
  if (!cutUntil(tally, order, aim)) return false;
  const smallest = order.reduce((least, piece) => Math.min(least, mostOf(table, piece)), Infinity);
  if (aim.overshoots(smallest)) giveBack(table, order, { tally, isMet: aim.isMet });
  return true;
}

/** Parameters that a piece saves at most: the last head of a group takes K and V along. */
function mostOf({ spec, groups, groupOf }: UnitTable, { units, size }: Piece): number {
  const group = units.length === 1 ? groups[groupOf[units[0] ?? -1] ?? -1] : undefined;
  return group ? size + (group.cost - group.cost / group.count) * spec.hidden : size;
}

/**
 * Restores pieces, of the highest score first, as long as the aim stays met: those that stand alone, and then, until nothing fits, queues too, the
 * piece that fell last first. A head saves less than its parameters, often nothing, where slicing fills its layer's KV groups up: only at the end
 * is it clear which had to fall.
 */
export function giveBack(table: UnitTable, order: readonly Piece[], { tally, isMet }: {
  readonly tally: Tally;
  readonly isMet: () => boolean;
}): void {
  const last = order.toReversed();
  const pass = (pieces: readonly Piece[]): boolean => {
    const stopped = new Set<string>();
    let isChanged = false;
    for (const piece of pieces) {
      const { units, queue, layer } = piece, gate = layer === null ? -1 : table.layers[layer]?.gate ?? -1;
      const isDead = gate >= 0 && !tally.kept[gate] && units[0] !== gate;
      if (isDead || (queue !== null && stopped.has(queue)) || units.some((unit) => tally.kept[unit])) continue;
      restore(tally, piece);
      if (isMet()) isChanged = true;
      else {
        for (const unit of units) tally.drop(unit);
        if (queue !== null) stopped.add(queue);
      }
    }
    return isChanged;
  };
  pass(last.filter(({ queue }) => queue === null));
  // A layer that came back has units to give, and a group that is filled up room for heads.
  while (pass(last));
}

/** Cuts all that may be cut. */
export function cutAll(tally: Tally, pieces: readonly Piece[]): Tally {
  const stopped = new Set<string>();
  for (const piece of pieces) {
    if (piece.queue !== null && stopped.has(piece.queue)) continue;
    if (!drop(tally, piece) && piece.queue !== null) stopped.add(piece.queue);
  }
  return tally;
}

/** Drops all units of a piece, or none where a rule forbids one. */
export function drop(tally: Tally, { units }: Pick<Piece, "units">): boolean {
  for (const [index, unit] of units.entries()) {
    if (!tally.allows(unit)) {
      restore(tally, { units: units.slice(0, index) });
      return false;
    }
    tally.drop(unit);
  }
  return true;
}

function restore(tally: Tally, { units }: Pick<Piece, "units">): void {
  for (let index = units.length - 1; index >= 0; index--) tally.restore(units[index] ?? 0);
}

/** Sizes that are tried as the last to fall, before any is let through. */
const MOST_SLACKS = 16;
