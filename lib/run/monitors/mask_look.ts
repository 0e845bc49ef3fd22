// Masks at one moment as monitors and records see them: how much of each unit, layer and kind is cut. Owns these shares; refuses judgement.
import type { LayerState } from "../../prune/schedule_script.ts";
import { keptUnits, type UnitTable } from "../../prune/units.ts";
import type { Rates } from "../options.ts";
import { expectedCuts, layerShares } from "../steering.ts";
import type { TrainerArrays } from "../trainer.ts";

/** Units of one kind over all layers. */
export interface KindState {
  /** Name for messages. */
  readonly name: string;
  readonly count: number;
  /** Share that is cut. */
  readonly cut: number;
}

/** The masks at one step. */
export interface MaskLook {
  readonly layers: readonly LayerState[];
  /** Kinds that are pruned. */
  readonly kinds: readonly KindState[];
  /** 1 for every unit that is more cut than not. */
  readonly closed: Uint8Array;
}

/** Looks at the masks; `learned` has the rates at which they are learned, null where z is hard. */
export function lookAtMasks(
  table: UnitTable,
  { logAlpha, slots }: Pick<TrainerArrays, "logAlpha" | "slots">,
  { learned }: { readonly learned: Pick<Rates, "temperature" | "noise"> | null },
): MaskLook {
  const cuts = learned
    ? expectedCuts(logAlpha, learned)
    : Float64Array.from(keptUnits(table, slots), (kept) => 1 - kept);
  const heads = table.kinds.has("kv") ? "KV groups" : "heads";
  const ranges = [
    [heads, 0, table.ffnFirst],
    ["FFN columns", table.ffnFirst, table.hiddenFirst],
    ["hidden dims", table.hiddenFirst, table.layerFirst],
    ["layers", table.layerFirst, table.count],
  ] as const;
  return {
    layers: layerShares(table, cuts),
    kinds: ranges.filter(([, first, end]) => end > first).map(([name, first, end]) => ({
      name,
      count: end - first,
      cut: cuts.subarray(first, end).reduce((sum, cut) => sum + cut, 0) / (end - first),
    })),
    closed: Uint8Array.from(cuts, (cut) => cut > 0.5 ? 1 : 0),
  };
}
