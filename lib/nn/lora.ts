// LoRA (Hu et al. 2021): y = W·x + s·B·A·x. Owns the scale s, the flat parameter buffers and their offsets; refuses the base weights.
import { CompressoError } from "../core/errors.ts";
import type { Device, DeviceBuffer } from "../gpu/device.ts";
import { normal } from "../core/random.ts";
import { type DecoderSpec, type Projection, PROJECTIONS, projectionShape } from "../spec/decoder.ts";
import { padHeads, presentProjections, storedShape, unpadHeads } from "./weights.ts";

/** Which projections carry LoRA, and how strongly. */
export interface LoraConfig {
  /** Inner dimension r. */
  readonly rank: number;
  /** Numerator of the scale; see {@link loraScale}. */
  readonly alpha: number;
  /** Whether the scale is alpha / √rank instead of alpha / rank. Default false. */
  readonly rsLora?: boolean;
  /** Projections that carry LoRA. */
  readonly targets: readonly Projection[];
  /** Probability that an element of the input of A is dropped in training; default 0. */
  readonly dropout?: number;
}

/** A projection that carries LoRA. */
export interface LoraModule {
  /** Index of the layer. */
  readonly layer: number;
  /** Its projection. */
  readonly projection: Projection;
  /** Logical shape [out, in] of the projection. */
  readonly shape: readonly [number, number];
}

/** Where A [rank, in] and B [out, rank] of one projection lie in the flat buffers, in f32 elements. */
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

/** LoRA parameters, gradients and Adam moments of a whole model; the last three are empty where it does not train. */
export interface Lora extends Disposable {
  readonly config: LoraConfig;
  readonly scale: number;
  readonly entries: readonly LoraEntry[];
  readonly count: number;
  readonly params: DeviceBuffer;
  readonly grads: DeviceBuffer;
  readonly m: DeviceBuffer;
  readonly v: DeviceBuffer;
  find(layer: number, projection: Projection): LoraEntry | null;
}

/** LoRA matrices by name `lora.<layer>.<projection>.<A|B>`, logical shapes A [rank, in] and B [out, rank]. */
export type LoraWeights = Map<string, Float32Array>;

/**
 * The factor s of B·A: alpha / rank (Hu et al. 2021), or alpha / √rank with `rsLora`, whose updates do not fade as the rank grows
 * (rank-stabilised LoRA, Kalajdzievski 2023, https://arxiv.org/abs/2312.03732).
 */
export function loraScale({ rank, alpha, rsLora = false }: Pick<LoraConfig, "rank" | "alpha" | "rsLora">): number {
  return alpha / (rsLora ? Math.sqrt(rank) : rank);
}

/** The projections among `targets` that the model has, in canonical order. */
export function loraModules(spec: DecoderSpec, targets: readonly Projection[]): LoraModule[] {
  return spec.layers.flatMap((layer, index) =>
    presentProjections(layer).filter((projection) => targets.includes(projection)).map((projection) => ({
      layer: index,
      projection,
      shape: projectionShape(spec, layer, projection),
    }))
  );
}

/** Names of the matrices of all targets that the model has. */
export function loraNames(spec: DecoderSpec, targets: readonly Projection[]): string[] {
  return loraModules(spec, targets).flatMap(({ layer, projection }) =>
    ["A", "B"].map((side) => `lora.${layer}.${projection}.${side}`)
  );
}

/** Refuses matrices of no target that the model has, which would do nothing. Throws `CompressoError("input")`. */
export function refuseOthers(
  spec: DecoderSpec,
  { targets, weights }: Pick<LoraConfig, "targets"> & { readonly weights: ReadonlyMap<string, unknown> },
): void {
  const names = new Set(loraNames(spec, targets)), other = [...weights.keys()].find((name) => !names.has(name));
  if (other === undefined) return;
  throw new CompressoError("input", {
    what: `cannot use the LoRA matrix '${other}'`,
    rule: `it belongs to a target (${targets.join(", ")}) that the model has`,
    value: other,
    fix: "name its projection among the targets, or leave the matrix out",
  });
}

/** Allocates zero LoRA parameters for the projections that the model has; `trains` says whether gradients and moments get room too. */
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
    stack.use(device.createBuffer(`lora ${label}`, count * 4));
  const params = buffer("params", offset), trained = trains ? offset : 0;
  const buffers = { params, grads: buffer("grads", trained), m: buffer("m", trained), v: buffer("v", trained) };
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

/** Fresh parameters: A normal with deviation 1 / sqrt(in), B zero, so that training starts at the base model. */
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

/** Packs named matrices into the flat layout. Throws `CompressoError("input")` where one is missing or has another size. */
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
    flat.set(padHeads(spec, a, { shape: [rank, shape[1]], logical: [rank, logical[1]] }), aOffset);
    flat.set(padHeads(spec, b, { shape: [shape[0], rank], logical: [logical[0], rank] }), bOffset);
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
    const name = `lora.${layer}.${projection}`;
    weights.set(`${name}.A`, unpadHeads(spec, a, { shape: [rank, shape[1]], logical: [rank, logical[1]] }));
    weights.set(`${name}.B`, unpadHeads(spec, b, { shape: [shape[0], rank], logical: [logical[0], rank] }));
  }
  return weights;
}

function take(weights: ReadonlyMap<string, Float32Array>, name: string, size: number): Float32Array {
  const data = weights.get(name);
  if (data?.length === size) return data;
  throw new CompressoError("input", {
    what: `cannot use the LoRA matrix '${name}'`,
    rule: `it has ${size} elements`,
    value: data ? `${data.length} elements` : "it is missing",
    fix: "pass A [rank, in] and B [out, rank] for every target of every layer",
  });
}

/** Far above the width of any projection, where LoRA is a full matrix already. */
const MOST_RANK = 65536;
/** Least normal number of f32: what is smaller may be 0 on a GPU, and LoRA then does nothing. */
const LEAST_SCALE = 2 ** -126;

/** Throws `CompressoError("usage")` for settings out of range. */
export function checkLora({ rank, alpha, targets, dropout = 0, rsLora = false }: LoraConfig): void {
  const fail = (rule: string, value: string): never => {
    const fix = "correct it";
    throw new CompressoError("usage", { what: "cannot use these LoRA settings", rule, value, fix });
  };
  if (!Number.isInteger(rank) || rank < 1 || rank > MOST_RANK) {
    fail(`rank is a whole number from 1 to ${MOST_RANK}`, String(rank));
  }
  if (!(alpha > 0) || !Number.isFinite(alpha)) fail("alpha is a positive number", String(alpha));
  const scale = Math.fround(loraScale({ rank, alpha, rsLora }));
  if (!(scale >= LEAST_SCALE && scale < Infinity)) {
    const by = rsLora ? "the square root of the rank" : "the rank";
    fail(`alpha divided by ${by} is a normal number of f32, ${LEAST_SCALE} or more`, `${alpha} with a rank of ${rank}`);
  }
  if (!(dropout >= 0 && dropout < 1)) fail("dropout lies in [0, 1)", String(dropout));
  if (targets.length === 0) fail(`targets are some of ${PROJECTIONS.join(", ")}`, "none");
  if (new Set(targets).size < targets.length) fail("each target is named once", targets.join(", "));
  for (const target of targets) {
    if (!PROJECTIONS.includes(target)) fail(`targets are some of ${PROJECTIONS.join(", ")}`, String(target));
  }
}
