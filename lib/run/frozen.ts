// Units that a schedule freezes, as flags over the unit table.
import { refuse } from "../core/errors.ts";
import type { FrozenUnits } from "../schedule/definition.ts";
import type { UnitTable } from "../units/table.ts";

/**
 * Flags of the frozen units; null if these kinds have no units in the table.
 *
 * @throws CompressoError("input") for the number of a unit that does not exist.
 */
export function heldUnits(table: UnitTable, freeze: readonly FrozenUnits[]): Uint8Array | null {
  if (freeze.length === 0) return null;
  const held = new Uint8Array(table.count), { ranges: { attention, ffn, hidden } } = table;
  for (const units of freeze) {
    if ("units" in units && units.units) {
      for (const unit of numbered(table, units, units.units)) held[unit] = 1;
      continue;
    }
    if (units.kind === "hidden") {
      held.fill(1, hidden.first, hidden.end);
      continue;
    }
    const { layer, kind } = units, gate = table.layers[layer]?.gate ?? -1;
    const [from, end] = kind === "layer" ? [0, ffn.end] : kind === "heads" ? [0, attention.end] : [ffn.first, ffn.end];
    for (let unit = from; unit < end; unit++) if (table.layer[unit] === layer) held[unit] = 1;
    if (kind === "layer" && gate >= 0) held[gate] = 1;
  }
  return held.includes(1) ? held : null;
}

/**
 * Also freezes the masks of the layers that contain frozen units, if layers are units. Cutting such a layer would
 * change its frozen units, and hard masks would not show which of them had been cut before.
 */
export function withTheirLayers({ layers, ranges, layer }: UnitTable, held: Uint8Array): Uint8Array {
  const wider = held.slice();
  for (let unit = 0; unit < ranges.ffn.end; unit++) {
    const gate = held[unit] ? layers[layer[unit] ?? -1]?.gate ?? -1 : -1;
    if (gate >= 0) wider[gate] = 1;
  }
  return wider;
}

/** Indices of units given by their numbers within a part. */
function numbered(
  { layers, ranges: { hidden } }: UnitTable,
  frozen: FrozenUnits,
  numbers: readonly number[],
): readonly number[] {
  const own = frozen.kind === "hidden" ? undefined : layers[frozen.layer];
  const { first, count } = frozen.kind === "hidden"
    ? { first: hidden.first, count: hidden.end - hidden.first }
    : (frozen.kind === "heads" ? own?.attention : own?.ffn) ?? { first: 0, count: 0 };
  const beyond = numbers.find((number) => number >= count);
  // A part that is not pruned has no units to freeze.
  if (beyond === undefined || count === 0) return count === 0 ? [] : numbers.map((number) => first + number);
  const { kind } = frozen;
  refuse("input", "cannot freeze units by these numbers", {
    rule: kind === "hidden"
      ? `hidden dims have numbers from 0 to ${count - 1}`
      : `units of ${kind} in layer ${frozen.layer} have numbers from 0 to ${count - 1}`,
    value: beyond,
    fix: "fix what `freeze` returns; without `units` it holds all of them",
  });
}
