// What a kind of units is: a record. The list is in all.ts.
import { type CompressoError, refusal } from "../../core/errors.ts";
import type { MaskKind } from "../../nn/mask_slots.ts";
import type { DecoderSpec, LayerSpec } from "../../spec/decoder.ts";
import type { ResolvedRules } from "../rules.ts";

/**
 * Where units lie in a table, in this order: units within the attention of each layer, units within the FFN of each
 * layer, hidden dims, and the gates of whole layers. Kernels know the same order, see kernels/shared/expected_size.wgsl.
 */
export const PLACES = ["attention", "ffn", "hidden", "layers"] as const;
/** A place of units. */
export type Place = typeof PLACES[number];

/** The limits that a run may set, in words. */
export const LIMITS = {
  heads: "a least number of heads",
  ffn: "a least FFN width",
  hidden: "a least hidden size",
  layers: "a least number of layers",
  align: "aligned widths",
  protect: "protected layers",
} as const;
/** A limit on what is cut. */
export type Limit = keyof typeof LIMITS;

/** A kind of units. */
export interface KindRecord {
  /** Its name in the option `units`. */
  readonly name: string;
  /**
   * Its units in the table; null if they are cut before a run, without masks. A table has at most one kind per place.
   */
  readonly place: Place | null;
  /** What it is, for help; null if the name says it. */
  readonly help: string | null;
  /** Several of its units, in messages. */
  readonly many: string;
  /** One of its units: the `index`-th of a layer, or of the model if they belong to no layer. */
  readonly nameOf: (index: number, layer: number) => string;
  /** Number of its units in a model, whether or not they may be cut. */
  readonly count: (spec: Pick<DecoderSpec, "layers" | "hidden">) => number;
  /** Limits that count for it. */
  readonly limits: readonly Limit[];
  /** Masks whose gradients it needs. */
  readonly masks: readonly MaskKind[];
  /** Whether a layer has at most one unit, so that units of all layers are compared with each other. */
  readonly isOnePerLayer?: true;
  /** Query heads of one unit, for kinds in attention. */
  readonly headsOf?: (layer: LayerSpec) => number;
  /** The broken rule and its value, if rules leave nothing to cut of a model that has such units. */
  readonly nothing: (spec: DecoderSpec, rules: ResolvedRules) => Pick<Uncut, "rule" | "value">;
  /** Models that it cannot be cut of. */
  readonly misfit?: Misfit;
}

/** Why nothing of a kind is cut. */
export interface Uncut {
  readonly rule: string;
  readonly value: string;
  readonly fix: string;
}

/** Models in which cutting a kind would make the sliced model differ from the masked model. */
export interface Misfit extends Uncut {
  /** Whether it applies to a model. */
  readonly isFor: (spec: DecoderSpec) => boolean;
}

/** The error for a kind that cannot be cut of a model; `value` tells what was asked for. */
export function cannotCut(
  { rule, fix, value: own }: Misfit,
  what: string,
  value: string = own,
): CompressoError {
  return refusal("usage", what, { rule, value, fix });
}

/** The broken rule and its value for attention kinds, if nothing may be cut. */
export function noHeadsToCut(unit: string): KindRecord["nothing"] {
  return ({ layers }, { minimum }) => ({
    rule: `an unprotected layer has at least one ${unit} more than its minimum`,
    value: `most heads ${Math.max(0, ...layers.map(({ heads }) => heads))}, at least ${minimum.heads}`,
  });
}

/**
 * Heads of a model whose norms of q and k span all heads of a layer. The mean square of the kept heads is no multiple of
 * that of all: it has another ratio in each row, which no weight of a smaller norm gives.
 */
export const NORMS_OVER_HEADS: Misfit = {
  isFor: ({ qkNorm, localHeadDim }) => qkNorm === "whole" || localHeadDim !== undefined,
  rule:
    "norms of q and k are those of each head, as a norm over the kept heads is not a scaled norm over all, and heads have one width",
  value: "this model has norms over the whole width of q and k, or heads of two widths",
  fix: "take heads and kv out of the units: ffn and hidden can be cut",
};
