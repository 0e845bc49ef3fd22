// What the scores of one-shot methods are computed from: numbers for each unit, by several measures.
import { refuse } from "../core/errors.ts";
import type { UnitKind } from "../units/kinds/all.ts";
import { kindOf, unitParameters, type UnitTable } from "../units/table.ts";

/** What can be measured of every unit; see the field of each in {@link UnitSaliency}. */
export const UNIT_MEASURES = ["weights", "firstOrder", "fisher", "activations", "fluctuations", "influence"] as const;
/** Name of a measure of units. */
export type UnitMeasure = typeof UNIT_MEASURES[number];

/** What was measured of the units of a model. All arrays have one element per unit, in one order. */
export interface UnitSaliency {
  /** Kind of each unit. */
  readonly kinds: readonly UnitKind[];
  /** Layer of each unit, from 0; −1 for hidden dims, which belong to no layer. */
  readonly layers: Int32Array<ArrayBuffer>;
  /** Parameters that are saved by cutting the unit alone. */
  readonly parameters: Float64Array<ArrayBuffer>;
  /** The run's seed. */
  readonly seed: number;
  /** Mean square of the weights that the unit cuts, as `magnitude` scores units. */
  readonly weights: Float64Array<ArrayBuffer>;
  /** Mean of |w·∂L/∂w| over the weights w that the unit cuts, as `taylor` scores units. */
  readonly firstOrder: Float64Array<ArrayBuffer>;
  /** Mean of (∂L/∂z)² of the unit's mask z over blocks of rows, from which learned masks start. */
  readonly fisher: Float64Array<ArrayBuffer>;
  /** Sum of ‖x_j‖₂ · mean_i |W_ij| over the unit's input channels j of o_proj or down_proj, as `wanda-sp` scores units. */
  readonly activations: Float64Array<ArrayBuffer>;
  /**
   * Mean of 1 − cos(x, y) over tokens, with the residual stream x before the unit and y after it, as `block-influence`
   * scores units; NaN for units other than whole layers and attention sub-layers.
   */
  readonly influence: Float64Array<ArrayBuffer>;
  /** Variance of the unit's input channels times their squared weights, standardized, as `flap` scores units. */
  readonly fluctuations: Float64Array<ArrayBuffer>;
}

/** The saliency of units from what was measured. A measure that is missing throws when it is read. */
export function unitSaliency(
  table: UnitTable,
  measured: ReadonlyMap<UnitMeasure, Float64Array<ArrayBuffer>>,
  { seed }: { readonly seed: number },
): UnitSaliency {
  const units = Array.from({ length: table.count }, (_, unit) => unit);
  const of = (measure: UnitMeasure): Float64Array<ArrayBuffer> => {
    const values = measured.get(measure);
    if (values) return values;
    refuse("usage", `cannot read ${measure} of the units`, {
      rule: "a score reads only what its method lists in `from`",
      value: [...measured.keys()].join(", ") || "nothing",
      option: "method",
    });
  };
  return {
    seed,
    get kinds(): readonly UnitKind[] {
      return units.map((unit) => kindOf(table, unit));
    },
    get layers(): Int32Array<ArrayBuffer> {
      return Int32Array.from(units, (unit) => kindOf(table, unit) === "hidden" ? -1 : table.layer[unit] ?? 0);
    },
    get parameters(): Float64Array<ArrayBuffer> {
      return Float64Array.from(units, (unit) => unitParameters(table, unit));
    },
    get weights(): Float64Array<ArrayBuffer> {
      return of("weights");
    },
    get firstOrder(): Float64Array<ArrayBuffer> {
      return of("firstOrder");
    },
    get fisher(): Float64Array<ArrayBuffer> {
      return of("fisher");
    },
    get activations(): Float64Array<ArrayBuffer> {
      return of("activations");
    },
    get fluctuations(): Float64Array<ArrayBuffer> {
      return of("fluctuations");
    },
    get influence(): Float64Array<ArrayBuffer> {
      return of("influence");
    },
  };
}
