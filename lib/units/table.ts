// The unit table: what each mask cuts and how many parameters it saves.
import { refuseExperts } from "../nn/experts.ts";
import { type CompressoError, refusal, refuse } from "../core/errors.ts";
import { existing } from "../core/guards.ts";
import { type MaskValues, type SlotLayout, slotLayout, unpackMasks } from "../nn/mask_slots.ts";
import { type DecoderSpec, ffnMatrices, headDimOf, type LayerSpec, mixerPerDim } from "../spec/decoder.ts";
import { checkKinds, placeOfKind, recordOf, type UnitKind } from "./kinds/all.ts";
import { checkAnyUnits } from "./kinds/checks.ts";
import { cannotCut, type KindRecord, type Place, PLACES } from "./kinds/kind.ts";
import { leastFfn, livingLayers, nextNarrower, type ResolvedRules, resolveRules, type UnitRules } from "./rules.ts";

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

/** The units at a place. */
export interface UnitRange {
  /** Their kind; null if the place is not cut. */
  readonly kind: UnitKind | null;
  /** First unit. */
  readonly first: number;
  /** Index after the last unit; equal to `first` if there are none. */
  readonly end: number;
}

/** The units of a model, by place in the order of `PLACES`, and by layer within attention and FFN. */
export interface UnitTable {
  /** Shape of the unpruned model. */
  readonly spec: DecoderSpec;
  /** Kinds of units that are pruned, but for the vocabulary, which has no masks. */
  readonly kinds: ReadonlySet<UnitKind>;
  /** Rules that limit cutting. Units that can never be cut are not in the table. */
  readonly rules: ResolvedRules;
  /** Number of units. */
  readonly count: number;
  /**
   * Units of each place.
   *
   * @internal
   */
  readonly ranges: Readonly<Record<Place, UnitRange>>;
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
  /**
   * What the parameters per hidden dim fall by with each hidden dim that is cut: the weights of convolutions go from hidden dims to hidden dims. 0 unless
   * hidden dims are units.
   */
  readonly square: number;
  /** Denominator of sparsity: parameters of all layers' linear weights, plus `rules.rest` for every hidden dim. */
  readonly total: number;
  /** Slots that the units control. */
  readonly layout: SlotLayout;
}

/** Kept units as flags, 1 or 0. A head or column counts as cut if its whole layer is cut, even if its own flag is 1. */
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
 * @throws CompressoError("usage") for unknown kinds, for rules that this model cannot satisfy, and if they leave
 * nothing of a kind to cut.
 */
export function unitTable(spec: DecoderSpec, kinds: readonly UnitKind[], rules: UnitRules = {}): UnitTable {
  refuseExperts(spec, "cannot prune this model");
  const resolved = resolveRules(spec, rules);
  // A run that keeps all layers has the masks of FFN columns, which stay open.
  const masked = [...checkKinds(kinds)].filter((kind) => placeOfKind(kind) !== null);
  const set = new Set(masked.length > 0 ? masked : (["ffn"] as const));
  const byPlace = new Map<Place | null, UnitKind>();
  for (const kind of set) {
    const { misfit, place } = recordOf(kind);
    if (misfit?.isFor(spec)) throw cannotCut(misfit, `cannot prune ${kind}`);
    byPlace.set(place, kind);
  }
  if (byPlace.has("hidden") && byPlace.has("layers") && spec.convolution) throw bothOfConvolutions([...set]);
  const { protect, minimum, fit, rest } = resolved, layout = slotLayout(spec);
  const rows: Row[] = [], groups: UnitGroup[] = [];
  const ends: number[] = [], has = (place: Place): boolean => byPlace.has(place);
  const heads = byPlace.has("attention") ? recordOf(existing(byPlace.get("attention"), "kind")) : null;
  const attention = spec.layers.map((layer, index) => {
    const kind = heads && !protect.has(index) && heads.count(spec) > 1 ? heads : null;
    return attentionPart(layer, { index, rows, groups, kind, spec, slot: layout.layers[index]?.head ?? 0, resolved });
  });
  ends.push(rows.length);
  const ffn = spec.layers.map(({ ffn: width }, layer) =>
    ffnPart(width, { layer, rows, slot: layout.layers[layer]?.ffn ?? 0, isCut: has("ffn"), spec, resolved })
  );
  ends.push(rows.length);
  const isNarrower = nextNarrower(spec.hidden, { align: fit.hidden, least: Math.max(1, minimum.hidden) }) > 0;
  for (let d = 0; has("hidden") && isNarrower && d < spec.hidden; d++) {
    rows.push({ cost: 0, slot: layout.hidden + d, slots: 1, layer: 0, group: -1 });
  }
  ends.push(rows.length);
  const parts = spec.layers.map((layer, index): LayerUnits => {
    const own = { attention: attention[index] ?? ABSENT, ffn: ffn[index] ?? ABSENT };
    const isCut = has("layers") && !protect.has(index) && own.attention.total + own.ffn.total > 0 &&
      livingLayers(spec) > Math.max(1, minimum.layers);
    if (!isCut) return { ...own, gate: -1 };
    const { head = 0, ffn: column = 0 } = layout.layers[index] ?? {};
    rows.push({ cost: 0, slot: head, slots: column + layer.ffn - head, layer: index, group: -1 });
    return { ...own, gate: rows.length - 1 };
  });
  const range = (at: number): UnitRange => ({
    kind: byPlace.get(PLACES[at] ?? null) ?? null,
    first: ends[at - 1] ?? 0,
    end: ends[at] ?? rows.length,
  });
  const ranges = { attention: range(0), ffn: range(1), hidden: range(2), layers: range(3) };
  const counts = Object.values(ranges).flatMap(({ kind, first, end }) => kind ? [[kind, end - first] as const] : []);
  checkAnyUnits(spec, resolved, new Map(counts));
  const perDim = parts.reduce((sum, part) => sum + part.attention.total + part.ffn.total, rest);
  const fixed = parts.reduce((sum, part) => part.gate < 0 ? sum + part.attention.fixed + part.ffn.fixed : sum, rest);
  return {
    spec,
    kinds: set,
    rules: resolved,
    count: rows.length,
    ranges,
    cost: Float32Array.from(rows, (row) => row.cost),
    slotFirst: Uint32Array.from(rows, (row) => row.slot),
    slotCount: Uint32Array.from(rows, (row) => row.slots),
    layer: Uint32Array.from(rows, (row) => row.layer),
    layers: parts,
    groups,
    groupOf: Int32Array.from(rows, (row) => row.group),
    fixed,
    square: ranges.hidden.end > ranges.hidden.first ? squareOf(spec) : 0,
    total: perDim * spec.hidden,
    layout,
  };
}

