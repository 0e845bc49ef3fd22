// The unit table: what each mask cuts and how many parameters it saves.
import { CompressoError } from "../core/errors.ts";
import { type MaskValues, type SlotLayout, slotLayout } from "../nn/mask_slots.ts";
import { type DecoderSpec, ffnMatrices, type LayerSpec } from "../spec/decoder.ts";
import {
  cannotCutHeads,
  cannotCutHidden,
  cannotCutLayers,
  checkAnyUnits,
  checkKinds,
  headStep,
  headUnits,
  leastFfn,
  livingLayers,
  nextNarrower,
  type ResolvedRules,
  resolveRules,
  type UnitKind,
  type UnitRules,
} from "./rules.ts";

/** Units with shared parameters: K and V of a KV group are kept while any head of the group is. */
export interface UnitGroup {
  /** First unit. */
  readonly first: number;
  /** Number of units. */
  readonly count: number;
  /** Parameters of the group itself, per hidden dim. */
  readonly cost: number;
}

/** Attention or FFN of one layer; sizes are in parameters per hidden dim. */
export interface LayerPart {
  /** First unit of the part. */
  readonly first: number;
  /** Number of units; 0 if the part is not cut. */
  readonly count: number;
  /** First KV group whose heads are units. */
  readonly firstGroup: number;
  /** Number of these groups. */
  readonly groupCount: number;
  /** Size that no unit of the part cuts. */
  readonly fixed: number;
  /** Size of the whole part. */
  readonly total: number;
  /** Units that are cut together. */
  readonly step: number;
  /** Minimum number of heads or columns, in whole KV groups and aligned. */
  readonly minimum: number;
  /** Minimum size of the part, with the minimum heads in as few KV groups as possible. */
  readonly least: number;
}

/** Units of one layer. */
export interface LayerUnits {
  /** Its heads or KV groups. */
  readonly attention: LayerPart;
  /** Its FFN columns. */
  readonly ffn: LayerPart;
  /** The unit that cuts the whole layer, or −1. */
  readonly gate: number;
}

/** The units of a model, in order: heads or KV groups by layer, FFN columns by layer, hidden dims, whole layers. */
export interface UnitTable {
  /** Shape of the unpruned model. */
  readonly spec: DecoderSpec;
  /** Kinds of units that are pruned, but for the vocabulary, which has no masks. */
  readonly kinds: ReadonlySet<UnitKind>;
  /** Rules that limit cutting. Units that can never be cut are not in the table. */
  readonly rules: ResolvedRules;
  /** Number of units. */
  readonly count: number;
  /** Index of the first FFN column. */
  readonly ffnFirst: number;
  /** Index of the first hidden dim; equal to `layerFirst` if hidden dims are not pruned. */
  readonly hiddenFirst: number;
  /** Index of the first unit that is a whole layer; equal to `count` if layers are not cut. */
  readonly layerFirst: number;
  /** Parameters per hidden dim of a head (or KV group) or FFN column; 0 for other units. */
  readonly cost: Float32Array;
  /**
   * First slot of each unit; slots are a consecutive range, see `slotLayout`. The range of a whole layer includes
   * padding, where z and dL/dz are 0.
   */
  readonly slotFirst: Uint32Array;
  /** Number of slots of each unit. */
  readonly slotCount: Uint32Array;
  /** Layer of each unit; 0 for hidden dims, which belong to none. */
  readonly layer: Uint32Array;
  /** Units by layer. */
  readonly layers: readonly LayerUnits[];
  /** KV groups whose heads are units. */
  readonly groups: readonly UnitGroup[];
  /** Index into `groups` of each unit, or −1. */
  readonly groupOf: Int32Array;
  /** Parameters per hidden dim that are never cut. */
  readonly fixed: number;
  /** Denominator of sparsity: parameters of all layers' linear weights, plus `rules.rest` for every hidden dim. */
  readonly total: number;
  /** Slots that the units control. */
  readonly layout: SlotLayout;
}

/** Kept units as flags, 1 or 0. A head or column counts as cut if its whole layer is, whatever its own flag. */
export type Selection = Uint8Array<ArrayBuffer>;

interface Row {
  readonly cost: number;
  readonly slot: number;
  readonly slots: number;
  readonly layer: number;
  readonly group: number;
}

/**
 * Builds the unit table.
 *
 * @throws CompressoError("usage") for unknown kinds or none at all, for rules that this model cannot satisfy, and if
 * they leave nothing of a kind to cut.
 */
