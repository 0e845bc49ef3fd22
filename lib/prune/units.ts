// Prunable units: what each mask cuts and what it costs. Owns the unit table and the exact size of a selection; refuses sampling and learning.
import { CompressoError } from "../errors.ts";
import { type MaskValues, type SlotLayout, slotLayout } from "../nn/masks.ts";
import type { DecoderSpec } from "../nn/spec.ts";

/** Kinds of units: single attention heads, or KV groups with all their heads; FFN columns; hidden dims. */
export type UnitKind = "heads" | "kv" | "ffn" | "hidden";

/** All kinds, in the order of the command line's help. */
export const UNIT_KINDS: readonly UnitKind[] = ["heads", "kv", "ffn", "hidden"];

/** Units that live together: K and V of a KV group live while any head of the group lives. */
export interface UnitGroup {
  /** First unit. */
  readonly first: number;
  /** Number of units. */
  readonly count: number;
  /** Parameters of the group itself, per hidden dim. */
  readonly cost: number;
}

/** The units of a model, in order: heads or KV groups by layer, FFN columns by layer, hidden dims. */
export interface UnitTable {
  /** Shape of the unpruned model. */
  readonly spec: DecoderSpec;
  /** Kinds of units that are pruned. */
  readonly kinds: ReadonlySet<UnitKind>;
  /** Number of units. */
  readonly count: number;
  /** Index of the first hidden dim; equal to `count` where hidden dims are not pruned. */
  readonly hiddenFirst: number;
  /** Index of the first FFN column. */
  readonly ffnFirst: number;
  /** Parameters per hidden dim of a head (or KV group) or FFN column; of a hidden dim 0. */
  readonly cost: Float32Array;
  /** Slots of each unit, a consecutive range; see `slotLayout`. */
  readonly slotFirst: Uint32Array;
  /** Number of slots of each unit. */
  readonly slotCount: Uint32Array;
  /** Layer of each unit; hidden dims have none (0). */
  readonly layer: Uint32Array;
  /** KV groups whose heads are units of their own. */
  readonly groups: readonly UnitGroup[];
  /** Index into `groups` of each unit, or −1. */
  readonly groupOf: Int32Array;
  /** Parameters per hidden dim that are never cut. */
  readonly fixed: number;
  /** Parameters of all layers' linear weights: what sparsity is a share of. */
  readonly total: number;
  /** Slots that the units act on. */
  readonly layout: SlotLayout;
}

/** Kept units as flags, 1 or 0. */
export type Selection = Uint8Array<ArrayBuffer>;

/** Builds the unit table. Throws `CompressoError("usage")` for kinds that exclude each other or none at all. */
export function unitTable(spec: DecoderSpec, kinds: readonly UnitKind[]): UnitTable {
  const set = checkKinds(kinds);
  const layout = slotLayout(spec), { headDim } = spec;
  const rows: { cost: number; slot: number; slots: number; layer: number; group: number }[] = [];
  const groups: UnitGroup[] = [];
  let fixed = 0, perDim = 0;
  spec.layers.forEach(({ heads, kvHeads, ffn }, layer) => {
    perDim += 2 * headDim * (heads + kvHeads) + 3 * ffn;
    const slot = layout.layers[layer]?.head ?? 0, share = kvHeads > 0 ? heads / kvHeads : 0;
    if (!set.has("heads") && !set.has("kv")) fixed += 2 * headDim * (heads + kvHeads);
    else if (set.has("kv") || share === 1) {
      const cost = 2 * headDim * (share + 1);
      for (let g = 0; g < kvHeads; g++) rows.push({ cost, slot: slot + g * share, slots: share, layer, group: -1 });
    } else {
      for (let g = 0; g < kvHeads; g++) {
        groups.push({ first: rows.length, count: share, cost: 2 * headDim });
        for (let h = 0; h < share; h++) {
          rows.push({ cost: 2 * headDim, slot: slot + g * share + h, slots: 1, layer, group: groups.length - 1 });
        }
      }
    }
  });
  const ffnFirst = rows.length;
  spec.layers.forEach(({ ffn }, layer) => {
    if (!set.has("ffn")) fixed += 3 * ffn;
    else {
      const slot = layout.layers[layer]?.ffn ?? 0;
      for (let c = 0; c < ffn; c++) rows.push({ cost: 3, slot: slot + c, slots: 1, layer, group: -1 });
    }
  });
  const hiddenFirst = rows.length;
  if (set.has("hidden")) {
    for (let d = 0; d < spec.hidden; d++) {
      rows.push({ cost: 0, slot: layout.hidden + d, slots: 1, layer: 0, group: -1 });
    }
  }
  return {
    spec,
    kinds: set,
    count: rows.length,
    hiddenFirst,
    ffnFirst,
    cost: Float32Array.from(rows, (row) => row.cost),
    slotFirst: Uint32Array.from(rows, (row) => row.slot),
    slotCount: Uint32Array.from(rows, (row) => row.slots),
    layer: Uint32Array.from(rows, (row) => row.layer),
    groups,
    groupOf: Int32Array.from(rows, (row) => row.group),
    fixed,
    total: perDim * spec.hidden,
    layout,
  };
}

