// Rules that limit cutting: protected layers, minimum widths, aligned widths.
import { CompressoError, type ErrorParts } from "../core/errors.ts";
import { checkNames, type NamesOf, shown } from "../core/check_options.ts";
import type { DecoderSpec, LayerSpec } from "../spec/decoder.ts";

/**
 * Kinds of units. "heads" are single attention heads, whose K and V are removed with the last head of their KV group;
 * "kv" are KV groups with all their heads. Both together count as heads. The others are FFN columns, hidden dims and
 * whole layers, and tokens of the vocabulary: these are cut before a run, which then cuts the other kinds. If heads share
 * K and V and are cut one by one, slicing pads the groups of a layer to one size with
 * heads of zeros, so files may keep more than the sparsity says.
 */
export type UnitKind = "heads" | "kv" | "ffn" | "hidden" | "layers" | "vocab";

/** All kinds, in the order of the command-line help. */
export const UNIT_KINDS: readonly UnitKind[] = ["heads", "kv", "ffn", "hidden", "layers", "vocab"];

/** Minimum widths. A part that is not wider than its minimum is not cut at all. Default 0 each. */
export interface MinimumWidths {
  /** Query heads of a layer. */
  readonly heads?: number;
  /** FFN columns of a layer. */
  readonly ffn?: number;
  /** Hidden dims. */
  readonly hidden?: number;
  /** Layers to keep if whole layers are cut, not counting layers that are already empty. */
  readonly layers?: number;
}

/** Limits on what is cut. */
export interface UnitRules {
  /**
   * Layers whose heads, columns and gate are never cut: counted from 0, or from the end (−1 is the last). Default none.
   */
  readonly protect?: readonly number[];
  /** Minimum widths. */
  readonly minimum?: MinimumWidths;
  /** Kept FFN widths and a kept hidden size are multiples of this, or unchanged. Default 1. */
  readonly align?: number;
  /**
   * Multiples of their own for the query heads of a layer (default 1) and for the hidden size (default `align`); see
   * `fittingWidths`. Heads that share K and V and are cut one by one have none.
   */
  readonly fit?: { readonly heads?: number; readonly hidden?: number };
  /**
   * Additional parameters per hidden dim that sparsity counts. 0, the default, gives a share of the layers' linear
   * weights; the size of embedding, norms and head gives a share of the model (see `restPerDim` in target_size.ts).
   */
  readonly rest?: number;
}

const MINIMUM = { heads: "number", ffn: "number", hidden: "number", layers: "number" } satisfies NamesOf<MinimumWidths>;

/** Names of the rules that are also options of a run. */
const RULE_NAMES = { protect: "list", minimum: MINIMUM, align: "number" } satisfies NamesOf<
  Omit<UnitRules, "rest" | "fit">
>;

/** Rules with all defaults filled in. */
export interface ResolvedRules {
  /** See {@link UnitRules.protect}. */
  readonly protect: ReadonlySet<number>;
  /** See {@link UnitRules.minimum}. */
  readonly minimum: Required<MinimumWidths>;
  /** See {@link UnitRules.align}. */
  readonly align: number;
  /** See {@link UnitRules.fit}. */
  readonly fit: { readonly heads: number; readonly hidden: number };
  /** See {@link UnitRules.rest}. */
  readonly rest: number;
}

/**
 * Layer indices from 0 for indices that may be negative (counted from the end). Invalid indices are returned unchanged.
 */
export function layersOf(places: readonly number[], count: number): number[] {
  return places.map((place) => place < 0 && place >= -count ? count + place : place);
}

/**
 * Fills in defaults.
 *
 * @throws CompressoError("usage") for unknown rules or layers, and for invalid widths.
 */
export function resolveRules(spec: DecoderSpec, rules: UnitRules): ResolvedRules {
  checkNames(rules, { ...RULE_NAMES, fit: { heads: "number", hidden: "number" }, rest: "number" }, {
    whose: "unitTable",
  });
  const { protect = [], minimum = {}, align = 1, fit = {}, rest = 0 } = rules, count = spec.layers.length;
  for (const layer of protect) {
    if (Number.isInteger(layer) && layer >= -count && layer < count) continue;
    throw refusal(
      "cannot protect this layer",
      `layers go from 0 to ${count - 1}, or from -${count} to -1`,
      String(layer),
      "name a layer that there is",
    );
  }
  const { heads = 0, ffn = 0, hidden = 0, layers = 0 } = minimum;
  for (const [name, width] of Object.entries({ heads, ffn, hidden, layers })) {
    if (Number.isInteger(width) && width >= 0) continue;
    throw refusal(
      `cannot keep this many ${name}`,
      "a least width is a whole number, 0 or more",
      String(width),
      "try 0",
    );
  }
  // A norm of the residual stream stays where all of attention or FFN is cut, and its place needs one of them.
  const floor = spec.normPlaces === "residual" ? 1 : 0;
  const { heads: fitHeads = 1, hidden: fitHidden = align } = fit;
  for (const multiple of [align, fitHeads, fitHidden]) {
    if (Number.isInteger(multiple) && multiple >= 1) continue;
    const rule = "they are multiples of a whole number, at least 1";
    throw refusal("cannot align widths", rule, String(multiple), "try 32");
  }
  if (!(Number.isFinite(rest) && rest >= 0)) {
    throw refusal(
      "cannot count these parameters",
      "their number per hidden dim is finite and ≥ 0",
      String(rest),
      "give such a number",
    );
  }
  return {
    protect: new Set(layersOf(protect, count)),
    minimum: { heads: Math.max(heads, floor), ffn: Math.max(ffn, floor), hidden, layers },
    align,
    fit: { heads: fitHeads, hidden: fitHidden },
    rest,
  };
}

