// Layouts for programs without per-layer sizes: padded to the widest layer, and without fully cut layers.
import { type CompressoError, option, refusal, refuse } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import type { WeightSource } from "../spec/source.ts";
import { type MaskValues, packMasks, slotLayout } from "../nn/mask_slots.ts";
import {
  biasName,
  CONV_PARTS,
  convName,
  CURVE_PARTS,
  curveName,
  type DecoderSpec,
  ffnMatrices,
  hasMixer,
  hasNorm,
  headDimOf,
  headNormName,
  layersAlike,
  type LayerSpec,
  linearPerDim,
  mixerMasks,
  mixerPerDim,
  normName,
  normPlaces,
  normTensors,
  type Projection,
  projectionName,
  PROJECTIONS,
  QK,
  withCounts,
} from "../spec/decoder.ts";
import { fixedHeads } from "../families/all.ts";
import { ATTENTION } from "../families/shared.ts";
import type { Layout } from "../units/layout.ts";
import { cheapestGroupSize, type HeadGroup, planHeads } from "../units/head_groups.ts";
import { type Constant, headOrigins, type Remap, remapSource } from "./remap.ts";
import { headRows, type SlicePlan } from "./slice.ts";

/**
 * The same model without the layers that have neither heads nor FFN columns, since these add nothing. The other layers
 * are renumbered. Exported files hold this model. If all layers are empty they are kept.
 */
export function shallow(source: WeightSource): WeightSource {
  const { spec, made } = shallowPlan(source.spec);
  return spec === source.spec ? source : remapSource(source, spec, (name) => made.get(name) ?? { from: name });
}

/** Shape and tensors of {@link shallow}. */
export function shallowPlan(spec: DecoderSpec): SlicePlan {
  const made = new Map<string, Remap | Constant>();
  const living = [...spec.layers.entries()].filter(([, layer]) => hasMixer(layer) || layer.ffn > 0);
  if (living.length === 0 || living.length === spec.layers.length) return { spec, made };
  for (const [layer, [place]] of living.entries()) {
    for (const norm of normPlaces(spec)) {
      const from = normTensors(spec, normName(place, norm));
      normTensors(spec, normName(layer, norm)).forEach((name, i) => made.set(name, { from: from[i] ?? name }));
    }
    for (const of of QK) made.set(headNormName(layer, of), { from: headNormName(place, of) });
    for (const part of CURVE_PARTS) made.set(curveName(layer, part), { from: curveName(place, part) });
    for (const part of CONV_PARTS) made.set(convName(layer, part), { from: convName(place, part) });
    for (const projection of PROJECTIONS) {
      made.set(projectionName(layer, projection), { from: projectionName(place, projection) });
      made.set(biasName(layer, projection), { from: biasName(place, projection) });
    }
  }
  return { spec: { ...spec, layers: living.map(([, layer]) => layer) }, made };
}

/**
 * The same model with every layer padded with zeros to the width of the widest: equal logits, more memory and time. All
 * layers get the same number of query heads per KV head, chosen for the fewest parameters. Families whose
 * classes derive the head width from the number of heads get all heads again (`fixedHeads`). KV heads that
 * slicing repeated in this program to split a group are merged again, so the result is never larger than the model
 * before slicing. A layer without attention or FFN gets a part of zeros.
 */
export function padded(source: WeightSource): WeightSource {
  const { spec, made } = paddedPlan(source.spec);
  return spec === source.spec ? source : remapSource(source, spec, (name) => made.get(name) ?? { from: name });
}

/** Shape of the exported files of a sliced model. */
export function shapeWritten(sliced: DecoderSpec, layout: Layout): DecoderSpec {
  const { spec } = shallowPlan(sliced);
  return layout === "padded" ? paddedPlan(spec).spec : spec;
}

