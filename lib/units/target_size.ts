// Size targets (parameters of the whole model or bytes of its file): searches the sparsity that meets them.
import { option, refuse } from "../core/errors.ts";
import {
  CONV_PARTS,
  convShape,
  curveParameters,
  type DecoderSpec,
  hasBias,
  hasProjection,
  headNormParameters,
  layerNorms,
  linearPerDim,
  normVectors,
  outerParameters,
  PROJECTIONS,
  projectionShape,
} from "../spec/decoder.ts";
import { type Block, byScore, sorted, unitBlocks } from "./blocks.ts";
import { hardSparsity, leastSize, selectUnits, type SizeTarget, tryChoose } from "./selection.ts";
import type { Measure } from "./cut_state.ts";
import { allRows, uniformCounts, uniformSelection } from "./uniform.ts";
import { partsOf, type Selection, unitParameters, type UnitTable } from "./table.ts";

/** Counts parameters like `parameterCount`: embedding, norms and head included, a tied head once. */
export function parameterMeasure(spec: DecoderSpec): Measure {
  return {
    layer(layer, hidden): number {
      const norms = layerNorms(spec, layer).length * normVectors(spec) * hidden;
      let total = norms + headNormParameters(spec, layer) + curveParameters(spec, layer);
      for (const projection of PROJECTIONS) {
        if (!hasProjection(spec, projection)) continue;
        const [rows, cols] = projectionShape({ ...spec, hidden }, layer, projection);
        total += rows * cols + (hasBias(spec, projection) && cols > 0 ? rows : 0);
      }
      for (const part of layer.conv ? CONV_PARTS : []) {
        const [rows, cols] = convShape({ ...spec, hidden }, part);
        total += rows * cols;
      }
      return total;
    },
    rest: (hidden) => outerParameters(spec, hidden),
  };
}

/** A target for the number of parameters of the whole model. */
export function parameterTarget(spec: DecoderSpec, most: number): SizeTarget {
  return { measure: parameterMeasure(spec), most, unit: "parameters" };
}

/**
 * Size of embedding, final norm and head per hidden dim, relative to the size of a layer weight in this measure. As
 * `rest` of the rules it makes sparsity a share of the whole measure. A run that cuts hidden dims then meets the target
 * size, however many of them it cuts.
 */
export function restPerDim(spec: DecoderSpec, { measure }: SizeTarget): number {
  const { layers, hidden } = spec;
  const perDim = layers.reduce((sum, layer) => sum + linearPerDim(spec, layer), 0);
  const inLayers = layers.reduce((sum, layer) => sum + measure.layer(layer, hidden), 0);
  return inLayers > 0 ? measure.rest(hidden) / inLayers * perDim : 0;
}

/** Options of {@link targetSparsity}. */
export interface TargetSparsityOptions {
  /** Scores of the units. Without them, every kind gives the same share of its width in every layer. */
  readonly scores?: ArrayLike<number>;
  /** Whether all layers are cut to equal counts. */
  readonly isUniform?: boolean;
}

/**
 * The sparsity of the selection that just meets a size, found by making that selection. Cutting hidden dims also
 * reduces embedding and head. If they are among the units, the sparsity therefore depends on how many are cut; the last
 * step of a run selects by the size itself (`SelectOptions.size`). Tied matrices stay tied, as hard hidden masks are 0
 * and 1.
 *
 * @throws CompressoError("usage") for a size that the model already meets, and for one below the smallest that the
 * units and rules allow.
 */
export function targetSparsity(
  table: UnitTable,
  size: SizeTarget,
  { scores, isUniform = false }: TargetSparsityOptions = {},
): number {
  const { measure, most, unit } = size, { layers, hidden } = table.spec;
  const whole = layers.reduce((sum, layer) => sum + measure.layer(layer, hidden), measure.rest(hidden));
  if (!(most > 0 && most < whole)) {
    const least = leastSize(table, size, { blocks: isUniform ? allRows(table) : undefined });
    const shown = (value: number): string => Math.ceil(value).toLocaleString("en");
    refuse("usage", `cannot prune to this number of ${unit}`, {
      rule: `it is below the model's own ${shown(whole)}, and at least ${shown(least)}, which cutting ${
        [...table.kinds].join(", ")
      } leaves`,
      value: Number.isFinite(most) ? most.toLocaleString("en") : String(most),
      fix: `give a number in that range, or add kinds to ${option("units")}`,
    });
  }
  if (isUniform) {
    const counts = uniformCounts(table, { size, scores });
    return hardSparsity(table, uniformSelection(table, scores ?? new Uint8Array(table.count), counts));
  }
  return hardSparsity(table, scores ? selectUnits(table, scores, { size }) : evenSelection(table, size));
}

/**
 * A selection that takes the same share of every kind in every layer. Heads of a KV group are cut together if possible:
 * slicing pads groups of different lengths, and a sparsity that depends on that padding would be far too high for other
 * selections.
 */
function evenSelection(table: UnitTable, size: SizeTarget): Selection {
  const scores = evenScores(table), { groups, groupOf, layer } = table;
  if (groups.length > 0) {
    const together = groups.map(({ first, count }): Block => {
      const units = Array.from({ length: count }, (_, head) => first + head);
      const parameters = units.reduce((sum, unit) => sum + unitParameters(table, unit), 0);
      return { units, score: scores[first] ?? 0, queue: null, layer: layer[first] ?? 0, size: parameters };
    });
    const others = unitBlocks(table, scores).filter(({ units: [unit = 0] }) => (groupOf[unit] ?? -1) < 0);
    const kept = tryChoose(table, sorted([...together, ...others]), { size });
    if (kept) return kept;
  }
  return selectUnits(table, scores, { size });
}

/** The position of each unit in its part; for a head, the position of its group. */
function evenScores(table: UnitTable): Float64Array {
  const scores = new Float64Array(table.count);
  const spread = (first: number, width: number): void =>
    byScore(first, width, []).forEach((unit, place) => scores[unit] = (place + 0.5) / width);
  for (const { first, count } of partsOf(table)) spread(first, count);
  for (const { attention: { firstGroup, groupCount } } of table.layers) {
    table.groups.slice(firstGroup, firstGroup + groupCount).forEach(({ first, count }, place) =>
      scores.fill((place + 0.5) / groupCount, first, first + count)
    );
  }
  return scores;
}
