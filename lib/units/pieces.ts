// What falls together when units are chosen: single units, aligned blocks of them, rows through all layers. Owns their order; refuses targets.
import { type Selection, unitParameters, type UnitTable } from "./table.ts";

/** Units that fall together. */
export interface Piece {
  readonly units: readonly number[];
  readonly score: number;
  /** Pieces of one queue fall in order only; null stands alone. */
  readonly queue: string | null;
  /** Layer that all units are of; null for hidden dims and rows. */
  readonly layer: number | null;
  /** Parameters that the piece saves alone, all others kept. */
  readonly size: number;
}

/** Units that stay as they are. */
export interface HeldUnits {
  /** A number for each unit of the table: 1 where it is held, else 0. */
  readonly flags: ArrayLike<number>;
  /** Which units are kept now, as `selectUnits` gives them; read where a unit is held. */
  readonly kept: Selection;
}

/** Which units of a kind a queue takes, in the order in which they fall. */
export interface Queue {
  readonly name: string;
  readonly units: readonly number[];
  readonly layer: number | null;
}

/** Units from `first` on, in ascending order of score, ties by index. */
export function byScore(first: number, count: number, scores: ArrayLike<number>): number[] {
  return Array.from({ length: count }, (_, i) => first + i).sort((a, b) =>
    (scores[a] ?? 0) - (scores[b] ?? 0) || a - b
  );
}

/**
 * The pieces of a table in ascending order of score, ties by the lower first unit. Without alignment each unit is one. With it, FFN columns of a
 * layer and hidden dims fall in blocks of `align`, grouped in the order of their scores, the first block such that a multiple of `align` is left.
 * The score of a block is the mean. Units that are held are in none, and what falls leaves such a multiple with those of them that are kept.
 */
export function piecesOf(
  table: UnitTable,
  scores: ArrayLike<number>,
  { held }: { readonly held?: HeldUnits | null | undefined } = {},
): Piece[] {
  const { ffnFirst, hiddenFirst, layerFirst, count, layers, rules: { align } } = table;
  const pieces: Piece[] = [];
  const single = (from: number, to: number): void => {
    for (let unit = from; unit < to; unit++) {
      if (held?.flags[unit]) continue;
      const layer = unit >= hiddenFirst && unit < layerFirst ? null : table.layer[unit] ?? 0;
      pieces.push({ units: [unit], score: scores[unit] ?? 0, queue: null, layer, size: unitParameters(table, unit) });
    }
  };
  single(0, ffnFirst);
  if (align === 1) single(ffnFirst, layerFirst);
  else {
    layers.forEach(({ ffn: { first, count: width } }, layer) => {
      const columns = byScore(first, width, scores);
      pieces.push(...blocks(table, scores, { name: `ffn ${layer}`, units: columns, layer, held }));
    });
    const dims = byScore(hiddenFirst, layerFirst - hiddenFirst, scores);
    pieces.push(...blocks(table, scores, { name: "hidden", units: dims, layer: null, held }));
  }
  single(layerFirst, count);
  return sorted(pieces);
}

/** Pieces in ascending order of score, ties by their place. */
export function sorted(pieces: readonly Piece[]): Piece[] {
  return [...pieces.keys()]
    .sort((a, b) => (pieces[a]?.score ?? 0) - (pieces[b]?.score ?? 0) || a - b)
    .flatMap((index) => pieces[index] ?? []);
}

/** Blocks of `align` units of a queue, what is over first; what held units leave over at the end does not fall. */
function blocks(
  table: UnitTable,
  scores: ArrayLike<number>,
  { name, units, layer, held }: Queue & { readonly held: HeldUnits | null | undefined },
): Piece[] {
  const { align } = table.rules, made: Piece[] = [];
  const free = units.filter((unit) => !held?.flags[unit]);
  const width = free.length + units.filter((unit) => held?.flags[unit] && held.kept[unit]).length;
  let score = -Infinity;
  for (let from = 0, to = width % align || align; to <= free.length; from = to, to += align) {
    const own = free.slice(from, to);
    // A mean errs by its rounding: the maximum keeps equal ones in order.
    score = Math.max(score, own.reduce((sum, unit) => sum + (scores[unit] ?? 0), 0) / own.length);
    const size = own.reduce((sum, unit) => sum + unitParameters(table, unit), 0);
    made.push({ units: own, score, queue: name, layer, size });
  }
  return made;
}