/** Shape and tensors of {@link padded}. */
export function paddedPlan(spec: DecoderSpec): SlicePlan {
  const fixed = fixedHeads(spec), hasKinds = spec.localHeadDim !== undefined;
  const whole = spec.layers.find(({ conv }) => !conv)?.heads ?? fixed;
  if (layersAlike(spec) && (fixed ?? whole) === whole) return { spec, made: new Map() };
  const groups = wholeGroups(spec),
    cheapest = cheapestGroupSize(groups.map((own) => own.map(({ heads }) => heads.length)));
  // The total number of heads is fixed.
  let size = cheapest;
  while (fixed !== null && fixed % size !== 0) size++;
  const most = Math.max(1, ...groups.map((own) => planHeads(own, { size }).kvHeads.length));
  const kvHeads = Math.max(most, Math.floor((fixed ?? 0) / size));
  const ffn = Math.max(1, ...spec.layers.map((layer) => layer.ffn));
  const made = new Map<string, Remap | Constant>();
  spec.layers.forEach((layer, index) => {
    // No run cuts heads where they are of two kinds.
    const plan = hasKinds
      ? { heads: indices(layer.heads), kvHeads: indices(layer.kvHeads) }
      : planHeads(groups[index] ?? [], { size, kvHeads });
    const own = headDimOf(spec, layer), q = headRows(plan.heads, own), kv = headRows(plan.kvHeads, own);
    const columns = Int32Array.from({ length: ffn }, (_, column) => column < layer.ffn ? column : -1);
    const maps: Record<Projection, Omit<Remap, "from">> = {
      q: { rows: q },
      k: { rows: kv },
      v: { rows: kv },
      o: { cols: q },
      gate: { rows: columns },
      up: { rows: columns },
      down: { cols: columns },
    };
    for (const projection of PROJECTIONS) {
      if (layer.conv && ATTENTION.includes(projection)) continue;
      const from = projectionName(index, projection);
      const there = projection === "gate" || projection === "up" || projection === "down"
        ? layer.ffn > 0
        : layer.heads > 0;
      made.set(from, there ? { from, ...maps[projection] } : { fill: 0 });
      const bias = biasName(index, projection), { rows } = maps[projection];
      made.set(bias, there ? { from: bias, rows } : { fill: 0 });
    }
    for (const place of normPlaces(spec)) {
      if (hasNorm(spec, layer, place)) continue;
      normTensors(spec, normName(index, place)).forEach((name, i) => made.set(name, { fill: 1 - i }));
    }
    // Columns of zeros in down_proj read what the curve makes of 0.
    if (layer.ffn === 0) { for (const part of CURVE_PARTS) made.set(curveName(index, part), { fill: 0 }); }
    for (const of of QK) {
      const name = headNormName(index, of);
      if (layer.heads === 0) made.set(name, { fill: 1 });
      else if (spec.qkNorm === "layer") made.set(name, { from: name, rows: of === "q" ? q : kv });
    }
  });
  const layers = spec.layers.map((layer) =>
    withCounts(
      layer,
      layer.conv || hasKinds
        ? { heads: layer.heads, kvHeads: layer.kvHeads, ffn }
        : { heads: kvHeads * size, kvHeads, ffn },
    )
  );
  return { spec: { ...spec, layers }, made };
}

function indices(count: number): Int32Array {
  return Int32Array.from({ length: count }, (_, index) => index);
}

/** Input of {@link uniformMasks} in addition to the scores. */
export interface UniformInput {
  /** Hard masks that define how much of each kind is kept. The hidden mask is used unchanged. */
  readonly masks: MaskValues;
  /** Share of the layers' linear weights to cut. Default: the share that `masks` cut. */
  readonly target?: number | undefined;
}

const NAMES: NamesOf<UniformInput> = { masks: true, target: "number" };

/**
 * Masks that cut every layer to the same counts. The numbers of KV heads, heads per group and FFN columns start from
 * their means over the layers of `masks`. The FFN width is then chosen so that the sparsity reaches the target, but
 * would not with one more column. Each layer keeps its units with the highest scores. `scores` has the layout of masks;
 * a missing kind scores all its units equally. Values are 0 and 1 (hidden: those of `masks`).
 *
 * @throws CompressoError("usage") if no such counts exist, for example because a layer already lacks attention or FFN.
 */
