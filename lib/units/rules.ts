// Rules that limit cutting: protected layers, minimum widths, aligned widths.
import { refuse } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import { type DecoderSpec, hasMixer } from "../spec/decoder.ts";

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
   * Separate multiples for the query heads of a layer (default 1) and for the hidden size (default `align`); see
   * `fittingWidths`. They do not apply to single heads that share K and V.
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
    refuse("usage", "cannot protect this layer", {
      rule: `layers go from 0 to ${count - 1}, or from -${count} to -1`,
      value: layer,
      option: "rules.protect",
    });
  }
  const { heads = 0, ffn = 0, hidden = 0, layers = 0 } = minimum;
  for (const [name, width] of Object.entries({ heads, ffn, hidden, layers })) {
    if (Number.isInteger(width) && width >= 0) continue;
    refuse("usage", `cannot keep this many ${name}`, {
      rule: "a least width is a whole number, 0 or more",
      value: width,
      option: `rules.minimum.${name}`,
    });
  }
  // A norm of the residual stream stays where all of attention or FFN is cut, and its place needs one of them.
  const floor = spec.normPlaces === "residual" ? 1 : 0;
  const { heads: fitHeads = 1, hidden: fitHidden = align } = fit;
  for (const multiple of [align, fitHeads, fitHidden]) {
    if (Number.isInteger(multiple) && multiple >= 1) continue;
    refuse("usage", "cannot align widths", {
      rule: "they are multiples of a whole number, at least 1",
      value: multiple,
      option: "rules.align",
    });
  }
  if (!(Number.isFinite(rest) && rest >= 0)) {
    refuse("usage", "cannot count these parameters", {
      rule: "their number per hidden dim is finite and ≥ 0",
      value: rest,
    });
  }
  return {
    protect: new Set(layersOf(protect, count)),
    minimum: { heads: Math.max(heads, floor), ffn: Math.max(ffn, floor), hidden, layers },
    align,
    fit: { heads: fitHeads, hidden: fitHidden },
    rest,
  };
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
  return layers.filter((layer) => hasMixer(layer) || layer.ffn > 0).length;
}

/** Minimum number of columns of an FFN: at least one if the model has only one FFN. */
export function leastFfn({ layers }: Pick<DecoderSpec, "layers">, minimum: ResolvedRules["minimum"]): number {
  return Math.max(minimum.ffn, layers.filter(({ ffn }) => ffn > 0).length > 1 ? 0 : 1);
}
