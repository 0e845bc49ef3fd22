// Slices a pruned model to a smaller ordinary model: LoRA merged, cut units removed, soft masks folded into weights.
import { type CompressoError, refusal, refuse } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import type { WeightSource } from "../spec/source.ts";
import { loraNames, loraScale, refuseOthers } from "../spec/lora.ts";
import { type MaskValues, packMasks, slotLayout } from "../nn/mask_slots.ts";
import {
  biasName,
  CONV_PARTS,
  convName,
  type ConvPart,
  type DecoderSpec,
  EMBEDDING,
  FINAL_NORM,
  hasBias,
  hasMixer,
  HEAD,
  headDimOf,
  headNormName,
  type LayerSpec,
  mixerMasks,
  normName,
  normPlaces,
  normTensors,
  POSITIONS,
  PROJECT_IN,
  PROJECT_OUT,
  type Projection,
  projectionName,
  PROJECTIONS,
  projectionShape,
  QK,
  withBiases,
  withCounts,
} from "../spec/decoder.ts";
import { hidden as hiddenKind } from "../units/kinds/hidden.ts";
import { cannotCut, NORMS_OVER_HEADS } from "../units/kinds/kind.ts";
import { cheapestGroupSize, type HeadGroup, planHeads } from "../units/head_groups.ts";
import { type Constant, type LowRank, type Remap, remapSource } from "./remap.ts";

/** LoRA to merge: W + s·B·A, with s of {@link loraScale}. */
export interface MergeLora {
  /** Inner dimension r. */
  readonly rank: number;
  /** Numerator of the scale. */
  readonly alpha: number;
  /** Whether the scale is alpha / √rank instead of alpha / rank. Default false. */
  readonly rsLora?: boolean;
  /** Exactly the projections that `weights` cover. Default: the projections in the names of `weights`. */
  readonly targets?: readonly Projection[];
  /** Matrices `lora.<layer>.<projection>.<A|B>`: A [rank, in], B [out, rank] of the unpruned model. */
  readonly weights: ReadonlyMap<string, Float32Array>;
}

/** Masks and LoRA that {@link sliceModel} applies. */
export interface SliceInput {
  /** Mask values z; 0 means cut. A missing kind is all 1. */
  readonly masks?: MaskValues | undefined;
  /** LoRA to merge before cutting. */
  readonly lora?: MergeLora | undefined;
}

const NAMES: NamesOf<SliceInput> = { masks: true, lora: true };

/** The new shape of a layer and the origin of its parts. */
interface LayerPlan {
  readonly spec: LayerSpec;
  /** Rows or columns of the base for the query heads, KV heads and FFN columns; −1 for zeros. */
  readonly q: Int32Array;
  readonly kv: Int32Array;
  readonly ffn: Int32Array;
  /** Mask value of the convolution; 0 without one. */
  readonly convScale: number;
  /** Mask values of the kept heads and columns; absent if all are 1. */
  readonly qScale: Float64Array | undefined;
  readonly ffnScale: Float64Array | undefined;
}