export function uniformMasks(
  spec: DecoderSpec,
  scores: MaskValues,
  input: UniformInput,
): Required<MaskValues> {
  checkNames(input, NAMES, { whose: "uniformMasks" });
  const { masks, target } = input;
  if (spec.localHeadDim !== undefined) {
    refuse("usage", "cannot cut every layer to the same counts", {
      rule: "all layers have heads of one width",
      value: "this model has heads of two widths",
    });
  }
  const layout = slotLayout(spec), z = packMasks(spec, layout, masks), ranks = packMasks(spec, layout, scores);
  const layers = spec.layers.map((layer, index) => {
    const { head = 0, ffn = 0 } = layout.layers[index] ?? {};
    const cut = (slots: Float32Array): { heads: Float32Array; ffn: Float32Array } => ({
      heads: slots.subarray(head, head + mixerMasks(layer)),
      ffn: slots.subarray(ffn, ffn + layer.ffn),
    });
    return { layer, groups: groupsOf(layer), mask: cut(z), score: cut(ranks) };
  });
  const hidden = z.slice(layout.hidden, layout.hidden + spec.hidden);
  const dims = count(hidden);
  const attending = layers.filter(({ layer }) => !layer.conv), convolved = layers.length - attending.length;
  let living = 0, heads = 0, size = 0;
  for (const { groups, mask, layer } of layers) {
    const lives = groups.map((group) => group.heads.filter((h) => mask.heads[h] !== 0).length);
    living += lives.filter((alive) => alive > 0).length;
    if (!layer.conv) heads += count(mask.heads);
    size += linearPerDim(spec, layer);
  }
  const kept = keptPerDim({ ...spec, hidden: dims }, layers.map((part) => part.mask));
  const wanted = target ?? 1 - dims * kept / (spec.hidden * size);
  if (target !== undefined && !(target >= 0 && target < 1)) {
    refuse("usage", "cannot cut every layer to the same counts", {
      rule: "the target lies in [0, 1)",
      value: target,
    });
  }
  const mostKv = Math.min(...attending.map(({ layer }) => layer.kvHeads));
  const mostShare = Math.min(...attending.map(({ layer }) => layer.heads / Math.max(1, layer.kvHeads)));
  const mostFfn = Math.min(...layers.map(({ layer }) => layer.ffn));
  const share = spec.qkNorm === "whole" ? mostShare : clamp(Math.round(heads / Math.max(1, living)), 1, mostShare);
  const columns = (kv: number): number => {
    // The widest FFN with dims·(attention + convolutions + layers·matrices·ffn) ≤ (1 − target)·hidden·size. The small term
    // absorbs rounding of the quotient.
    const budget = (1 - wanted) * spec.hidden * size / (Math.max(1, dims) * layers.length);
    const convolutions = convolved * mixerPerDim({ ...spec, hidden: dims }, { heads: 0, kvHeads: 0, conv: true });
    const others = (attending.length * 2 * spec.headDim * kv * (share + 1) + convolutions) / layers.length;
    return Math.floor((budget - others) / ffnMatrices(spec) + 1e-9);
  };
  // Heads whose q and k are normalised together are cut in no layer.
  const isFixed = spec.qkNorm === "whole";
  let kv = isFixed ? mostKv : clamp(Math.round(living / attending.length), 1, mostKv);
  // If the FFN cannot compensate for the mean number of heads, the number of heads changes.
  while (!isFixed && kv > 1 && columns(kv) < 1) kv--;
  while (kv < mostKv && columns(kv) > mostFfn && columns(kv + 1) >= 1) kv++;
  const ffn = Math.min(columns(kv), mostFfn);
  if (mostKv < 1 || mostFfn < 1 || ffn < 1 || dims === 0) throw impossible(wanted, { mostKv, mostFfn });

  return {
    head: join(layers.map(({ layer, groups, score }) => {
      if (layer.conv) return Float32Array.of(1);
      const best = groups.map((group) => top(group.heads, score.heads, share));
      const sums = Float32Array.from(best, (own) => own.reduce((sum, h) => sum + (score.heads[h] ?? 0), 0));
      return flags(layer.heads, top([...sums.keys()], sums, kv).flatMap((group) => best[group] ?? []));
    })),
    ffn: join(layers.map(({ layer, score }) => flags(layer.ffn, top([...score.ffn.keys()], score.ffn, ffn)))),
    hidden,
  };
}