/** Exact sparsity of a selection: 1 − kept parameters / total, K and V of a group counted while one of its heads lives. */
export function hardSparsity(table: UnitTable, kept: Selection): number {
  const tally = new Tally(table);
  for (let unit = 0; unit < table.count; unit++) if (!kept[unit]) tally.drop(unit);
  return tally.sparsity();
}

/** Parameters that cutting a unit alone saves, all others kept. */
export function unitParameters(table: UnitTable, unit: number): number {
  if (unit >= table.hiddenFirst) return table.total / table.spec.hidden;
  const group = table.groups[table.groupOf[unit] ?? -1];
  return ((table.cost[unit] ?? 0) + (group ? group.cost / group.count : 0)) * table.spec.hidden;
}

/**
 * Keeps the units of the highest score such that the sparsity is at least `target`, and below it with the last cut unit back. A unit that would
 * overshoot by more than the smallest unit is passed over, so that the last to fall is a small one, unless the target cannot be reached so.
 * One hidden dim and, over all layers, one head and one FFN column always stay. Ties fall to the lower index first.
 * Throws `CompressoError("usage")` where the target cannot be reached with these kinds of units.
 */
export function selectUnits(
  table: UnitTable,
  scores: ArrayLike<number>,
  { target }: { readonly target: number },
): Selection {
  const order = Uint32Array.from({ length: table.count }, (_, unit) => unit)
    .sort((a, b) => (scores[a] ?? 0) - (scores[b] ?? 0) || a - b);
  const smallest = order.reduce((least, unit) => Math.min(least, unitParameters(table, unit)), Infinity) / table.total;
  const fine = cutInOrder(table, order, { target, slack: smallest });
  if (fine.sparsity >= target) return fine.kept;
  const coarse = cutInOrder(table, order, { target, slack: Infinity });
  if (coarse.sparsity >= target) return coarse.kept;
  throw unreachable(target, coarse.sparsity, table.kinds);
}

/** Cuts units in order until the target is reached, passing over those that would overshoot it by more than the slack. */
function cutInOrder(
  table: UnitTable,
  order: Uint32Array,
  { target, slack }: { readonly target: number; readonly slack: number },
): { readonly kept: Selection; readonly sparsity: number } {
  const kept: Selection = new Uint8Array(table.count).fill(1);
  const left = [table.ffnFirst, table.hiddenFirst - table.ffnFirst, table.count - table.hiddenFirst];
  const tally = new Tally(table);
  for (const unit of order) {
    if (tally.sparsity() >= target) break;
    const kind = unit < table.ffnFirst ? 0 : unit < table.hiddenFirst ? 1 : 2;
    if ((left[kind] ?? 0) <= 1) continue;
    tally.drop(unit);
    if (tally.sparsity() > target + slack) {
      tally.restore(unit);
      continue;
    }
    left[kind] = (left[kind] ?? 0) - 1;
    kept[unit] = 0;
  }
  return { kept, sparsity: tally.sparsity() };
}