/**
 * Slices a model: the result computes the same as `base` with these masks and LoRA, but has no units with z = 0. It is
 * lazy: a tensor of the base is read only when a tensor that needs it is read.
 *
 * - z of heads is folded into columns of o_proj, z of FFN columns into rows of up_proj (the mask is on silu(gate)·up;
 *   without a gate on f(up), so into columns of down_proj), and z of hidden dims into columns of the embedding and rows
 *   of o_proj and down_proj. The head uses the embedding without z, so soft hidden masks untie it.
 * - With LayerNorm no hidden dim is cut, see lib/units/kinds/hidden.ts.
 * - RMSNorm with D of H dims kept: the masked mean runs over all H, and mean_H = (D/H)·mean_D. So w' = w·√(H/D) and
 *   ε' = ε·H/D.
 * - A factor of the embedding that grows with √H (Gemma) becomes that of D dims; the embedding takes √(H/D). With a
 *   tied head the final norm then keeps its w, as the head is larger by that factor.
 * - Norms of outputs (Gemma 3) run after the mask, and are changed to D dims like the others.
 * - Norms of q and k heads share ε'. With q and k scaled by √(H/D), mean square and ε' keep the ratio of the original
 *   mean square and ε.
 * - A channel of a convolution goes with the hidden dim of its number: both masks of a convolution are folded into columns of its out_proj.
 * - Biases follow the rows of their weights. If a part is cut whole, the bias of its o_proj or down_proj remains. It
 *   moves to the last such write to the residual stream before it, as nothing between the two reads the stream. If
 *   there is no such write, the layer keeps a column of zeros, or a head of zeros if its FFN reads the stream after it.
 *   In a parallel layer the FFN does not read it, so the FFN itself takes the bias of a cut attention. If outputs are
 *   normalised, the bias cannot move: the part keeps a head or a column of zeros. If the residual stream is normalised,
 *   the part keeps one even without a bias, since its norm changes the stream.
 * - A KV head is removed with the last head of its group. Groups of different sizes are made equal in the way with the
 *   fewest parameters: shorter ones get heads of zeros, or longer ones are split and their KV head is repeated (see
 *   `cheapestGroupSize`).
 *
 * @throws CompressoError("input") for masks or LoRA that do not fit the model, and if no hidden dim is left.
 * @throws CompressoError("usage") for unknown parts and unknown kinds of masks.
 * @example
 * ```ts
 * import { sliceModel } from "compresso";
 * import { openModelFiles } from "compresso/model";
 *
 * const { source } = await openModelFiles("demo");
 * const masks = { hidden: new Float32Array(source.spec.hidden).fill(1) };
 * masks.hidden[3] = 0;
 * const { spec } = sliceModel(source, { masks });
 * if (spec.hidden !== source.spec.hidden - 1) throw new Error("nothing was cut");
 * ```
 */
export function sliceModel(base: WeightSource, input: SliceInput): WeightSource {
  checkNames(input, NAMES, { whose: "sliceModel" });
  const { masks = {}, lora } = input;
  const lowRank = lora ? lowRanks(base.spec, lora) : new Map<string, LowRank>();
  const { spec, made } = planSlice(base.spec, masks);
  return remapSource(base, spec, (name) => {
    const remap = made.get(name) ?? { from: name };
    return "fill" in remap ? remap : { ...remap, lowRank: lowRank.get(name) };
  });
}

/** Result of planning a slice. */
export interface SlicePlan {
  /** Shape of the sliced model. */
  readonly spec: DecoderSpec;
  /** Origin of its tensors; a missing entry is the tensor of the base. */
  readonly made: ReadonlyMap<string, Remap | Constant>;
}