/**
 * Checks the kinds and sorts them in canonical order. Heads together with KV groups count as heads: K and V of a group
 * are removed with the last of its heads.
 *
 * @throws CompressoError("usage") for unknown kinds, or none at all.
 */
export function checkKinds(kinds: readonly UnitKind[]): ReadonlySet<UnitKind> {
  const fail = (rule: string): never => {
    const present = Array.isArray(kinds) ? kinds.join(",") || "none" : shown(kinds);
    throw refusal("cannot prune these units", rule, present, "try kv,ffn");
  };
  // A string would be treated as a list of its characters.
  if (!Array.isArray(kinds)) fail(`units are a list of some of ${UNIT_KINDS.join(", ")}`);
  for (const kind of kinds) if (!UNIT_KINDS.includes(kind)) fail(`units are some of ${UNIT_KINDS.join(", ")}`);
  if (kinds.length === 0) fail("at least one kind of unit");
  const isWithin = (kind: UnitKind): boolean => kind === "kv" && kinds.includes("heads");
  return new Set(UNIT_KINDS.filter((kind) => kinds.includes(kind) && !isWithin(kind)));
}

/**
 * Refuses limits for kinds that are not pruned, since they would have no effect.
 *
 * @param kinds - Kinds of units that are pruned.
 * @param rules - Rules as given.
 * @throws CompressoError("usage") for limits of kinds that are not pruned.
 */
export function checkTakenRules(
  kinds: readonly UnitKind[],
  { protect = [], minimum = {}, align = 1 }: UnitRules,
): void {
  const { heads = 0, ffn = 0, hidden = 0, layers = 0 } = minimum;
  const limits: readonly (readonly [string, boolean, readonly UnitKind[]])[] = [
    ["a least number of heads", heads > 0, ["heads", "kv"]],
    ["a least FFN width", ffn > 0, ["ffn"]],
    ["a least hidden size", hidden > 0, ["hidden"]],
    ["a least number of layers", layers > 0, ["layers"]],
    ["aligned widths", align > 1, ["ffn", "hidden"]],
    ["protected layers", protect.length > 0, ["heads", "kv", "ffn", "layers"]],
  ];
  for (const [name, isGiven, takers] of limits) {
    if (!isGiven || takers.some((kind) => kinds.includes(kind))) continue;
    throw refusal(
      `cannot keep to ${name}`,
      `that takes one of the units ${takers.join(", ")}`,
      kinds.join(","),
      `add ${
        takers[0]
      } to the units, or leave the limit out; in an experiment give it to a grid of the units that take it`,
    );
  }
}

/** The largest width below `width` that may be kept; −1 if there is none. */
export function nextNarrower(
  width: number,
  { align, least }: { readonly align: number; readonly least: number },
): number {
  const narrower = Math.floor((width - 1) / align) * align;
  return width > 0 && narrower >= least ? narrower : -1;
}

/** Number of layers that are not fully cut. A model sliced in memory keeps cut layers, without heads and columns. */
export function livingLayers({ layers }: Pick<DecoderSpec, "layers">): number {
  return layers.filter(({ heads, ffn }) => heads + ffn > 0).length;
}

/** Heads or KV groups of all layers; the last one is always kept. */
export function headUnits({ layers }: Pick<DecoderSpec, "layers">, kind: "heads" | "kv"): number {
  return layers.reduce((sum, { heads, kvHeads }) => sum + (kind === "kv" ? kvHeads : heads), 0);
}

/** Minimum number of columns of an FFN: at least one if the model has only one FFN. */
export function leastFfn({ layers }: Pick<DecoderSpec, "layers">, minimum: ResolvedRules["minimum"]): number {
  return Math.max(minimum.ffn, layers.filter(({ ffn }) => ffn > 0).length > 1 ? 0 : 1);
}

