// Makes models, masks and LoRA from fixed seeds for the tests of slicing.
import assert from "node:assert/strict";
import type { Device } from "../../lib/gpu/device.ts";
import { openHfFolder } from "../disk.ts";
import { rowWindow } from "../../lib/spec/row_range.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { type MaskKind, maskSizes, type MaskValues } from "../../lib/nn/mask_slots.ts";
import { type DecoderSpec, PROJECTIONS, projectionShape, tensorShapes } from "../../lib/spec/decoder.ts";
import { normal, uniform } from "../../lib/core/random.ts";
import { type Adapters, loadModelFrom } from "../../lib/model/model.ts";
import { type Distance, distance, type GoldenName, openGolden } from "../golden/helpers/golden.ts";

/**
 * The random models: grouped, one KV head, all KV heads; tied and untied; every kind of RoPE; without biases, with all, with those of Qwen2, and with norms of heads;
 * with windows; with fused matrices, RoPE of a part of each head and LongRoPE.
 */
export const NAMES: readonly GoldenName[] = [
  "gqa_llama3",
  "mha_linear",
  "mqa_bf16_sharded",
  "gqa_f16",
  "gqa_bias",
  "qwen2",
  "qwen3",
  "gemma",
  "gemma2",
  "gemma3",
  "ministral_window",
  "phi3",
  "smollm3",
  "granite",
];

/**
 * Largest difference of two computations of the same logits, relative to the largest logit. The sums are the same numbers in another order, or
 * over fewer zeros: f32 differs by about 1e-6; a unit that is wrong by 1 % shows far above.
 */
export const LOGIT_TOLERANCE = 1e-5;

/** Opens a golden model, with another ε of its norms where given. */
export async function openSource(
  name: GoldenName,
  { normEps }: { readonly normEps?: number } = {},
): Promise<WeightSource> {
  const source = await openHfFolder((await openGolden(name)).modelPath);
  return { ...source, spec: { ...source.spec, ...(normEps ? { normEps } : {}) } };
}

/** A model of any shape with random weights. */
export function randomSource(spec: DecoderSpec): WeightSource {
  const shapes = tensorShapes(spec), names = [...shapes.keys()];
  return {
    spec,
    storedDtype: () => "f32",
    read(name, rows): Promise<Float32Array<ArrayBuffer>> {
      const { start, count, width } = rowWindow(name, shapes.get(name) ?? [], { rows });
      const stream = names.indexOf(name);
      const value = (i: number): number => normal(1, stream, start * width + i) / Math.sqrt(spec.hidden);
      return Promise.resolve(Float32Array.from({ length: count * width }, (_, i) => value(i)));
    },
  };
}

/** Masks of some kinds; each unit is cut with chance 0.3, kept ones are 1 or, soft, anything from 0.2 to 1. */
export function randomMasks(
  spec: DecoderSpec,
  { seed, kinds, soft = false }: {
    readonly seed: number;
    readonly kinds: readonly MaskKind[];
    readonly soft?: boolean;
  },
): MaskValues {
  const sizes = maskSizes(spec);
  return Object.fromEntries(kinds.map((kind, stream) => {
    const value = (i: number): number =>
      uniform(seed, stream, i, 0) < 0.3 ? 0 : soft ? 0.2 + 0.8 * uniform(seed, stream, i, 1) : 1;
    return [kind, Float32Array.from({ length: sizes[kind] }, (_, i) => value(i))];
  }));
}

/** LoRA on every projection, as large as the weights' own noise. */
export function randomLora(
  spec: DecoderSpec,
  { seed, rank = 3 }: { readonly seed: number; readonly rank?: number },
): NonNullable<Adapters["lora"]> {
  const weights = new Map<string, Float32Array>();
  let stream = 0;
  spec.layers.forEach((layer, index) => {
    for (const projection of PROJECTIONS) {
      const [rows, cols] = projectionShape(spec, layer, projection);
      if (rows === 0 || cols === 0) continue;
      const random = (count: number): Float32Array => {
        stream++;
        return Float32Array.from({ length: count }, (_, i) => 0.2 * normal(seed, stream, i));
      };
      weights.set(`lora.${index}.${projection}.A`, random(rank * cols));
      weights.set(`lora.${index}.${projection}.B`, random(rows * rank));
    }
  });
  return { rank, alpha: 5, targets: PROJECTIONS, weights };
}

/** Some token ids of a model. */
export function someTokens(spec: DecoderSpec, count = 17): number[] {
  return Array.from({ length: count }, (_, i) => Math.floor(uniform(5, 9, i) * spec.vocab));
}

/** Logits of a source loaded with an f32 base. */
export async function logitsOf(device: Device, source: WeightSource, adapters: Adapters = {}): Promise<Float32Array> {
  using model = await loadModelFrom(source, { device, baseDtype: "f32" });
  return await model.logits(someTokens(model.spec), adapters);
}

/** How far the logits of `actual` are from those of `expected` with adapters. */
export async function logitDistance(
  device: Device,
  name: string,
  { expected, adapters, actual }: {
    readonly expected: WeightSource;
    readonly adapters?: Adapters;
    readonly actual: WeightSource;
  },
): Promise<Distance> {
  const wanted = await logitsOf(device, expected, adapters);
  assert.ok(Math.max(...wanted) > 0.01, "the logits are not all alike");
  return distance(name, await logitsOf(device, actual), wanted);
}

/** The source with one tensor changed. */
export function tampered(source: WeightSource, tensor: string, change: (values: Float32Array) => void): WeightSource {
  return {
    ...source,
    async read(name, rows): Promise<Float32Array<ArrayBuffer>> {
      const values = await source.read(name, rows);
      if (name === tensor) change(values);
      return values;
    },
    readStored: () => Promise.resolve(null),
    readBlocks: () => Promise.resolve(null),
  };
}
