// Units that a schedule freezes, as flags. Owns what the kinds of a schedule mean in a table; refuses to hold them.
import type { FrozenUnits } from "./schedule_script.ts";
import type { UnitTable } from "./units.ts";

/** Flags of the units that do not move; null where these kinds have no units in the table. */
export function heldUnits(table: UnitTable, freeze: readonly FrozenUnits[]): Uint8Array | null {
  if (freeze.length === 0) return null;
  const held = new Uint8Array(table.count), { ffnFirst, hiddenFirst, layerFirst } = table;
  for (const units of freeze) {
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
