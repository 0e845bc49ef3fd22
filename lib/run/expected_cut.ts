// What a run will cut, as far as it is known before its first step.
import { parameterCount, withCounts } from "../spec/decoder.ts";
import { keepsLayers } from "../units/kinds/all.ts";
import { tableOf, type UniformCounts, uniformCounts, uniformGoals } from "../units/uniform.ts";
import type { UnitTable } from "../units/table.ts";
import { kindOfMethod } from "./methods/all.ts";
import { largestUnit } from "./monitors/constraint.ts";
import type { ResolvedOptions } from "./options/options.ts";
import type { SizeGoal } from "./size_goal.ts";

/** What a run will cut. */
export interface ExpectedCut {
  /** The sparsity that was asked for. */
  readonly asked: number;
  /** Bounds of the sparsity that the hard masks will have; equal where it is known. */
  readonly sparsity: { readonly least: number; readonly most: number };
  /** Widths of all layers and parameters of the pruned model; null where units are still to be chosen. */
  readonly uniform: { readonly counts: UniformCounts; readonly parameters: number } | null;
  /** A smaller multiple of widths that would come nearer to the sparsity, and the sparsity that it gives. */
  readonly nearer: { readonly align: number; readonly sparsity: number } | null;
}

/** Multiple of widths that keeps blocks of 32 values whole. */
const USUAL = 32;
/** A sparsity so far above the asked one is worth a word. */
const MUCH = 0.005;

/**
 * What a run to a sparsity will cut; null for a run to a size or a run that keeps its layers. If all layers are cut
 * alike, and one kind of units or learned masks decide, the widths are known.
 */
export function expectedCut(
  options: ResolvedOptions,
  { table, goal }: { readonly table: UnitTable; readonly goal: SizeGoal | null },
): ExpectedCut | null {
  const { sparsity: asked, layout, rules, method } = options, { spec } = table;
  if (goal || keepsLayers(options.units)) return null;
  const unit = largestUnit(table, layout), isKnown = table.kinds.size === 1 || kindOfMethod(method) === "learned";
  if (layout !== "uniform" || !isKnown) {
    return { asked, sparsity: { least: asked, most: asked + unit }, uniform: null, nearer: null };
  }
  const counts = uniformCounts(table, { target: asked }), { sparsity } = uniformGoals(table, { counts });
  const layers = spec.layers.map((layer) => withCounts(layer, counts));
  const { align = 1 } = rules, isMuch = sparsity > asked + MUCH && align > USUAL;
  const finer = isMuch ? tableOf(spec, { ...options, rules: { ...rules, align: USUAL } }) : null;
  const reached = finer ? uniformGoals(finer, { target: asked }).sparsity : sparsity;
  return {
    asked,
    sparsity: { least: sparsity, most: sparsity },
    uniform: { counts, parameters: parameterCount({ ...spec, hidden: counts.hidden, layers }) },
    nearer: reached < sparsity ? { align: USUAL, sparsity: reached } : null,
  };
}