/** Weights of convolutions for each pair of hidden dims. */
function squareOf(spec: DecoderSpec): number {
  return spec.layers.filter(({ conv }) => conv).length * mixerPerDim({ ...spec, hidden: 1 }, CONVOLUTION);
}

const CONVOLUTION = { heads: 0, kvHeads: 0, conv: true } as const;

/** Refuses hidden dims and whole layers together: the weights of a convolution that goes with its layer would fall with both. */
function bothOfConvolutions(kinds: readonly UnitKind[]): CompressoError {
  return refusal("usage", "cannot prune hidden and layers together", {
    rule: "of a model with short convolutions, either hidden dims or whole layers are cut",
    value: kinds.join(","),
    fix: "take one of the two out of the units",
    option: "units",
  });
}

/** Place of a unit. */
export function placeOf({ ranges }: Pick<UnitTable, "ranges">, unit: number): Place {
  return PLACES.find((place) => unit < ranges[place].end) ?? "layers";
}

/** Kind of a unit. */
export function kindOf({ ranges }: Pick<UnitTable, "ranges">, unit: number): UnitKind {
  return existing(ranges[placeOf({ ranges }, unit)].kind, `kind of unit ${unit}`);
}

/** Units that are compared with each other: of the attention or the FFN of one layer, all hidden dims, or all gates. */
export interface UnitPart {
  readonly place: Place;
  /** Their layer; null if they are of the whole model. */
  readonly layer: number | null;
  readonly first: number;
  readonly count: number;
  /** Units that are cut together. */
  readonly step: number;
}

/** The parts of a table, in the order of its units. */
export function partsOf({ ranges, layers, rules: { fit } }: UnitTable): readonly UnitPart[] {
  return PLACES.flatMap((place): readonly UnitPart[] => {
    if (place === "attention" || place === "ffn") return layers.map((own, layer) => ({ place, layer, ...own[place] }));
    const { first, end } = ranges[place];
    return [{ place, layer: null, first, count: end - first, step: place === "hidden" ? fit.hidden : 1 }];
  });
}

/** Parameters saved by cutting a unit alone. */
export function unitParameters(table: UnitTable, unit: number): number {
  const { ranges, spec: { hidden } } = table;
  if (unit >= ranges.layers.first) {
    const part = table.layers[table.layer[unit] ?? 0];
    return ((part?.attention.total ?? 0) + (part?.ffn.total ?? 0)) * hidden;
  }
  if (unit >= ranges.hidden.first) return table.total / hidden + table.square * (hidden - 1);
  const group = table.groups[table.groupOf[unit] ?? -1];
  return ((table.cost[unit] ?? 0) + (group ? group.cost / group.count : 0)) * hidden;
}