function groupsOf({ heads, kvHeads }: LayerSpec): HeadGroup[] {
  const share = kvHeads > 0 ? heads / kvHeads : 0;
  return Array.from(
    { length: kvHeads },
    (_, kv) => ({ kv, heads: Array.from({ length: share }, (_, i) => kv * share + i) }),
  );
}

/** KV groups of each layer before slicing made them equal: split groups are merged, heads of zeros are left out. */
function wholeGroups(spec: DecoderSpec): HeadGroup[][] {
  const { headDim, layers } = spec, origins = headOrigins(spec);
  return layers.map((layer, index) => {
    const groups = groupsOf(layer), { q, k } = origins[index] ?? {};
    if (!q || !k) return groups;
    const parts = Map.groupBy(groups, ({ kv }) => k[kv * headDim] ?? -1);
    return [...parts.values()].map((own): HeadGroup => ({
      kv: own[0]?.kv ?? 0,
      heads: own.flatMap(({ heads }) => heads).filter((head) => (q[head * headDim] ?? -1) >= 0),
    })).filter(({ heads }) => heads.length > 0);
  });
}

/** Parameters per hidden dim that hard masks keep. A KV head is kept while one of its heads is. */
function keptPerDim(
  spec: DecoderSpec,
  masks: readonly { readonly heads: Float32Array; readonly ffn: Float32Array }[],
): number {
  return spec.layers.reduce((sum, layer, index) => {
    const { heads = new Float32Array(0), ffn = new Float32Array(0) } = masks[index] ?? {};
    const living = groupsOf(layer).filter((group) => group.heads.some((h) => heads[h] !== 0)).length;
    const counts = { heads: layer.conv ? 0 : count(heads), kvHeads: living, ffn: count(ffn) };
    return sum + linearPerDim(spec, { ...counts, ...layer.conv ? { conv: true } : {} });
  }, 0);
}

/** The `most` indices with the highest scores; ties go to the lower index. */
function top(indices: readonly number[], score: Float32Array, most: number): number[] {
  return indices.toSorted((a, b) => (score[b] ?? 0) - (score[a] ?? 0) || a - b).slice(0, most);
}

function flags(length: number, kept: readonly number[]): Float32Array {
  const values = new Float32Array(length);
  for (const index of kept) values[index] = 1;
  return values;
}

function join(parts: readonly Float32Array[]): Float32Array {
  const values = new Float32Array(parts.reduce((sum, own) => sum + own.length, 0));
  let at = 0;
  for (const own of parts) {
    values.set(own, at);
    at += own.length;
  }
  return values;
}

function count(mask: Float32Array): number {
  return mask.reduce((sum, value) => sum + (value === 0 ? 0 : 1), 0);
}

function clamp(value: number, low: number, high: number): number {
  return Math.max(low, Math.min(value, high));
}

function impossible(target: number, most: { readonly mostKv: number; readonly mostFfn: number }): CompressoError {
  return refusal("usage", `cannot cut all layers alike for ${option("layout", "uniform")}`, {
    rule: "each layer keeps one KV head and one FFN column at least",
    value: `${
      option("sparsity", target.toFixed(4))
    }; the smallest layer has ${most.mostKv} KV heads and ${most.mostFfn} FFN columns`,
    fix: `lower ${option("sparsity")}, or take ${option("layout", "padded")}`,
  });
}