/** Query heads that are cut at once in a layer: one or, of KV groups, all of a group; with `fit.heads` a multiple. */
export function headStep({ heads, kvHeads }: LayerSpec, kind: "heads" | "kv", { fit }: ResolvedRules): number {
  const share = kvHeads > 0 ? heads / kvHeads : 1;
  if (kind === "heads" && share > 1) return 1;
  let step = share;
  while (step % fit.heads !== 0) step += share;
  return step;
}

/**
 * Refuses rules under which nothing of a kind can be cut although the model has units of it: pruning that kind would
 * have no effect. `units` are the numbers of units by kind.
 */
export function checkAnyUnits(
  spec: DecoderSpec,
  rules: ResolvedRules,
  units: ReadonlyMap<UnitKind, number>,
): void {
  const { layers, hidden } = spec, { protect, minimum, align, fit } = rules;
  const widest = (of: (layer: LayerSpec) => number): number => Math.max(0, ...layers.map(of));
  const heads = widest((layer) => layer.heads), ffn = widest((layer) => layer.ffn);
  const has: Readonly<Record<UnitKind, boolean>> = {
    heads: heads > 0,
    kv: heads > 0,
    ffn: ffn > 0,
    hidden: true,
    layers: heads + ffn > 0,
    vocab: false,
  };
  for (const [kind, count] of units) {
    if (count > 0 || !has[kind]) continue;
    const isLast = kind === "layers"
      ? livingLayers(spec) === 1
      : (kind === "heads" || kind === "kv") && headUnits(spec, kind) === 1;
    const [rule, value] = kind !== "hidden" && layers.every((_, index) => protect.has(index))
      ? ["at least one layer is not protected", `all ${layers.length} layers are`]
      : kind === "hidden"
      ? [
        "the hidden size is above its least width and the alignment",
        `hidden size ${hidden}, at least ${minimum.hidden}, aligned to ${fit.hidden}`,
      ]
      : kind === "layers"
      ? [
        "fewer layers stay at least than may be cut",
        `${livingLayers(spec)} layers, ${protect.size} protected, at least ${Math.max(1, minimum.layers)}`,
      ]
      : kind === "ffn"
      ? [
        "some layer that is not protected is wider than what stays at least",
        `widest FFN ${ffn}, at least ${leastFfn(spec, minimum)}, aligned to ${align}`,
      ]
      : isLast
      ? ["one of them stays, of all layers", "the model has no more"]
      : [
        `some layer that is not protected has more heads than stay at least, by one ${
          kind === "kv" ? "KV group" : "head"
        }`,
        `most heads ${heads}, at least ${minimum.heads}`,
      ];
    const fix = `take ${kind} out of the units${isLast ? "" : ", or loosen the rule"}`;
    throw new NothingToCutError(kind, { rule, value, fix });
  }
}

/**
 * The error for cutting hidden dims of a model with LayerNorm. Its mean and variance over all H dims, the cut ones 0,
 * are no multiples of those over the D kept ones: (x − D/H·mean)/√variance has another offset in each row, which no
 * weight of a smaller norm gives.
 */
export function cannotCutHidden(what: string, value: string): CompressoError {
  return new CompressoError("usage", {
    what,
    rule:
      "hidden dims are cut of models with RMSNorm alone: a LayerNorm over the kept dims is not a scaled LayerNorm over all",
    value,
    fix: "take hidden out of the units: heads, kv, ffn and layers can be cut",
  });
}

/** The error for cutting layers whose norms follow the residual stream: a stream that is normalised again is not what it was. */
export function cannotCutLayers(what: string, value: string): CompressoError {
  return new CompressoError("usage", {
    what,
    rule: "whole layers are cut of models whose layers add to the residual stream: norms that follow it would stay",
    value,
    fix: "take layers out of the units: heads, kv and ffn can be cut",
  });
}

/**
 * The error for cutting heads of a model whose norms of q and k span all heads of a layer. The mean square of the kept
 * heads is no multiple of that of all: it has another ratio in each row, which no weight of a smaller norm gives.
 */
export function cannotCutHeads(what: string, value: string): CompressoError {
  return new CompressoError("usage", {
    what,
    rule:
      "heads are cut of models whose norms of q and k are those of each head: a norm over the kept heads is not a " +
      "scaled norm over all",
    value,
    fix: "take heads and kv out of the units: ffn, hidden and layers can be cut",
  });
}

/** The error for a kind of units that cannot be cut at all. */
export class NothingToCutError extends CompressoError {
  /** The kind. */
  readonly kind: UnitKind;

  /** The reason. */
  constructor(kind: UnitKind, parts: Omit<ErrorParts, "what">) {
    super("usage", { what: `cannot prune ${kind}`, ...parts });
    this.kind = kind;
  }
}

function refusal(what: string, rule: string, value: string, fix?: string): CompressoError {
  return new CompressoError("usage", { what, rule, value, ...(fix === undefined ? {} : { fix }) });
}
