// Units that a schedule freezes, as flags over the unit table.
import { CompressoError } from "../core/errors.ts";
import type { FrozenUnits } from "../schedule/definition.ts";
import type { UnitTable } from "../units/units.ts";

/**
 * Flags of the units that do not move; null where these kinds have no units in the table. Throws `CompressoError("input")` for the number of a unit
 * that there is not.
 */
export function heldUnits(table: UnitTable, freeze: readonly FrozenUnits[]): Uint8Array | null {
  if (freeze.length === 0) return null;
  const held = new Uint8Array(table.count), { ffnFirst, hiddenFirst, layerFirst } = table;
  for (const units of freeze) {
    if ("units" in units && units.units) {
      for (const unit of numbered(table, units, units.units)) held[unit] = 1;
      continue;
    }
    if (units.kind === "hidden") {
      held.fill(1, hiddenFirst, layerFirst);
      continue;
    }
    const { layer, kind } = units, gate = table.layers[layer]?.gate ?? -1;
    const [from, end] = kind === "layer"
      ? [0, hiddenFirst]
      : kind === "heads"
      ? [0, ffnFirst]
      : [ffnFirst, hiddenFirst];
    for (let unit = from; unit < end; unit++) if (table.layer[unit] === layer) held[unit] = 1;
    if (kind === "layer" && gate >= 0) held[gate] = 1;
  }
  return held.includes(1) ? held : null;
}

/**
 * The same, and the masks of the layers that they lie in, where those are units: to cut such a layer would move what is held, and whether a unit of
 * it had been cut before could not be told from hard masks.
 */
export function withTheirLayers({ layers, hiddenFirst, layer }: UnitTable, held: Uint8Array): Uint8Array {
  const wider = held.slice();
  for (let unit = 0; unit < hiddenFirst; unit++) {
    const gate = held[unit] ? layers[layer[unit] ?? -1]?.gate ?? -1 : -1;
    if (gate >= 0) wider[gate] = 1;
  }
  return wider;
}

/** Units of a part by their numbers in it. */
function numbered(
  { layers, hiddenFirst, layerFirst }: UnitTable,
  frozen: FrozenUnits,
  numbers: readonly number[],
): readonly number[] {
  const own = frozen.kind === "hidden" ? undefined : layers[frozen.layer];
  const { first, count } = frozen.kind === "hidden"
    ? { first: hiddenFirst, count: layerFirst - hiddenFirst }
    : (frozen.kind === "heads" ? own?.attention : own?.ffn) ?? { first: 0, count: 0 };
  const beyond = numbers.find((number) => number >= count);
  // Of a part that is not cut no unit moves.
  if (beyond === undefined || count === 0) return count === 0 ? [] : numbers.map((number) => first + number);
  const { kind } = frozen;
  throw new CompressoError("input", {
    what: "cannot freeze units by these numbers",
    rule: kind === "hidden"
      ? `hidden dims have numbers from 0 to ${count - 1}`
      : `units of ${kind} in layer ${frozen.layer} have numbers from 0 to ${count - 1}`,
    value: String(beyond),
    fix: "fix what `freeze` returns; without `units` it holds all of them",
  });
}