export function unitTable(spec: DecoderSpec, kinds: readonly UnitKind[], rules: UnitRules = {}): UnitTable {
  const set = maskedKinds(kinds), resolved = resolveRules(spec, rules);
  if (set.has("hidden") && spec.norm === "layer") {
    throw cannotCutHidden("cannot prune hidden", "this model has LayerNorm");
  }
  if (set.has("layers") && spec.normPlaces === "residual") {
    throw cannotCutLayers("cannot prune layers", "this model has norms of the residual stream");
  }
  for (const kind of ["heads", "kv"] as const) {
    if (!set.has(kind) || spec.qkNorm !== "whole") continue;
    throw cannotCutHeads(`cannot prune ${kind}`, "this model has norms over the whole width of q and k");
  }
  const { protect, minimum, align, fit, rest } = resolved, layout = slotLayout(spec);
  const rows: Row[] = [], groups: UnitGroup[] = [];
  const attention = spec.layers.map((layer, index) => {
    const own = set.has("kv") ? "kv" : set.has("heads") ? "heads" : null;
    const kind = own !== null && !protect.has(index) && headUnits(spec, own) > 1 ? own : null;
    return attentionPart(layer, { index, rows, groups, kind, spec, slot: layout.layers[index]?.head ?? 0, resolved });
  });
  const ffnFirst = rows.length;
  const least = leastFfn(spec, minimum), matrices = ffnMatrices(spec);
  const ffn = spec.layers.map(({ ffn: width }, layer): LayerPart => {
    const first = rows.length, slot = layout.layers[layer]?.ffn ?? 0;
    const isCut = set.has("ffn") && !protect.has(layer) && nextNarrower(width, { align, least }) >= 0;
    const stays = isCut ? Math.ceil(minimum.ffn / align) * align : width;
    for (let c = 0; isCut && c < width; c++) rows.push({ cost: matrices, slot: slot + c, slots: 1, layer, group: -1 });
    return {
      first,
      count: rows.length - first,
      firstGroup: 0,
      groupCount: 0,
      fixed: isCut ? 0 : matrices * width,
      total: matrices * width,
      step: align,
      minimum: stays,
      least: matrices * stays,
    };
  });
  const hiddenFirst = rows.length;
  if (set.has("hidden") && nextNarrower(spec.hidden, { align: fit.hidden, least: Math.max(1, minimum.hidden) }) > 0) {
    for (let d = 0; d < spec.hidden; d++) {
      rows.push({ cost: 0, slot: layout.hidden + d, slots: 1, layer: 0, group: -1 });
    }
  }
  const layerFirst = rows.length;
  const parts = spec.layers.map((layer, index): LayerUnits => {
    const own = { attention: attention[index] ?? ABSENT, ffn: ffn[index] ?? ABSENT };
    const isCut = set.has("layers") && !protect.has(index) && own.attention.total + own.ffn.total > 0 &&
      livingLayers(spec) > Math.max(1, minimum.layers);
    if (!isCut) return { ...own, gate: -1 };
    const { head = 0, ffn: column = 0 } = layout.layers[index] ?? {};
    rows.push({ cost: 0, slot: head, slots: column + layer.ffn - head, layer: index, group: -1 });
    return { ...own, gate: rows.length - 1 };
  });
  checkAnyUnits(spec, resolved, unitsByKind(set, { ffnFirst, hiddenFirst, layerFirst, count: rows.length }));
  const perDim = parts.reduce((sum, part) => sum + part.attention.total + part.ffn.total, rest);
  const fixed = parts.reduce((sum, part) => part.gate < 0 ? sum + part.attention.fixed + part.ffn.fixed : sum, rest);
  return {
    spec,
    kinds: set,
    rules: resolved,
    count: rows.length,
    ffnFirst,
    hiddenFirst,
    layerFirst,
    cost: Float32Array.from(rows, (row) => row.cost),
    slotFirst: Uint32Array.from(rows, (row) => row.slot),
    slotCount: Uint32Array.from(rows, (row) => row.slots),
    layer: Uint32Array.from(rows, (row) => row.layer),
    layers: parts,
    groups,
    groupOf: Int32Array.from(rows, (row) => row.group),
    fixed,
    total: perDim * spec.hidden,
    layout,
  };
}

/** Kind of a unit. */
export function kindOf({ kinds, ffnFirst, hiddenFirst, layerFirst }: UnitTable, unit: number): UnitKind {
  if (unit >= layerFirst) return "layers";
  if (unit >= hiddenFirst) return "hidden";
  return unit >= ffnFirst ? "ffn" : kinds.has("kv") ? "kv" : "heads";
}

/** Parameters saved by cutting a unit alone. */
export function unitParameters(table: UnitTable, unit: number): number {
  const { hidden } = table.spec;
  if (unit >= table.layerFirst) {
    const part = table.layers[table.layer[unit] ?? 0];
    return ((part?.attention.total ?? 0) + (part?.ffn.total ?? 0)) * hidden;
  }
  if (unit >= table.hiddenFirst) return table.total / hidden;
  const group = table.groups[table.groupOf[unit] ?? -1];
  return ((table.cost[unit] ?? 0) + (group ? group.cost / group.count : 0)) * hidden;
}

