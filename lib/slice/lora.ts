// Converts the LoRA of a pruned model to the sliced model: rows of B and columns of A are selected like those of their
// weight.
import { refuse } from "../core/errors.ts";
import { type LoraConfig, loraModules, type LoraWeights, refuseOthers } from "../spec/lora.ts";
import type { MaskValues } from "../nn/mask_slots.ts";
import { type DecoderSpec, layerOf, projectionName, projectionShape } from "../spec/decoder.ts";
import { paddedPlan, shallowPlan } from "./layouts.ts";
import { planSlice, type SlicePlan } from "./slice.ts";

/** LoRA with matrices A [rank, in] and B [out, rank], named `lora.<layer>.<projection>.<A|B>`. */
export interface SlicedLora extends LoraConfig {
  /** Matrices by name. */
  readonly weights: LoraWeights;
}

/**
 * LoRA for the model that `sliceModel` makes of a base with these masks and without LoRA. Together they compute the
 * same as the sliced model with LoRA merged. Slicing selects and scales rows and columns, W' = R·W·C, and
 * R·(W + s·B·A)·C = W' + s·(R·B)·(A·C). A factor of the rows or columns of a weight therefore also applies to B or A.
 * Repeated KV heads repeat rows of B, and heads of zeros have rows of zeros.
 *
 * Layers keep their numbers. `shallowLora` renumbers them for exported files, which omit fully cut layers.
 *
 * @throws CompressoError("input") for a matrix that is missing, has another size or belongs to no target, and for masks
 * that do not fit.
 * @throws CompressoError("usage") if `lora` is missing.
 */
export function sliceLora(
  spec: DecoderSpec,
  input: {
    readonly masks: MaskValues;
    readonly lora: LoraConfig & { readonly weights: ReadonlyMap<string, Float32Array> };
  },
): SlicedLora {
  const { masks, lora } = input;
  if (!lora) {
    refuse("usage", "cannot slice LoRA", {
      rule: "`lora` has its rank, alpha, targets and weights",
      value: "none was given",
    });
  }
  return remapped(spec, planSlice(spec, masks), lora);
}

/** LoRA for the model that `shallow` makes of a model of this shape. Throws like {@link sliceLora}. */
export function shallowLora(spec: DecoderSpec, lora: SlicedLora): SlicedLora {
  const plan = shallowPlan(spec);
  return plan.spec === spec ? lora : remapped(spec, plan, lora);
}

/** LoRA for the model that `padded` makes of a model of this shape. Throws like {@link sliceLora}. */
export function padLora(spec: DecoderSpec, lora: SlicedLora): SlicedLora {
  return remapped(spec, paddedPlan(spec), lora);
}

function remapped(
  from: DecoderSpec,
  { spec, made }: SlicePlan,
  lora: LoraConfig & { readonly weights: ReadonlyMap<string, Float32Array> },
): SlicedLora {
  const { rank, targets } = lora, weights: LoraWeights = new Map();
  refuseOthers(from, lora);
  for (const { layer, projection, shape: [rows, cols] } of loraModules(spec, targets)) {
    const name = `lora.${layer}.${projection}`, weight = projectionName(layer, projection);
    const a = new Float32Array(rank * cols), b = new Float32Array(rows * rank);
    weights.set(`${name}.A`, a);
    weights.set(`${name}.B`, b);
    const remap = made.get(weight) ?? { from: weight };
    // A part that the base lacks consists of zeros, and stays zero.
    if ("fill" in remap) continue;
    const place = layerOf(remap.from), own = `lora.${place}.${projection}`;
    const [baseRows, baseCols] = projectionShape(from, from.layers[place] ?? ABSENT, projection);
    const ownA = take(lora.weights, `${own}.A`, rank * baseCols),
      ownB = take(lora.weights, `${own}.B`, baseRows * rank);
    for (let col = 0; col < cols; col++) {
      const base = remap.cols ? remap.cols[col] ?? -1 : col, scale = remap.colScale?.[col] ?? 1;
      if (base >= 0) { for (let r = 0; r < rank; r++) a[r * cols + col] = (ownA[r * baseCols + base] ?? 0) * scale; }
    }
    for (let row = 0; row < rows; row++) {
      const base = remap.rows ? remap.rows[row] ?? -1 : row, scale = remap.rowScale?.[row] ?? 1;
      if (base >= 0) { for (let r = 0; r < rank; r++) b[row * rank + r] = (ownB[base * rank + r] ?? 0) * scale; }
    }
  }
  return { ...lora, weights };
}

const ABSENT = { heads: 0, kvHeads: 0, ffn: 0 };

function take(weights: ReadonlyMap<string, Float32Array>, name: string, size: number): Float32Array {
  const data = weights.get(name);
  if (data?.length === size) return data;
  refuse("input", `cannot cut the LoRA matrix '${name}'`, {
    rule: `it has ${size} values`,
    value: data ? `${data.length} values` : "it is missing",
    fix: "give A [rank, in] and B [out, rank] for every target of this model",
  });
}
