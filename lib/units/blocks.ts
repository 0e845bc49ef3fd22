// Blocks of units that are cut together, such as aligned FFN columns, in cutting order.
import { partsOf, type Selection, unitParameters, type UnitTable } from "./table.ts";

/** Units that are cut together, often only one. */
export interface Block {
  readonly units: readonly number[];
  readonly score: number;
  /** Queue whose blocks are cut in order; null for a block outside of queues. */
  readonly queue: string | null;
  /** Layer of all its units; null for hidden dims and rows. */
  readonly layer: number | null;
  /** Parameters saved by cutting this block alone. */
  readonly size: number;
}

/** Units whose state is fixed. */
export interface HeldUnits {
  /** One number per unit of the table: 1 if the unit is held, otherwise 0. */
  readonly flags: ArrayLike<number>;
  /** Currently kept units, as returned by `selectUnits`; only read for held units. */
  readonly kept: Selection;
}

/** Units of a queue, in cutting order. */
export interface Queue {
  readonly name: string;
  readonly units: readonly number[];
  readonly layer: number | null;
}

/** `count` units from `first`, in ascending order of score; ties by index. */
export function byScore(first: number, count: number, scores: ArrayLike<number>): number[] {
  return Array.from({ length: count }, (_, i) => first + i).sort((a, b) =>
    (scores[a] ?? 0) - (scores[b] ?? 0) || a - b
  );
}

/**
 * The blocks of a table in ascending order of score; ties by the lower first unit. Without alignment each unit is a
 * block. With alignment, the FFN columns of a layer and the hidden dims form blocks of `align` units in order of score,
 * and heads blocks of as many as fit. The first block is smaller, so that a multiple remains. The score of a block is
 * the mean of its units. Held units are in no block; the remaining units and the kept held units together number a
 * multiple.
 */
export function unitBlocks(
  table: UnitTable,
  scores: ArrayLike<number>,
  { held }: { readonly held?: HeldUnits | null | undefined } = {},
): Block[] {
  const blocks = partsOf(table).flatMap(({ place, layer, first, count, step }): readonly Block[] => {
    if (step > 1) {
      const units = byScore(first, count, scores), name = layer === null ? place : `${place} ${layer}`;
      return alignedBlocks(table, scores, { name, units, step, layer, held });
    }
    return Array.from({ length: count }, (_, index) => first + index).filter((unit) => !held?.flags[unit]).map((
      unit,
    ) => ({
      units: [unit],
      score: scores[unit] ?? 0,
      queue: null,
      layer: place === "hidden" ? null : table.layer[unit] ?? 0,
      size: unitParameters(table, unit),
    }));
  });
  return sorted(blocks);
}

/** Blocks in ascending order of score; ties by position. */
export function sorted(blocks: readonly Block[]): Block[] {
  return [...blocks.keys()]
    .sort((a, b) => (blocks[a]?.score ?? 0) - (blocks[b]?.score ?? 0) || a - b)
    .flatMap((index) => blocks[index] ?? []);
}

/**
 * Blocks of `step` units of a queue, the remainder first. A remainder at the end, caused by held units, is not cut.
 */
function alignedBlocks(
  table: UnitTable,
  scores: ArrayLike<number>,
  { name, units, step, layer, held }: Queue & { readonly step: number; readonly held: HeldUnits | null | undefined },
): Block[] {
  const made: Block[] = [];
  const free = units.filter((unit) => !held?.flags[unit]);
  const width = free.length + units.filter((unit) => held?.flags[unit] && held.kept[unit]).length;
  let score = -Infinity;
  for (let from = 0, to = width % step || step; to <= free.length; from = to, to += step) {
    const own = free.slice(from, to);
    // A mean has rounding errors: the maximum keeps blocks of equal scores in order.
    score = Math.max(score, own.reduce((sum, unit) => sum + (scores[unit] ?? 0), 0) / own.length);
    const size = own.reduce((sum, unit) => sum + unitParameters(table, unit), 0);
    made.push({ units: own, score, queue: name, layer, size });
  }
  return made;
}