/** Shape and tensors of the sliced model, without LoRA. Throws like {@link sliceModel}. */
export function planSlice(spec: DecoderSpec, masks: MaskValues): SlicePlan {
  const layout = slotLayout(spec), z = packMasks(spec, layout, masks);
  const part = (slot: number | undefined, count: number): Float32Array => z.subarray(slot ?? 0, (slot ?? 0) + count);
  const hiddenMask = part(layout.hidden, spec.hidden);
  const kept = keptIndices(hiddenMask);
  if (kept.length === 0) {
    refuse("input", "cannot slice the model", {
      rule: "at least one hidden dim is kept",
      value: "the hidden mask is 0 everywhere",
    });
  }
  const hidden = kept.length === spec.hidden ? undefined : kept;
  if (hidden && hiddenKind.misfit.isFor(spec)) {
    throw cannotCut(hiddenKind.misfit, "cannot slice the model", "hidden masks of 0");
  }
  refuseSomeHeads(spec, z);
  const hiddenScale = scaleOf(hiddenMask, kept);
  let isFirst = true;
  const plans = spec.layers.map((layer, index) => {
    const slots = layout.layers[index];
    const plan = planLayer(spec, layer, {
      heads: part(slots?.head, mixerMasks(layer)),
      ffn: part(slots?.ffn, layer.ffn),
      isFirst,
    });
    if (hasMixer(plan.spec) || plan.spec.ffn > 0) isFirst = false;
    return plan;
  });
  // A projection of the embedding takes the hidden mask, so a tied embedding stays one.
  const hasProjections = spec.embeddingWidth !== undefined;
  const ratio = spec.hidden / kept.length, isTied = spec.tied && (hasProjections || !hiddenScale);
  const normScale = hidden ? new Float64Array(kept.length).fill(Math.sqrt(ratio)) : undefined;

  const remaps = new Map<string, Remap | Constant>();
  if (hasProjections) {
    remaps.set(PROJECT_IN, { from: PROJECT_IN, rows: hidden, rowScale: hiddenScale });
    remaps.set(PROJECT_OUT, { from: PROJECT_OUT, cols: hidden });
  } else {
    remaps.set(EMBEDDING, { from: EMBEDDING, cols: hidden, colScale: hiddenScale });
    remaps.set(HEAD, { from: spec.tied ? EMBEDDING : HEAD, cols: hidden });
  }
  if (spec.positions) remaps.set(POSITIONS, { from: POSITIONS, cols: hidden, colScale: hiddenScale });
  const norm = (weight: string): void => {
    for (const name of normTensors(spec, weight)) remaps.set(name, { from: name, rows: hidden, rowScale: normScale });
  };
  norm(FINAL_NORM);
  const { scales } = spec, isFolded = hidden !== undefined && scales?.embedding !== undefined;
  if (isFolded) {
    const factor = (value: number | undefined): number => Math.sqrt(ratio) * (value ?? 1);
    const colScale = Float64Array.from(kept, (_, i) => factor(hiddenScale?.[i]));
    remaps.set(EMBEDDING, { from: EMBEDDING, cols: hidden, colScale });
    if (isTied) remaps.set(FINAL_NORM, { from: FINAL_NORM, rows: hidden });
  }
  plans.forEach((plan, index) => {
    for (const place of normPlaces(spec)) norm(normName(index, place));
    if (spec.qkNorm === "layer") {
      for (const of of QK) {
        const name = headNormName(index, of);
        remaps.set(name, { from: name, rows: of === "q" ? plan.q : plan.kv });
      }
    }
    for (const part of plan.spec.conv ? CONV_PARTS : []) {
      const from = convName(index, part);
      remaps.set(from, { from, ...pickConv(part, { hidden, hiddenScale, scale: plan.convScale, width: spec.hidden }) });
    }
    for (const projection of PROJECTIONS) {
      const from = projectionName(index, projection);
      const picked = pick(plan, projection, {
        hidden,
        hiddenScale,
        headScale: spec.qkNorm && hidden ? Math.sqrt(ratio) : 1,
        valueScale: spec.valueNorm && hidden ? Math.sqrt(ratio) : 1,
        ungated: spec.ungated === true,
      });
      remaps.set(from, { from, ...picked });
      const bias = biasName(index, projection), { rows, rowScale } = picked;
      if (hasBias(spec, projection)) remaps.set(bias, { from: bias, rows, rowScale });
    }
  });
  const outputs = outputBiases(spec, plans);
  for (const [name, [from, ...plus]] of outputs) {
    remaps.set(name, from ? { from, plus, rows: hidden, rowScale: hiddenScale } : { fill: 0 });
  }
  const { plainNorms: _, ...plain } = spec;
  const sliced: DecoderSpec = {
    // The embedding of fewer or scaled dims is not normalised.
    ...withBiases(hidden || hiddenScale ? plain : spec, [
      ...spec.biases ?? [],
      ...outputs.size > 0 ? ["o", "down"] as const : [],
    ]),
    hidden: kept.length,
    layers: plans.map((plan) => plan.spec),
    normEps: hidden ? spec.normEps * ratio : spec.normEps,
    tied: isTied,
    ...isFolded
      ? { scales: { ...scales, embedding: Math.sqrt(kept.length) * (scales.embedding / Math.sqrt(spec.hidden)) } }
      : {},
  };
  return { spec: sliced, made: remaps };
}

/** Refuses to cut some heads of a layer whose norms of q and k span all heads. All heads together may be cut. */
function refuseSomeHeads(spec: DecoderSpec, z: Float32Array): void {
  if (spec.qkNorm !== "whole") return;
  const layout = slotLayout(spec);
  spec.layers.forEach(({ heads }, index) => {
    const first = layout.layers[index]?.head ?? 0,
      cut = z.subarray(first, first + heads).filter((value) => value === 0);
    if (cut.length === 0 || cut.length === heads) return;
    throw cannotCut(
      NORMS_OVER_HEADS,
      "cannot slice the model",
      `masks of 0 of ${cut.length} of ${heads} heads of layer ${index}`,
    );
  });
}

