// Packs a unit table as kernels read it, see kernels/shared/mask_tables.wgsl.
import { mixerMasks } from "../spec/decoder.ts";
import { type LayerPart, placeOf, type UnitTable } from "../units/table.ts";

/** Marks the absence of a unit, group or gate. */
const NONE = 0xffffffff;
const HELD = 1 << 15;
const WORDS = 4;
/** Rows per layer. */
const LAYER_ROWS = 5;

/** Rows of units, groups and layers, in order. No unit is held. */
export function packTables(table: UnitTable): Uint32Array<ArrayBuffer> {
  const { count, groups, layers, spec, layout } = table;
  const words = new Uint32Array(WORDS * (count + groups.length + LAYER_ROWS * layers.length));
  const costs = bitsOf(table.cost), groupCosts = bitsOf(groups.map(({ cost }) => cost));
  for (let unit = 0; unit < count; unit++) {
    const slots = unit < table.ranges.layers.first ? table.slotCount[unit] ?? 0 : 0, group = table.groupOf[unit] ?? -1;
    const first = table.slotFirst[unit] ?? 0;
    words.set([costs[unit] ?? 0, first, slots | boundOf(table, unit) << 16, group < 0 ? NONE : group], WORDS * unit);
  }
  groups.forEach(({ first, count: heads }, index) => {
    words.set([first, heads, groupCosts[index] ?? 0, table.layer[first] ?? 0], WORDS * (count + index));
  });
  layers.forEach(({ attention, ffn, gate }, index) => {
    const own = spec.layers[index], heads = own ? mixerMasks(own) : 0, columns = own?.ffn ?? 0;
    const { head: head0 = 0, ffn: column0 = 0 } = layout.layers[index] ?? {};
    const rows = [
      ...partRows(attention, gate < 0 ? NONE : gate),
      ...partRows(ffn, NONE),
      [head0, heads, column0, columns],
    ];
    words.set(rows.flat(), WORDS * (count + groups.length + LAYER_ROWS * index));
  });
  return words;
}

/** Marks the units with 1 in `held` as held in packed tables, in place. */
export function markHeld(table: UnitTable, words: Uint32Array, held: Uint8Array): void {
  for (let unit = 0; unit < table.count; unit++) {
    const at = WORDS * unit + 2, plain = (words[at] ?? 0) & ~HELD;
    words[at] = held[unit] ? plain | HELD : plain;
  }
}

/** Unit and gate of every slot. */
export function ownersOfSlots(table: UnitTable): Uint32Array<ArrayBuffer> {
  const owners = new Uint32Array(2 * table.layout.count).fill(NONE);
  for (let unit = 0; unit < table.count; unit++) {
    const isGate = unit >= table.ranges.layers.first, first = table.slotFirst[unit] ?? 0;
    for (let slot = first; slot < first + (table.slotCount[unit] ?? 0); slot++) {
      if (!isGate || isReal(table, table.layer[unit] ?? 0, slot)) owners[2 * slot + (isGate ? 1 : 0)] = unit;
    }
  }
  return owners;
}

/** Whether a slot in the range of a layer is real instead of padding. */
function isReal({ spec, layout }: UnitTable, layer: number, slot: number): boolean {
  const { head = 0, ffn = 0 } = layout.layers[layer] ?? {}, own = spec.layers[layer];
  return slot < head + (own ? mixerMasks(own) : 0) || slot >= ffn;
}

function boundOf(table: UnitTable, unit: number): number {
  const place = placeOf(table, unit);
  if (place === "hidden") return 3 * table.layers.length;
  return 3 * (table.layer[unit] ?? 0) + { attention: 0, ffn: 1, layers: 2 }[place];
}

function partRows(part: LayerPart, gate: number): number[][] {
  const [fixed = 0, total = 0, least = 0] = bitsOf([part.fixed, part.total, part.least]);
  return [[part.first, part.count, part.firstGroup, part.groupCount], [fixed, total, least, gate]];
}

function bitsOf(values: ArrayLike<number>): Uint32Array {
  return new Uint32Array(Float32Array.from(values).buffer);
}