/** Mask values z of a selection. */
export function selectionMasks(table: UnitTable, kept: Selection): Required<MaskValues> {
  checkPerUnit(table, kept, "units");
  const slots = new Float32Array(table.layout.count).fill(1);
  for (let unit = 0; unit < table.count; unit++) {
    const first = table.slotFirst[unit] ?? 0;
    if (!kept[unit]) slots.fill(0, first, first + (table.slotCount[unit] ?? 0));
  }
  return unpackMasks(table.spec, table.layout, slots);
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
  refuse("usage", `cannot use these ${what}`, {
    rule: `there is a number for each of the ${count} units of the table`,
    value: values.length === count ? `NaN for unit ${broken}` : `${values.length} numbers`,
    fix: "make them from the same table, or one of the same kinds and rules",
  });
}

/** Name of a unit in messages. */
export function unitName(table: UnitTable, unit: number): string {
  const layer = table.layer[unit] ?? 0, place = placeOf(table, unit), { first } = table.ranges[place];
  const own = place === "attention" || place === "ffn" ? table.layers[layer]?.[place].first ?? 0 : first;
  return recordOf(kindOf(table, unit)).nameOf(unit - own, layer);
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
function attentionPart(layer: LayerSpec, { index, rows, groups, kind, spec, slot, resolved }: {
  readonly index: number;
  readonly rows: Row[];
  readonly groups: UnitGroup[];
  /** How the heads are cut; null if they are not. */
  readonly kind: KindRecord | null;
  readonly spec: DecoderSpec;
  /** Slot of the first head. */
  readonly slot: number;
  readonly resolved: ResolvedRules;
}): LayerPart {
  const { heads, kvHeads } = layer,
    headDim = headDimOf(spec, layer),
    share = kvHeads > 0 ? heads / kvHeads : 0,
    width = kind?.headsOf?.(layer) ?? 1;
  const first = rows.length, firstGroup = groups.length, total = mixerPerDim(spec, layer);
  const part = { first, firstGroup, total }, least = resolved.minimum.heads;
  const step = kind === null ? 1 : headStep(width, { share, fit: resolved.fit.heads });
  if (kind === null || nextNarrower(heads, { align: step, least }) < 0) {
    return { ...part, count: 0, groupCount: 0, fixed: total, step: 1, minimum: heads, least: total };
  }
  for (let at = 0; at < heads; at += width) {
    // Heads that share K and V form a group, whose K and V are cut with the last of them.
    if (width < share && at % share === 0) groups.push({ first: rows.length, count: share / width, cost: 2 * headDim });
    const cost = 2 * headDim * (width + (width < share ? 0 : width / share));
    rows.push({ cost, slot: slot + at, slots: width, layer: index, group: width < share ? groups.length - 1 : -1 });
  }
  const minimum = Math.ceil(least / step) * step, started = Math.ceil(minimum / share);
  return {
    ...part,
    count: rows.length - first,
    groupCount: groups.length - firstGroup,
    fixed: 0,
    step: step / width,
    minimum,
    least: 2 * headDim * (minimum + started),
  };
}

/** Query heads that are cut at once in a layer: those of a unit or, if K and V are cut with it, a multiple of `fit`. */
function headStep(width: number, { share, fit }: { readonly share: number; readonly fit: number }): number {
  if (width < share) return width;
  let step = width;
  while (step % fit !== 0) step += width;
  return step;
}

/** Adds the FFN columns of a layer to `rows`. */
function ffnPart(width: number, { layer, rows, slot, isCut, spec, resolved: { protect, minimum, align } }: {
  readonly layer: number;
  readonly rows: Row[];
  /** Slot of the first column. */
  readonly slot: number;
  readonly isCut: boolean;
  readonly spec: DecoderSpec;
  readonly resolved: ResolvedRules;
}): LayerPart {
  const first = rows.length, matrices = ffnMatrices(spec), least = leastFfn(spec, minimum);
  const falls = isCut && !protect.has(layer) && nextNarrower(width, { align, least }) >= 0;
  const stays = falls ? Math.ceil(minimum.ffn / align) * align : width;
  for (let c = 0; falls && c < width; c++) rows.push({ cost: matrices, slot: slot + c, slots: 1, layer, group: -1 });
  return {
    ...ABSENT,
    first,
    count: rows.length - first,
    fixed: falls ? 0 : matrices * width,
    total: matrices * width,
    step: align,
    minimum: stays,
    least: matrices * stays,
  };
}