function pick(
  plan: LayerPlan,
  projection: Projection,
  { hidden, hiddenScale, headScale, valueScale, ungated }: {
    readonly hidden: Int32Array | undefined;
    readonly hiddenScale: Float64Array | undefined;
    /** Factor of q and k, which their norms cancel. */
    readonly headScale: number;
    /** Factor of v, likewise. */
    readonly valueScale: number;
    /** Whether the FFN has no gate. */
    readonly ungated: boolean;
  },
): Omit<Remap, "from"> {
  const scaled = (rows: Int32Array, factor: number): Omit<Remap, "from"> =>
    factor === 1
      ? { rows, cols: hidden }
      : { rows, cols: hidden, rowScale: new Float64Array(rows.length).fill(factor) };
  switch (projection) {
    case "q":
      return scaled(plan.q, headScale);
    case "k":
      return scaled(plan.kv, headScale);
    case "v":
      return scaled(plan.kv, valueScale);
    case "o":
      return { rows: hidden, cols: plan.q, rowScale: hiddenScale, colScale: plan.qScale };
    case "gate":
      return { rows: plan.ffn, cols: hidden };
    case "up":
      return { rows: plan.ffn, cols: hidden, rowScale: ungated ? undefined : plan.ffnScale };
    case "down":
      return { rows: hidden, cols: plan.ffn, rowScale: hiddenScale, colScale: ungated ? plan.ffnScale : undefined };
  }
}

/** Its channels go with the hidden dims of their number, whose masks multiply its output before the mask of the whole. */
function pickConv(part: ConvPart, { hidden, hiddenScale, scale, width }: {
  readonly hidden: Int32Array | undefined;
  readonly hiddenScale: Float64Array | undefined;
  /** Mask value of the whole convolution. */
  readonly scale: number;
  /** Channels of the base. */
  readonly width: number;
}): Omit<Remap, "from"> {
  switch (part) {
    case "in":
      return {
        rows: hidden && Int32Array.from({ length: 3 * hidden.length }, (_, row) => {
          return Math.floor(row / hidden.length) * width + (hidden[row % hidden.length] ?? -1);
        }),
        cols: hidden,
      };
    case "taps":
      return { rows: hidden };
    case "out": {
      const count = hidden?.length ?? width, isScaled = hiddenScale !== undefined || scale !== 1;
      const colScale = isScaled
        ? Float64Array.from({ length: count }, (_, i) => scale * (hiddenScale?.[i] ?? 1))
        : undefined;
      return { rows: hidden, cols: hidden, rowScale: hiddenScale, colScale };
    }
  }
}

/**
 * For each bias of a sliced o_proj or down_proj, the biases of the base that are summed into it. Empty if no part with
 * such a bias is cut whole: all biases then keep their places.
 */
function outputBiases(spec: DecoderSpec, plans: readonly LayerPlan[]): Map<string, readonly string[]> {
  const sums = new Map<string, string[]>(), first: string[] = [];
  let last: string[] | undefined, hasMoved = false;
  plans.forEach((plan, index) => {
    const layer = spec.layers[index];
    // The FFN of a parallel layer does not read what its attention writes, so a cut attention's bias goes to the FFN's.
    const isSwapped = spec.parallel !== undefined && plan.spec.heads === 0;
    for (const projection of isSwapped ? ["down", "o"] as const : ["o", "down"] as const) {
      const part = projection === "o" ? "heads" : "ffn", name = biasName(index, projection);
      const isLeft = plan.spec[part] > 0;
      // The first write also receives what remained before it in its own layer.
      if (isLeft) sums.set(name, last = last ? [] : first);
      if (!layer || layer[part] === 0 || !hasBias(spec, projection)) continue;
      (last ?? first).push(name);
      hasMoved ||= !isLeft;
    }
  });
  return hasMoved ? sums : new Map();
}

