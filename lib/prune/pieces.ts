// What falls together when units are chosen: single units, aligned blocks of them, rows through all layers. Owns their order; refuses targets.
import { unitParameters, type UnitTable } from "./unit_table.ts";

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
 * The score of a block is the mean. Units whose flag in `held` is set are in none.
 */
export function piecesOf(
  table: UnitTable,
  scores: ArrayLike<number>,
  { held }: { readonly held?: ArrayLike<number> | undefined } = {},
): Piece[] {
  const { ffnFirst, hiddenFirst, layerFirst, count, layers, rules: { align } } = table;
  const pieces: Piece[] = [];
  const free = (units: readonly number[]): readonly number[] => held ? units.filter((unit) => !held[unit]) : units;
  const single = (from: number, to: number): void => {
    for (let unit = from; unit < to; unit++) {
      if (held?.[unit]) continue;
      const layer = unit >= hiddenFirst && unit < layerFirst ? null : table.layer[unit] ?? 0;
      pieces.push({ units: [unit], score: scores[unit] ?? 0, queue: null, layer, size: unitParameters(table, unit) });
    }
  };
  single(0, ffnFirst);
  if (align === 1) single(ffnFirst, layerFirst);
  else {
    layers.forEach(({ ffn: { first, count: width } }, layer) => {
      pieces.push(
        ...blocks(table, scores, { name: `ffn ${layer}`, units: free(byScore(first, width, scores)), layer }),
      );
    });
    const dims = free(byScore(hiddenFirst, layerFirst - hiddenFirst, scores));
    pieces.push(...blocks(table, scores, { name: "hidden", units: dims, layer: null }));
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

/** Blocks of `align` units of a queue, what is over first. */
function blocks(table: UnitTable, scores: ArrayLike<number>, { name, units, layer }: Queue): Piece[] {
  const { align } = table.rules, made: Piece[] = [];
  let score = -Infinity;
  for (let from = 0, to = units.length % align || align; from < units.length; from = to, to += align) {
    const own = units.slice(from, to);
    // A mean errs by its rounding: the maximum keeps equal ones in order.
    score = Math.max(score, own.reduce((sum, unit) => sum + (scores[unit] ?? 0), 0) / own.length);
    const size = own.reduce((sum, unit) => sum + unitParameters(table, unit), 0);
    made.push({ units: own, score, queue: name, layer, size });
  }
  return made;
}
