// FLAP's bias compensation: the mean output of cut channels is kept as a bias of o_proj and down_proj.
import { refuse } from "../core/errors.ts";
import type { RowRange, WeightSource } from "../spec/source.ts";
import { elementCount, rowWindow } from "../spec/row_range.ts";
import { type MaskValues, packMasks, slotLayout } from "../nn/mask_slots.ts";
import {
  biasName,
  type DecoderSpec,
  hasBias,
  headDimOf,
  projectionName,
  tensorShapes,
  withBiases,
} from "../spec/decoder.ts";
import type { ActivationStats } from "./baselines_activations.ts";

/** A shape with biases of o_proj and down_proj in every layer. */
export function outputBiasSpec(spec: DecoderSpec): DecoderSpec {
  return withBiases(spec, [...spec.biases ?? [], "o", "down"]);
}

/** The model with biases of o_proj and down_proj in every layer: its own, or zeros. */
export function withOutputBiases(source: WeightSource): WeightSource {
  return outputBiases(source, () => Promise.resolve(null));
}

/**
 * The model with a bias that compensates the mean output that masks remove: b += W·((1 − z) ∘ mean) for o_proj and
 * down_proj. With these masks of heads and columns the mean of either output over the calibration data is that of the
 * unmasked model, if their inputs are the same (An et al. 2024, arXiv 2312.11983, section 3.3). Cut hidden dims are not
 * compensated. Slice it with the same masks. Lazy: a weight is read when its bias is first read.
 *
 * @throws CompressoError("input") for masks that do not fit the model.
 * @throws CompressoError("mismatch") for statistics of another model.
 */
export function applyCompensation(
  source: WeightSource,
  { masks, stats }: { readonly masks: MaskValues; readonly stats: ActivationStats },
): WeightSource {
  const { spec } = source, layout = slotLayout(spec), z = packMasks(spec, layout, masks);
  checkStats(source, stats);
  return outputBiases(source, async (layer, projection) => {
    const slots = layout.layers[layer], means = stats.layers[layer]?.[projection]?.mean;
    if (!slots || !means) return null;
    const headDim = headDimOf(spec, spec.layers[layer] ?? {});
    const [slot, width] = projection === "o" ? [slots.head, headDim] : [slots.ffn, 1];
    const lost = Float64Array.from(means, (mean, j) => mean * (1 - (z[slot + Math.floor(j / width)] ?? 1)));
    if (lost.every((value) => value === 0)) return null;
    const weight = await source.read(projectionName(layer, projection)), bias = new Float64Array(spec.hidden);
    for (let at = 0; at < weight.length; at++) {
      const row = Math.floor(at / lost.length);
      bias[row] = (bias[row] ?? 0) + (weight[at] ?? 0) * (lost[at % lost.length] ?? 0);
    }
    return bias;
  });
}

/** Adds `added` to the biases of o and down; null counts as zeros. */
function outputBiases(
  base: WeightSource,
  added: (layer: number, projection: "o" | "down") => Promise<Float64Array | null>,
): WeightSource {
  const spec = outputBiasSpec(base.spec), shapes = tensorShapes(spec);
  const makers = new Map<string, () => Promise<Float32Array<ArrayBuffer>>>();
  const made = new Map<string, Promise<Float32Array<ArrayBuffer>>>();
  spec.layers.forEach((_, layer) => {
    for (const projection of ["o", "down"] as const) {
      const name = biasName(layer, projection);
      makers.set(name, async () => {
        const own = hasBias(base.spec, projection)
          ? await base.read(name)
          : new Float32Array(elementCount(shapes.get(name) ?? []));
        const more = await added(layer, projection);
        return more ? own.map((value, i) => value + (more[i] ?? 0)) : own;
      });
    }
  });
  const biasOf = (name: string): Promise<Float32Array<ArrayBuffer>> | undefined => {
    const make = shapes.has(name) ? makers.get(name) : undefined, known = made.get(name) ?? make?.();
    if (known) made.set(name, known);
    return known;
  };
  const { readBlocks, readStored } = base;
  return {
    spec,
    ...(base.provenance ? { provenance: base.provenance } : {}),
    async read(name, rows?: RowRange): Promise<Float32Array<ArrayBuffer>> {
      const bias = await biasOf(name);
      if (!bias) return await base.read(name, rows);
      const { start, count } = rowWindow(name, shapes.get(name) ?? [], { rows });
      return bias.slice(start, start + count);
    },
    ...(readBlocks ? { readBlocks: (name, options) => readBlocks.call(base, name, options) } : {}),
    ...(readStored ? { readStored: (name, rows) => readStored.call(base, name, rows) } : {}),
    storedDtype: (name) => makers.has(name) ? "f32" : base.storedDtype(name),
  };
}

function checkStats({ spec }: WeightSource, { layers }: ActivationStats): void {
  const bad = spec.layers.findIndex((layer, index) =>
    (layers[index]?.o?.mean.length ?? 0) !== (layer.conv ? spec.hidden : layer.heads * headDimOf(spec, layer)) ||
    (layers[index]?.down?.mean.length ?? 0) !== layer.ffn
  );
  if (bad < 0 && layers.length === spec.layers.length) return;
  const shown = layers[bad < 0 ? spec.layers.length : bad];
  refuse("mismatch", "cannot compensate for what is cut", {
    rule: "the statistics are those of this model's layers",
    value: `${layers.length} layers for ${spec.layers.length}; layer ${Math.max(0, bad)} has ${
      shown?.o?.mean.length ?? 0
    } channels of heads and ${shown?.down?.mean.length ?? 0} FFN columns`,
  });
}
