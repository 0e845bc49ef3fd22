// LoRA (Hu et al. 2021): y = W·x + s·B·A·x.
import { checkLora, type LoraConfig, loraModules, loraScale, type LoraWeights } from "../spec/lora.ts";
import { refuse } from "../core/errors.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import type { Device } from "../gpu/device.ts";
import { normal } from "../core/random.ts";
import { type DecoderSpec, headDimOf, type Projection } from "../spec/decoder.ts";
import { padHeads, storedShape, unpadHeads } from "./weights.ts";

/** Offsets of A [rank, in] and B [out, rank] of one projection in the flat buffers, in f32 elements. */
export interface LoraEntry {
  readonly layer: number;
  readonly projection: Projection;
  readonly aOffset: number;
  readonly bOffset: number;
  /** Stored shape [out, in] of the projection (heads padded). */
  readonly shape: readonly [number, number];
  /** Logical shape [out, in]. */
  readonly logical: readonly [number, number];
}

/** LoRA parameters and gradients of a whole model. The gradients are empty if it is not trained. */
export interface Lora extends Disposable {
  readonly config: LoraConfig;
  readonly scale: number;
  readonly entries: readonly LoraEntry[];
  readonly count: number;
  readonly params: DeviceBuffer;
  readonly grads: DeviceBuffer;
  find(layer: number, projection: Projection): LoraEntry | null;
}

/**
 * Allocates zero LoRA parameters for the projections of the model; `trains` says whether to allocate gradients too.
 */
export function createLora(
  device: Device,
  spec: DecoderSpec,
  { trains, ...config }: LoraConfig & { readonly trains: boolean },
): Lora {
  checkLora(config);
  const entries: LoraEntry[] = [];
  let offset = 0;
  for (const { layer, projection, shape: logical } of loraModules(spec, config.targets)) {
    const counts = spec.layers[layer];
    if (!counts) continue;
    const shape = storedShape(spec, counts, projection);
    const aOffset = offset, bOffset = offset + config.rank * shape[1];
    offset = bOffset + shape[0] * config.rank;
    entries.push({ layer, projection, aOffset, bOffset, shape, logical });
  }
  using stack = new DisposableStack();
  const buffer = (label: string, count: number): DeviceBuffer =>
    stack.use(device.createBuffer(`lora: ${label}`, count * 4));
  const buffers = { params: buffer("params", offset), grads: buffer("grads", trains ? offset : 0) };
  const owned = stack.move();
  const byKey = new Map(entries.map((entry) => [`${entry.layer}.${entry.projection}`, entry]));
  return {
    config,
    scale: loraScale(config),
    entries,
    count: offset,
    ...buffers,
    find: (layer, projection) => byKey.get(`${layer}.${projection}`) ?? null,
    [Symbol.dispose]: () => owned.dispose(),
  };
}

/**
 * Initial parameters: A is normal with standard deviation 1 / sqrt(in), B is zero, so that training starts at the base
 * model.
 */
export function initialLora(lora: Lora, { seed }: { readonly seed: number }): LoraWeights {
  const weights: LoraWeights = new Map();
  const { rank } = lora.config;
  lora.entries.forEach(({ layer, projection, logical }, index) => {
    const a = new Float32Array(rank * logical[1]);
    for (let i = 0; i < a.length; i++) a[i] = normal(seed, 0x10a + index, i) / Math.sqrt(logical[1]);
    weights.set(`lora.${layer}.${projection}.A`, a);
    weights.set(`lora.${layer}.${projection}.B`, new Float32Array(logical[0] * rank));
  });
  return weights;
}

/**
 * Packs named matrices into the flat layout.
 *
 * @throws CompressoError("input") if a matrix is missing or has another size.
 */
export function packLora(
  spec: DecoderSpec,
  lora: Lora,
  weights: ReadonlyMap<string, Float32Array>,
): Float32Array<ArrayBuffer> {
  const flat = new Float32Array(lora.count);
  const { rank } = lora.config;
  for (const { layer, projection, aOffset, bOffset, shape, logical } of lora.entries) {
    const a = take(weights, `lora.${layer}.${projection}.A`, rank * logical[1]);
    const b = take(weights, `lora.${layer}.${projection}.B`, logical[0] * rank);
    const headDim = headDimOf(spec, spec.layers[layer] ?? {});
    flat.set(padHeads(headDim, a, { shape: [rank, shape[1]], logical: [rank, logical[1]] }), aOffset);
    flat.set(padHeads(headDim, b, { shape: [shape[0], rank], logical: [logical[0], rank] }), bOffset);
  }
  return flat;
}

/** Unpacks the flat layout (parameters or gradients) into named matrices. */
export function unpackLora(spec: DecoderSpec, lora: Lora, flat: Float32Array): LoraWeights {
  const weights: LoraWeights = new Map();
  const { rank } = lora.config;
  for (const { layer, projection, aOffset, bOffset, shape, logical } of lora.entries) {
    const a = flat.subarray(aOffset, aOffset + rank * shape[1]);
    const b = flat.subarray(bOffset, bOffset + shape[0] * rank);
    const name = `lora.${layer}.${projection}`, headDim = headDimOf(spec, spec.layers[layer] ?? {});
    weights.set(`${name}.A`, unpadHeads(headDim, a, { shape: [rank, shape[1]], logical: [rank, logical[1]] }));
    weights.set(`${name}.B`, unpadHeads(headDim, b, { shape: [shape[0], rank], logical: [logical[0], rank] }));
  }
  return weights;
}

function take(weights: ReadonlyMap<string, Float32Array>, name: string, size: number): Float32Array {
  const data = weights.get(name);
  if (data?.length === size) return data;
  refuse("input", `cannot use the LoRA matrix '${name}'`, {
    rule: `it has ${size} elements`,
    value: data ? `${data.length} elements` : "it is missing",
    fix: "pass A [rank, in] and B [out, rank] for every target of every layer",
  });
}
