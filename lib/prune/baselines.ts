// One-shot baselines: scores of units without training. Owns the magnitude score; refuses selection and learning.
import type { WeightSource } from "../io/source.ts";
import { type DecoderSpec, type Projection, projectionName, PROJECTIONS } from "../nn/spec.ts";
import type { UnitTable } from "./units.ts";

/** Squared weights of one layer, summed by head, KV head, FFN column and hidden dim. */
interface LayerSums {
  readonly heads: Float64Array;
  readonly kvHeads: Float64Array;
  readonly ffn: Float64Array;
}

/**
 * Magnitude of each unit: the mean square of the weights that it cuts. The classic one-shot criterion, as a baseline to compare with.
 * Pass it to `selectUnits`. Reads every weight of the layers once.
 */
export async function magnitudeScores(source: WeightSource, table: UnitTable): Promise<Float64Array<ArrayBuffer>> {
  const { spec } = source;
  const hidden = new Float64Array(spec.hidden);
  const layers: LayerSums[] = [];
  for (const [index, layer] of spec.layers.entries()) {
    const sums: LayerSums = {
      heads: new Float64Array(layer.heads),
      kvHeads: new Float64Array(layer.kvHeads),
      ffn: new Float64Array(layer.ffn),
    };
    layers.push(sums);
    for (const projection of PROJECTIONS) {
      const [units, width] = partsOf(projection, sums, spec);
      if (units.length > 0) {
        addSquares(await source.read(projectionName(index, projection)), { projection, units, width, hidden });
      }
    }
  }
  return scoresOf(table, layers, hidden);
}

/** Which sums a projection's rows (or, of o and down, columns) belong to, and how many of them make a unit. */
function partsOf(projection: Projection, sums: LayerSums, spec: DecoderSpec): readonly [Float64Array, number] {
  if (projection === "q" || projection === "o") return [sums.heads, spec.headDim];
  if (projection === "k" || projection === "v") return [sums.kvHeads, spec.headDim];
  return [sums.ffn, 1];
}

function addSquares(
  data: Float32Array,
  { projection, units, width, hidden }: {
    readonly projection: Projection;
    readonly units: Float64Array;
    readonly width: number;
    readonly hidden: Float64Array;
  },
): void {
  const isOutput = projection === "o" || projection === "down";
  const cols = isOutput ? units.length * width : hidden.length;
  for (let at = 0; at < data.length; at++) {
    const value = data[at] ?? 0, row = Math.floor(at / cols), col = at % cols;
    const unit = Math.floor((isOutput ? col : row) / width), dim = isOutput ? row : col;
    units[unit] = (units[unit] ?? 0) + value * value;
    hidden[dim] = (hidden[dim] ?? 0) + value * value;
  }
}

function scoresOf(table: UnitTable, layers: readonly LayerSums[], hidden: Float64Array): Float64Array<ArrayBuffer> {
  const { spec, layout } = table;
  return Float64Array.from({ length: table.count }, (_, unit) => {
    if (unit >= table.hiddenFirst) {
      const perDim = table.total / spec.hidden;
      return (hidden[unit - table.hiddenFirst] ?? 0) / perDim;
    }
    const index = table.layer[unit] ?? 0,
      sums = layers[index],
      layer = spec.layers[index],
      slots = layout.layers[index];
    if (!sums || !layer || !slots) return 0;
    const slot = table.slotFirst[unit] ?? 0, count = table.slotCount[unit] ?? 0;
    if (unit >= table.ffnFirst) return (sums.ffn[slot - slots.ffn] ?? 0) / (3 * spec.hidden);
    const first = slot - slots.head, share = layer.heads / layer.kvHeads;
    const own = sums.heads.subarray(first, first + count).reduce((sum, value) => sum + value, 0);
    const kv = (sums.kvHeads[Math.floor(first / share)] ?? 0) * count / share;
    return (own + kv) / (2 * spec.headDim * spec.hidden * (count + count / share));
  });
}
