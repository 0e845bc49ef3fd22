// Σ|w·∂L/∂w| of all projections, grouped by units and hidden dims.
import { strideOf } from "../../nn/padding.ts";
import { slotSlice } from "../../nn/mask_slots.ts";
import type { DecoderContext, Pass } from "../../nn/context.ts";
import {
  CONV_MATRICES,
  type ConvMatrix,
  type DecoderSpec,
  headDimOf,
  type Projection,
  PROJECTIONS,
} from "../../spec/decoder.ts";
import { recordWeightTerms, weightTermFloats } from "../../nn/train/weight_terms.ts";
import { projectionMatrix, unpadHeads } from "../../nn/weights.ts";
import type { LayerTerms, WeightTerms } from "../../masks/baselines.ts";

/** Accumulates the terms of weights. Dispose it to free its buffers. */
export interface WeightProbe extends Disposable {
  /** For the context of a plan with gradients. */
  readonly observe: NonNullable<DecoderContext["observeWeights"]>;
  /** Results of the last run of that plan, layer by layer. */
  read(): Promise<LayerTerms[]>;
}

/** Position of the sums of a matrix [rows, cols], in f32. */
interface Place {
  readonly rows: number;
  readonly cols: number;
  readonly byRow: number;
  readonly byColumn: number;
}

/** Allocates the sums of every layer of a pass, and a buffer for part of one gradient. */
export function createWeightProbe({ device, weights, act }: Pass): WeightProbe {
  let count = 0, floats = 0;
  const places = weights.layers.map((layer) =>
    new Map([...PROJECTIONS, ...CONV_MATRICES].flatMap((projection): [Projection | ConvMatrix, Place][] => {
      const isOfConv = projection === "in" || projection === "out";
      const matrix = isOfConv ? layer.conv?.[projection] : projectionMatrix(layer, projection);
      if (!matrix) return [];
      const byRow = count, byColumn = byRow + strideOf(matrix.rows);
      count = byColumn + matrix.stride;
      floats = Math.max(floats, weightTermFloats(matrix));
      return [[projection, { rows: matrix.rows, cols: matrix.cols, byRow, byColumn }]];
    }))
  );
  using stack = new DisposableStack();
  const sums = stack.use(device.createBuffer("calibration terms", 4 * count));
  const scratch = stack.use(device.createBuffer("calibration gradient", 4 * floats));
  const owned = stack.move();
  return {
    observe: ({ plan }, { layer, projection, matrix, x, dy }): void => {
      const place = places[layer]?.get(projection);
      if (!place) return;
      plan.section("statistics");
      recordWeightTerms(plan, matrix, {
        x,
        dy,
        scratch,
        rows: slotSlice(sums, place.byRow, place.rows),
        columns: slotSlice(sums, place.byColumn, place.cols),
      }, { tokens: act.rows, pool: act.operands });
    },
    async read(): Promise<LayerTerms[]> {
      const values = await device.readFloats(sums, count);
      return places.map((own, layer) =>
        new Map([...own].map(([projection, place]) => [
          projection,
          termsOf(values, place, { spec: weights.spec, layer, projection }),
        ]))
      );
    },
    [Symbol.dispose]: () => owned.dispose(),
  };
}

function termsOf(values: Float32Array, { rows, cols, byRow, byColumn }: Place, { spec, layer, projection }: {
  readonly spec: DecoderSpec;
  readonly layer: number;
  readonly projection: Projection | ConvMatrix;
}): WeightTerms {
  const own = spec.layers[layer], { heads = 0, kvHeads = 0 } = own ?? {};
  const row = values.subarray(byRow, byRow + rows), column = values.subarray(byColumn, byColumn + cols);
  const withoutPadding = (padded: Float32Array, count: number): Float32Array => {
    const headDim = headDimOf(spec, own ?? {});
    return unpadHeads(headDim, padded, { shape: [1, padded.length], logical: [1, count * headDim] });
  };
  switch (projection) {
    case "q":
      return { units: withoutPadding(row, heads), hidden: column };
    case "k":
    case "v":
      return { units: withoutPadding(row, kvHeads), hidden: column };
    case "o":
      return { units: withoutPadding(column, heads), hidden: row };
    case "gate":
    case "up":
    case "in":
      return { units: row, hidden: column };
    case "down":
    case "out":
      return { units: column, hidden: row };
  }
}
