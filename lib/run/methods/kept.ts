// Units that masks keep, and the resulting sparsity.
import { type MaskValues, packMasks } from "../../nn/mask_slots.ts";
import { hardSparsity } from "../../units/selection.ts";
import { keptUnits, type UnitTable } from "../../units/table.ts";

/** 1 for each unit that hard masks keep, 0 for the others: [units]. */
export function keptBy(table: UnitTable, masks: MaskValues): Uint8Array<ArrayBuffer> {
  return keptUnits(table, packMasks(table.spec, table.layout, masks));
}

/** Exact sparsity of hard masks. */
export function sparsityOf(table: UnitTable, masks: MaskValues): number {
  return hardSparsity(table, keptBy(table, masks));
}
