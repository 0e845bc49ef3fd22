// What kinds of units and rules have to fulfil together.
import { CompressoError, refuse } from "../../core/errors.ts";
import type { DecoderSpec } from "../../spec/decoder.ts";
import type { ResolvedRules, UnitRules } from "../rules.ts";
import { recordOf, UNIT_KINDS, type UnitKind } from "./all.ts";
import { type Limit, LIMITS, type Uncut } from "./kind.ts";

/** The error for a kind of units without any prunable unit. */
export class NothingToCutError extends CompressoError {
  /** The kind. */
  readonly kind: UnitKind;

  /** The reason. */
  constructor(kind: UnitKind, parts: Uncut) {
    super("usage", { what: `cannot prune ${kind}`, ...parts });
    this.kind = kind;
  }
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
  const isGiven = { heads: heads > 0, ffn: ffn > 0, hidden: hidden > 0, layers: layers > 0, align: align > 1 };
  const given: Readonly<Record<Limit, boolean>> = { ...isGiven, protect: protect.length > 0 };
  for (const kind of UNIT_KINDS.flatMap((name) => recordOf(name).limits)) {
    const takers = UNIT_KINDS.filter((name) => recordOf(name).limits.includes(kind));
    if (!given[kind] || takers.some((name) => kinds.includes(name))) continue;
    refuse("usage", `cannot keep to ${LIMITS[kind]}`, {
      rule: `this limit needs one of the units ${takers.join(", ")}`,
      value: kinds.join(","),
      fix: `add ${
        takers[0]
      } to the units, or leave the limit out; in an experiment give it to a grid of the units that take it`,
      option: kind === "align" || kind === "protect" ? `rules.${kind}` : `rules.minimum.${kind}`,
    });
  }
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
  const isProtected = spec.layers.every((_, index) => rules.protect.has(index));
  for (const [kind, count] of units) {
    const { place, nothing, count: all } = recordOf(kind), present = all(spec);
    if (count > 0 || present === 0) continue;
    const isLast = present === 1 && place !== "ffn" && place !== "hidden", fix = `take ${kind} out of the units`;
    const { rule, value } = place !== "hidden" && isProtected
      ? { rule: "at least one layer is not protected", value: `all ${spec.layers.length} layers are` }
      : isLast && place === "attention"
      ? { rule: "one of them is kept over all layers", value: "the model has only one" }
      : nothing(spec, rules);
    throw new NothingToCutError(kind, { rule, value, fix: isLast ? fix : `${fix}, or loosen the rule` });
  }
}