/** Mask values z of a selection. */
export function selectionMasks(table: UnitTable, kept: Selection): Required<MaskValues> {
  checkPerUnit(table, kept, "units");
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

/**
 * Refuses a list without exactly one number for each unit of the table, such as a list for a table with other kinds or
 * rules.
 *
 * @throws CompressoError("usage") unless the list has one number for each unit.
 */
export function checkPerUnit({ count }: UnitTable, values: ArrayLike<number>, what: string): void {
  let broken = values.length === count ? 0 : count;
  while (broken < count && !Number.isNaN(values[broken])) broken++;
  if (broken === count && values.length === count) return;
  throw new CompressoError("usage", {
    what: `cannot use these ${what}`,
    rule: `there is a number for each of the ${count} units of the table`,
    value: values.length === count ? `NaN for unit ${broken}` : `${values.length} numbers`,
    fix: "make them from the same table, or one of the same kinds and rules",
  });
}

/** Name of a unit in messages. */
export function unitName(table: UnitTable, unit: number): string {
  const layer = table.layer[unit] ?? 0, part = table.layers[layer];
  if (unit >= table.layerFirst) return `layer ${layer}`;
  if (unit >= table.hiddenFirst) return `hidden dim ${unit - table.hiddenFirst}`;
  if (unit >= table.ffnFirst) return `FFN column ${unit - (part?.ffn.first ?? 0)} of layer ${layer}`;
  return `${table.kinds.has("kv") ? "KV group" : "head"} ${unit - (part?.attention.first ?? 0)} of layer ${layer}`;
}

/**
 * The inverse of {@link selectionMasks}, from slots in the layout of `packMasks`: a unit is kept if one of its slots is
 * not 0.
 */
export function keptUnits(table: UnitTable, slots: ArrayLike<number>): Selection {
  return Uint8Array.from({ length: table.count }, (_, unit) => {
    const first = table.slotFirst[unit] ?? 0, end = first + (table.slotCount[unit] ?? 0);
    for (let slot = first; slot < end; slot++) if (slots[slot] !== 0) return 1;
    return 0;
  });
}

const ABSENT: LayerPart = {
  first: 0,
  count: 0,
  firstGroup: 0,
  groupCount: 0,
  fixed: 0,
  total: 0,
  step: 1,
  minimum: 0,
  least: 0,
};

/** Adds the attention units of a layer to `rows` and `groups`. */
function attentionPart(layer: LayerSpec, { index, rows, groups, kind, spec: { headDim }, slot, resolved }: {
  readonly index: number;
  readonly rows: Row[];
  readonly groups: UnitGroup[];
  /** How the heads are cut; null if they are not. */
  readonly kind: "heads" | "kv" | null;
  readonly spec: DecoderSpec;
  /** Slot of the first head. */
  readonly slot: number;
  readonly resolved: ResolvedRules;
}): LayerPart {
  const { heads, kvHeads } = layer, share = kvHeads > 0 ? heads / kvHeads : 0;
  const first = rows.length, firstGroup = groups.length, total = 2 * headDim * (heads + kvHeads);
  const part = { first, firstGroup, total }, least = resolved.minimum.heads;
  const step = kind === null ? 1 : headStep(layer, kind, resolved);
  if (kind === null || nextNarrower(heads, { align: step, least }) < 0) {
    return { ...part, count: 0, groupCount: 0, fixed: total, step: 1, minimum: heads, least: total };
  }
  for (let g = 0; g < kvHeads; g++) {
    if (kind === "kv" || share === 1) {
      rows.push({ cost: 2 * headDim * (share + 1), slot: slot + g * share, slots: share, layer: index, group: -1 });
      continue;
    }
    groups.push({ first: rows.length, count: share, cost: 2 * headDim });
    for (let h = 0; h < share; h++) {
      const at = slot + g * share + h;
      rows.push({ cost: 2 * headDim, slot: at, slots: 1, layer: index, group: groups.length - 1 });
    }
  }
  const minimum = Math.ceil(least / step) * step, started = Math.ceil(minimum / share);
  return {
    ...part,
    count: rows.length - first,
    groupCount: groups.length - firstGroup,
    fixed: 0,
    step: kind === "kv" ? step / share : step,
    minimum,
    least: 2 * headDim * (minimum + started),
  };
}

/** The kinds that have masks. A run that cuts the vocabulary alone has those of FFN columns, and keeps all of them. */
function maskedKinds(kinds: readonly UnitKind[]): ReadonlySet<UnitKind> {
  const masked = new Set([...checkKinds(kinds)].filter((kind) => kind !== "vocab"));
  return masked.size > 0 ? masked : new Set(["ffn"]);
}

function unitsByKind(
  kinds: ReadonlySet<UnitKind>,
  { ffnFirst, hiddenFirst, layerFirst, count }: Pick<UnitTable, "ffnFirst" | "hiddenFirst" | "layerFirst" | "count">,
): Map<UnitKind, number> {
  const counts: Readonly<Record<UnitKind, number>> = {
    heads: ffnFirst,
    kv: ffnFirst,
    ffn: hiddenFirst - ffnFirst,
    hidden: layerFirst - hiddenFirst,
    layers: count - layerFirst,
    vocab: 0,
  };
  return new Map([...kinds].map((kind) => [kind, counts[kind]]));
}
