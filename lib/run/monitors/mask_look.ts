// Masks at one step as monitors and records see them: how much of each unit, layer and kind is cut.
import { recordOf } from "../../units/kinds/all.ts";
import { keptUnits, unitName, unitParameters, type UnitTable } from "../../units/table.ts";
import { expectedCuts, layerShares } from "../layer_states.ts";
import type { KindState, MaskLook, Rates, TrainerArrays } from "../contract.ts";

/** Summarizes masks. `learned` has the rates of learned masks; null where z is hard. */
export function lookAtMasks(
  table: UnitTable,
  { logAlpha, maskMoments, slots }: Pick<TrainerArrays, "logAlpha" | "maskMoments" | "slots">,
  { learned }: { readonly learned: Pick<Rates, "temperature" | "noise"> | null },
): MaskLook {
  const cuts = cutsOf(table, { logAlpha, slots }, { learned });
  return {
    layers: layerShares(table, cuts),
    kinds: Object.values(table.ranges).flatMap(({ kind, first, end }): readonly KindState[] => {
      const count = end - first;
      if (kind === null || count === 0) return [];
      const { many, count: all } = recordOf(kind);
      let cut = 0, parameters = 0;
      for (let unit = first; unit < end; unit++) {
        cut += cuts[unit] ?? 0;
        parameters += unitParameters(table, unit);
      }
      return [{ name: many, first, count, all: all(table.spec), cut: cut / count, share: parameters / table.total }];
    }),
    closed: Uint8Array.from(cuts, (cut) => cut > 0.5 ? 1 : 0),
    broken: brokenUnit(table, { logAlpha, maskMoments }),
  };
}

/** Share of each unit that is cut: expected for learned masks, otherwise 0 or 1. */
export function cutsOf(
  table: UnitTable,
  { logAlpha, slots }: Pick<TrainerArrays, "logAlpha" | "slots">,
  { learned }: { readonly learned: Pick<Rates, "temperature" | "noise"> | null },
): Float64Array {
  return learned ? expectedCuts(logAlpha, learned) : Float64Array.from(keptUnits(table, slots), (kept) => 1 - kept);
}

/**
 * Names a unit whose log α, Adam moments (m, v) or saliency is not finite. A GPU's clamp may hide such a value from all
 * later numbers.
 */
export function brokenUnit(
  table: UnitTable,
  { logAlpha, maskMoments }: { readonly logAlpha: Float32Array; readonly maskMoments?: Float32Array },
): string | null {
  const isBroken = (value: number): boolean => !Number.isFinite(value);
  const unit = logAlpha.findIndex(isBroken), moment = maskMoments?.findIndex(isBroken) ?? -1;
  if (unit >= 0) return `log α of ${unitName(table, unit)}, which is ${logAlpha[unit]}`;
  if (moment < 0) return null;
  // Order of the learner's moments: (m, v) of each unit, then the running saliency, its prior, and two numbers for all.
  const { count } = table, rest = moment - 2 * count;
  if (rest < 0) return `Adam's moments of log α of ${unitName(table, moment >> 1)}`;
  if (rest >= 2 * count) return "the drift or memory of the running saliency";
  return `the ${rest < count ? "running saliency" : "prior"} of ${unitName(table, rest % count)}`;
}