/** Mask values z of a selection. */
export function selectionMasks(table: UnitTable, kept: Selection): Required<MaskValues> {
  const { spec } = table;
  const slots = new Float32Array(table.layout.count).fill(1);
  for (let unit = 0; unit < table.count; unit++) {
    const first = table.slotFirst[unit] ?? 0;
    if (!kept[unit]) slots.fill(0, first, first + (table.slotCount[unit] ?? 0));
  }
  const pick = (from: number, count: number): number[] => [...slots.subarray(from, from + count)];
  return {
    head: Float32Array.from(spec.layers.flatMap(({ heads }, l) => pick(table.layout.layers[l]?.head ?? 0, heads))),
    ffn: Float32Array.from(spec.layers.flatMap(({ ffn }, l) => pick(table.layout.layers[l]?.ffn ?? 0, ffn))),
    hidden: Float32Array.from(pick(table.layout.hidden, spec.hidden)),
  };
}

/** Refuses a sparsity that no selection of these units can have. */
export function checkReachable(table: UnitTable, target: number): void {
  if (!(target > 0 && target < 1)) {
    throw new CompressoError("usage", {
      what: "cannot prune to this sparsity",
      rule: "sparsity is a share of the layers' linear weights, above 0 and below 1",
      value: String(target),
      mend: "try 0.2",
    });
  }
  selectUnits(table, new Float32Array(table.count), { target });
}

/** Running size of a selection. */
class Tally {
  readonly #table: UnitTable;
  readonly #alive: Uint32Array;
  #perDim: number;
  #hidden: number;

  constructor(table: UnitTable) {
    this.#table = table;
    this.#alive = Uint32Array.from(table.groups, (group) => group.count);
    this.#perDim = table.total / table.spec.hidden;
    this.#hidden = table.spec.hidden;
  }

  drop(unit: number): void {
    this.#change(unit, -1);
  }

  restore(unit: number): void {
    this.#change(unit, 1);
  }

  #change(unit: number, sign: 1 | -1): void {
    const { hiddenFirst, cost, groupOf, groups } = this.#table;
    if (unit >= hiddenFirst) {
      this.#hidden += sign;
      return;
    }
    this.#perDim += sign * (cost[unit] ?? 0);
    const index = groupOf[unit] ?? -1, group = groups[index];
    if (!group) return;
    const before = this.#alive[index] ?? 0, alive = before + sign;
    this.#alive[index] = alive;
    // K and V go with the last head of their group, and come back with the first.
    if (Math.min(before, alive) === 0) this.#perDim += sign * group.cost;
  }

  sparsity(): number {
    return 1 - this.#perDim * this.#hidden / this.#table.total;
  }
}

function checkKinds(kinds: readonly UnitKind[]): ReadonlySet<UnitKind> {
  const fail = (rule: string): never => {
    throw new CompressoError("usage", {
      what: "cannot prune these units",
      rule,
      value: kinds.join(",") || "none",
      mend: "try kv,ffn",
    });
  };
  for (const kind of kinds) if (!UNIT_KINDS.includes(kind)) fail(`units are some of ${UNIT_KINDS.join(", ")}`);
  if (kinds.length === 0) fail("at least one kind of unit");
  if (kinds.includes("heads") && kinds.includes("kv")) fail("either heads or kv, not both");
  return new Set(kinds);
}

function unreachable(target: number, most: number, kinds: ReadonlySet<UnitKind>): CompressoError {
  return new CompressoError("usage", {
    what: `cannot reach a sparsity of ${target}`,
    rule: `cutting ${[...kinds].join(", ")} reaches at most ${most.toFixed(4)}`,
    mend: "lower --sparsity or add kinds to --units",
  });
}
