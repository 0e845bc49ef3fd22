// Which kinds of units a model can lose under a layout.
import { option, refuse } from "../core/errors.ts";
import { fixedHeads } from "../families/all.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import { checkKinds, recordOf, type UnitKind } from "./kinds/all.ts";
import type { Uncut } from "./kinds/kind.ts";
import type { Layout } from "./layout.ts";

/** Why a kind cannot be cut of a model under a layout; null if it can. */
export function whyWhole(
  kind: UnitKind,
  spec: DecoderSpec,
  layout: Layout,
): Pick<Uncut, "rule" | "value"> | null {
  const { misfit, place, many, isOnePerLayer } = recordOf(kind), heads = fixedHeads(spec);
  if (misfit?.isFor(spec)) return misfit;
  if (layout !== "uniform") return null;
  if (isOnePerLayer) return { rule: `all layers are cut alike, so whole ${many} stay`, value: kind };
  if (place !== "attention") return null;
  if (heads !== null) {
    return { rule: `layers keep hidden / head_dim = ${heads} heads, as the classes of its family do`, value: kind };
  }
  const isSingle = spec.layers.every(({ heads, kvHeads }) => (kind === "kv" || kvHeads > 1 ? kvHeads : heads) <= 1);
  return isSingle
    ? { rule: `a layer has at least two ${many}, as one always stays`, value: "each layer has one" }
    : null;
}

/** The kinds of a list that can be cut. */
export function fittingKinds(
  kinds: readonly UnitKind[],
  spec: DecoderSpec,
  layout: Layout,
): readonly UnitKind[] {
  return kinds.filter((kind) => whyWhole(kind, spec, layout) === null);
}

/** Refuses kinds that cannot be cut. Throws `CompressoError("usage")`, which names the units to take instead. */
export function checkFitting(given: readonly UnitKind[], spec: DecoderSpec, layout: Layout): void {
  const kinds = [...checkKinds(given)];
  const stuck = kinds.find((kind) => whyWhole(kind, spec, layout) !== null);
  if (stuck === undefined) return;
  const left = fittingKinds(kinds, spec, layout), others = left.length > 0 ? left : ["ffn"];
  const isOfLayout = whyWhole(stuck, spec, "compact") === null, take = `take ${option("units", others.join(","))}`;
  refuse("usage", `cannot prune ${stuck}${isOfLayout ? ` with the layout ${layout}` : ""}`, {
    ...whyWhole(stuck, spec, layout) ?? { rule: "", value: "" },
    fix: isOfLayout ? `${take}, or ${option("layout", "compact")}` : take,
    option: "units",
  });
}