function planLayer(
  spec: DecoderSpec,
  layer: LayerSpec,
  mask: {
    readonly heads: Float32Array;
    readonly ffn: Float32Array;
    /** Whether all parts of the layers before are cut. */
    readonly isFirst: boolean;
  },
): LayerPlan {
  const headDim = headDimOf(spec, layer);
  const share = layer.kvHeads > 0 ? layer.heads / layer.kvHeads : 0;
  const groups: HeadGroup[] = Array.from({ length: layer.kvHeads }, (_, kv) => ({
    kv,
    heads: Array.from({ length: share }, (_, i) => kv * share + i).filter((head) => mask.heads[head] !== 0),
  })).filter((group) => group.heads.length > 0);
  const kept = keptIndices(mask.ffn), isGone = groups.length === 0 && kept.length === 0;
  const stays = spec.normPlaces !== undefined;
  const isResidual = spec.normPlaces === "residual";
  const leaves = (projection: Projection, count: number): boolean =>
    count > 0 && (isResidual || ((mask.isFirst || stays) && hasBias(spec, projection)));
  const o = leaves("o", layer.heads), down = leaves("down", layer.ffn);
  // The column of a fully cut layer takes both biases: nothing reads between them.
  const hasColumn = stays ? down && kept.length === 0 : isGone && layer.ffn > 0 && (o || down);
  const plan = planHeads(groups, {
    size: cheapestGroupSize([groups.map((group) => group.heads.length)]),
    kvHeads: groups.length === 0 && o && (stays || (isGone ? layer.ffn === 0 : !spec.parallel)) ? 1 : groups.length,
  });
  const ffn = hasColumn ? Int32Array.of(-1) : kept;
  const qScale = scaleOf(mask.heads, plan.heads);
  const { conv, ...others } = layer, [convScale = 1] = mask.heads;
  const hasConv = conv === true && convScale !== 0;
  return {
    spec: {
      ...withCounts(others, { heads: plan.heads.length, kvHeads: plan.kvHeads.length, ffn: ffn.length }),
      ...hasConv ? { conv } : {},
    },
    convScale: hasConv ? convScale : 0,
    q: headRows(plan.heads, headDim),
    kv: headRows(plan.kvHeads, headDim),
    ffn,
    qScale: qScale &&
      Float64Array.from({ length: qScale.length * headDim }, (_, i) => qScale[Math.floor(i / headDim)] ?? 0),
    ffnScale: scaleOf(mask.ffn, ffn),
  };
}

/** Rows of each head in turn; all −1 for head −1. */
export function headRows(heads: Int32Array, headDim: number): Int32Array {
  const rows = new Int32Array(heads.length * headDim);
  heads.forEach((head, place) => {
    for (let i = 0; i < headDim; i++) rows[place * headDim + i] = head < 0 ? -1 : head * headDim + i;
  });
  return rows;
}

function keptIndices(mask: Float32Array): Int32Array {
  return Int32Array.from([...mask.keys()].filter((index) => mask[index] !== 0));
}

/** Mask values at `indices`; undefined if all are 1. An index of −1 needs no scaling. */
function scaleOf(mask: Float32Array, indices: Int32Array): Float64Array | undefined {
  const scale = Float64Array.from(indices, (index) => index < 0 ? 1 : mask[index] ?? 1);
  return scale.every((value) => value === 1) ? undefined : scale;
}

/** LoRA by the name of its weight, checked against the model. */
function lowRanks(spec: DecoderSpec, lora: MergeLora): Map<string, LowRank> {
  const { rank, targets, weights } = lora, scale = loraScale(lora);
  const found = new Map<string, LowRank>();
  if (targets) refuseOthers(spec, { targets, weights });
  for (const name of targets ? loraNames(spec, targets) : weights.keys()) {
    const [, layerText = "", projectionText = "", side] = /^lora\.(\d+)\.(\w+)\.([AB])$/.exec(name) ?? [];
    const layer = spec.layers[Number(layerText || -1)];
    const projection = PROJECTIONS.find((candidate) => candidate === projectionText);
    if (!layer || !projection) {
      throw unfit(name, "its name is lora.<layer>.<projection>.<A|B> for a part of the model", name);
    }
    if (side === "B" && weights.has(`lora.${layerText}.${projection}.A`)) continue;
    const [rows, cols] = projectionShape(spec, layer, projection);
    const take = (which: "A" | "B", size: number): Float32Array => {
      const key = `lora.${layerText}.${projection}.${which}`, data = weights.get(key);
      if (data?.length === size) return data;
      throw unfit(key, `it has ${size} values`, data ? `${data.length} values` : "it is missing");
    };
    found.set(projectionName(Number(layerText), projection), {
      a: take("A", rank * cols),
      b: take("B", rows * rank),
      rank,
      scale,
    });
  }
  return found;
}

function unfit(name: string, rule: string, value: string): CompressoError {
  const fix = "give A [rank, in] and B [out, rank] for every target of this model";
  return refusal("input", `cannot merge the LoRA matrix '${name}'`, {
    rule,
    value,
    fix,
  });
}
