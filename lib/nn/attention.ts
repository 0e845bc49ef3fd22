// Causal attention with grouped KV heads, forward and backward.
import {
  attentionKernel,
  attentionKeyGradKernel,
  type AttentionLanes,
  attentionLanesKernel,
  attentionLanesKeyGradKernel,
  attentionLanesQueryGradKernel,
  attentionQueryGradKernel,
  type AttentionTile,
  type KeyRanges,
  NO_WINDOW,
} from "../../kernels/mod.ts";
import type { KernelSource } from "../../kernels/source.ts";
import { existing } from "../core/guards.ts";
import type { DeviceBuffer, DeviceTexture } from "../gpu/types.ts";
import type { Device } from "../gpu/device.ts";
import { compileKernel, sourceOf } from "../gpu/kernel.ts";
import { type Bound, type Params, type Plan, u32 } from "../gpu/plan.ts";
import { headStride, strideOf } from "./padding.ts";
import { scoreParams } from "./decode/attention.ts";
import { fillTexture } from "./products/operand.ts";
import { exchangesLanes } from "./products/variants.ts";

/** Sizes of the attention of one layer. Row m = b·seq + t; heads is a multiple of kvHeads. */
export interface AttentionShape {
  readonly batch: number;
  readonly seq: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** Unpadded width of a head: even, at most 256. */
  readonly headDim: number;
  /** Factor of q·k. Default: 1 / √headDim. */
  readonly scale?: number | undefined;
  /** Soft cap of the scaled scores. Default: none. */
  readonly softCap?: number | undefined;
  /**
   * Sliding window: number of keys that a query attends to, including its own; at least 1. Default: all keys since
   * the start of its sequence.
   */
  readonly window?: number | undefined;
}

/** Settings of the attention dispatches; all have defaults. */
export interface AttentionOptions {
  /** Scratch textures shared by all layers. Without them attention reads buffers. */
  readonly scratch?: AttentionScratch;
  /** Default: on a CPU adapter with a scratch "lanes", without subgroups "texture"; else "workgroup". */
  readonly variant?: AttentionVariant;
  /** Work of one invocation of the variants "texture" and "workgroup"; overrides their default, for tests. */
  readonly tiles?: Partial<Record<AttentionPass, Pick<AttentionTile, "lanes" | "rows" | "step">>>;
  /**
   * Largest number of floating-point operations of one dispatch, because drivers abort long dispatches. A dispatch
   * holds whole KV heads; a single KV head may take ten times as many. Default 1e9, with at least 16 blocks in a
   * dispatch.
   */
  readonly dispatchCost?: number;
}

/**
 * Kernels for one purpose: "lanes" exchange values within subgroups and read textures, "texture" reads textures, and
 * "workgroup" shares rows in workgroup memory.
 */
export type AttentionVariant = "lanes" | AttentionTile["variant"];

/** The kernels: forward, dq (lanes along queries), dk and dv (lanes along keys). */
export type AttentionPass = "forward" | "query" | "key";

/**
 * Buffers of {@link recordAttention}: q, o [rows, strideOf(heads·hs)], k, v [rows, strideOf(kvHeads·hs)], lse [heads,
 * batch·seq], all f32.
 */
export interface AttentionBuffers extends AttentionOptions {
  readonly q: DeviceBuffer;
  readonly k: DeviceBuffer;
  readonly v: DeviceBuffer;
  readonly o: DeviceBuffer;
  readonly lse: DeviceBuffer;
  /** Which keys each query attends to, instead of `window`: that of token trees (forward only) or packed rows. */
  readonly ranges?: { readonly of: Exclude<KeyRanges, "window">; readonly spans: DeviceBuffer } | undefined;
}

/** Buffers of {@link recordAttentionBackward}. Gradients have the layout of their values, delta that of lse. */
export interface AttentionBackwardBuffers extends AttentionBuffers {
  readonly dO: DeviceBuffer;
  readonly delta: DeviceBuffer;
  readonly dq: DeviceBuffer;
  readonly dk: DeviceBuffer;
  readonly dv: DeviceBuffer;
}

/**
 * Textures from which the attention of all layers reads its operands. The caller disposes them, after the plans that
 * use them.
 */
export class AttentionScratch implements Disposable {
  readonly #device: Device;
  readonly #textures: {
    readonly name: string;
    readonly width: number;
    readonly height: number;
    readonly texture: DeviceTexture;
  }[] = [];

  constructor(device: Device) {
    this.#device = device;
  }

  /** A texture of at least this size. Layers that request the same name share it. */
  texture(name: string, width: number, height: number): DeviceTexture {
    const known = this.#textures.find((t) => t.name === name && t.width >= width && t.height >= height);
    if (known) return known.texture;
    const texture = this.#device.createTexture(`attention: ${name}`, width, height, "rgba32float");
    this.#textures.push({ name, width, height, texture });
    return texture;
  }

  [Symbol.dispose](): void {
    for (const { texture } of this.#textures) texture[Symbol.dispose]();
    this.#textures.length = 0;
  }
}

/**
 * Records o = softmax(q·kᵀ·scale, causal)·v and lse. Writes (=) o, with zeros in its padding columns, and lse.
 * Rows past batch·seq are not written.
 */
export function recordAttention(plan: Plan, shape: AttentionShape, buffers: AttentionBuffers): void {
  const { q, k, v, o, lse, ranges } = buffers, operands = { q, k, v };
  const textures = copied(plan, shape, { ...buffers, operands, passes: ["forward"] });
  recordPass(plan, shape, {
    ...buffers,
    pass: "forward",
    operands,
    textures,
    bound: (of, params) => [of("q"), of("k"), of("v"), o, lse, ...(ranges ? [ranges.spans] : []), { params }],
  });
}

/**
 * Records the backward pass of {@link recordAttention}. Writes (=) delta, dq, dk and dv, with zeros in their padding
 * columns. Runs are bit-identical.
 */
export function recordAttentionBackward(plan: Plan, shape: AttentionShape, buffers: AttentionBackwardBuffers): void {
  const { q, k, v, o, dO, lse, delta, dq, dk, dv, ranges } = buffers, operands = { q, k, v, dO };
  const spans = ranges ? [ranges.spans] : [];
  const textures = copied(plan, shape, { ...buffers, operands, passes: ["query", "key"] });
  const read = { ...buffers, operands, textures };
  recordPass(plan, shape, {
    ...read,
    pass: "query",
    bound: (of, params) => [of("q"), of("k"), of("v"), o, of("dO"), lse, delta, dq, ...spans, { params }],
  });
  recordPass(plan, shape, {
    ...read,
    pass: "key",
    bound: (of, params) => [of("q"), of("dO"), of("k"), of("v"), lse, delta, dk, dv, ...spans, { params }],
  });
}

/** Properties of the three kernels. */
const PASSES = {
  // products: products of length headDim for each query and key pair.
  // rows: with lanes, the rows of a workgroup for heads of up to 64; more are no faster on lavapipe.
  // columns: with textures alone, the padded columns of all rows that an invocation owns (they stay in the L1 cache).
  // step: the streamed rows of one step. Measured on lavapipe with headDim 64: more owned rows share a load, which
  // costs 6 cycles a value there, but the compile time grows faster than the speed.
  forward: {
    generate: attentionKernel,
    generateLanes: attentionLanesKernel,
    products: 2,
    rows: 32,
    columns: 384,
    step: 2,
  },
  query: {
    generate: attentionQueryGradKernel,
    generateLanes: attentionLanesQueryGradKernel,
    products: 3,
    rows: 24,
    columns: 384,
    step: 4,
  },
  key: {
    generate: attentionKeyGradKernel,
    generateLanes: attentionLanesKeyGradKernel,
    products: 4,
    rows: 16,
    columns: 256,
    step: 4,
  },
} as const;

type Operand = "q" | "k" | "v" | "dO";
type Operands = Readonly<Partial<Record<Operand, DeviceBuffer>>>;
type Textures = Partial<Record<Operand, DeviceTexture>>;

/** What the kernels read from textures. */
const TEXTURES: Readonly<Record<AttentionVariant, Readonly<Record<AttentionPass, readonly Operand[]>>>> = {
  lanes: { forward: ["q", "k", "v"], query: ["q", "k", "v", "dO"], key: ["q", "k", "v", "dO"] },
  texture: { forward: ["k", "v"], query: ["k", "v"], key: ["q", "dO"] },
  workgroup: { forward: [], query: [], key: [] },
};

interface PassOptions extends AttentionOptions, Pick<AttentionBuffers, "ranges"> {
  readonly pass: AttentionPass;
  readonly operands: Operands;
  readonly textures: Readonly<Textures>;
  /** The kernel's bindings, given where it reads each operand. */
  readonly bound: (of: (operand: Operand) => DeviceBuffer | DeviceTexture, params: Params) => readonly Bound[];
}

/** One head may take this many times the cost of a dispatch before its blocks are split over dispatches. */
const LONG_HEAD = 10;
/** Minimum number of blocks in one dispatch: fewer would leave most of a GPU idle. */
const LEAST_BLOCKS = 16;

/**
 * Records one kernel over all sequences and KV heads. Splits it into short dispatches by heads, and by blocks where a
 * single head takes long.
 */
function recordPass(plan: Plan, shape: AttentionShape, options: PassOptions): void {
  const { batch, seq, heads, kvHeads, headDim, window = NO_WINDOW } = shape;
  const { pass, dispatchCost = 1e9, operands, textures, bound } = options;
  const pairs = batch * kvHeads, ratio = heads / kvHeads, hs = headStride(headDim);
  if (pairs * seq === 0) return;
  const variant = variantOn(plan.device, options), { source, rows } = kernelOf(variant, shape, options);
  const of = (operand: Operand): DeviceBuffer | DeviceTexture => {
    const isTexture = TEXTURES[variant][pass].includes(operand);
    return existing(isTexture ? textures[operand] : operands[operand], operand);
  };
  const kernel = compileKernel(plan.device, source);
  const owned = pass === "key" ? seq : seq * ratio;
  const blocks = Math.ceil(owned / rows);
  const strides = [strideOf(heads * hs) / 4, strideOf(kvHeads * hs) / 4];
  const seen = Math.min(seq, window);
  const pairCost = PASSES[pass].products * seen * (2 * seq - seen + 1) * headDim * ratio;
  const { maxComputeWorkgroupsPerDimension } = plan.device.limits;
  const part = Math.max(1, Math.min(pairs, maxComputeWorkgroupsPerDimension, Math.floor(dispatchCost / pairCost)));
  // One long head is split into groups of blocks, as a GPU runs many at once. A block that reads all rows costs twice
  // the mean.
  const blockCost = 2 * pairCost / blocks, headCost = LONG_HEAD * dispatchCost;
  const least = options.dispatchCost === undefined ? LEAST_BLOCKS : 1;
  const most = pairCost <= headCost ? blocks : Math.max(least, Math.floor(headCost / blockCost));
  for (let first = 0; first < pairs; first += part) {
    const count = Math.min(part, pairs - first);
    for (let from = 0; from < blocks; from += most) {
      const end = Math.min(blocks, from + most);
      // Queries are counted from the last block, keys from the first.
      const integers = [
        seq,
        ratio,
        kvHeads,
        first,
        ...strides,
        pass === "key" ? from : end,
        batch * seq,
        hs / 4,
        window,
      ];
      const params = [...integers.map(u32), ...scoreParams(shape)];
      const cost = count * Math.min(pairCost, (end - from) * blockCost);
      plan.dispatch(kernel, bound(of, params), { groups: [end - from, count], cost });
    }
  }
}

function variantOn(device: Device, { variant, scratch }: AttentionOptions): AttentionVariant {
  if (variant) return variant;
  if (!device.facts.isCpu || !scratch) return "workgroup";
  return exchangesLanes(device) ? "lanes" : "texture";
}

/** The kernel of a pass, and the rows of a workgroup. */
function kernelOf(
  variant: AttentionVariant,
  { headDim, softCap }: AttentionShape,
  { pass, ranges: given, tiles }: PassOptions,
): { readonly source: KernelSource; readonly rows: number } {
  const ranges = given?.of ?? "window";
  const capped = softCap === undefined ? {} : { isCapped: true }, { generate, generateLanes, ...of } = PASSES[pass];
  if (variant === "lanes") {
    const rows = headDim <= 64 ? of.rows : headDim <= 128 ? 16 : 8; // more take long to compile, and gain little
    const tile: AttentionLanes = { headDim, rows, ...capped };
    const source = ranges === "trees"
      ? sourceOf(attentionLanesKernel, tile, { ranges })
      : sourceOf(generateLanes, tile, { ranges });
    return { source, rows };
  }
  const most = Math.min(6, Math.max(1, Math.floor(of.columns / headStride(headDim))));
  const work = variant === "workgroup" ? { lanes: 64, rows: 1, step: 2 } : { lanes: 8, rows: most, step: of.step };
  const tile: AttentionTile = { variant, headDim, ...work, ...tiles?.[pass], ...capped };
  const source = ranges === "trees"
    ? sourceOf(attentionKernel, tile, { ranges })
    : sourceOf(generate, tile, { ranges });
  return { source, rows: tile.lanes * tile.rows };
}

/** Records the copies into textures of what the kernels of some passes read from there. */
function copied(
  plan: Plan,
  { batch, seq, heads, kvHeads, headDim }: AttentionShape,
  { passes, operands, ...options }: AttentionOptions & {
    readonly passes: readonly AttentionPass[];
    readonly operands: Operands;
  },
): Textures {
  const rows = batch * seq, textures: Textures = {};
  if (kvHeads * rows === 0) return textures;
  const inTextures = TEXTURES[variantOn(plan.device, options)], { scratch } = options;
  for (const name of new Set(passes.flatMap((pass) => inTextures[pass]))) {
    const buffer = existing(operands[name], name);
    if (!scratch) throw new Error("attention: textures need a scratch");
    const stride = strideOf((name === "q" || name === "dO" ? heads : kvHeads) * headStride(headDim));
    const texture = scratch.texture(name, stride / 4, rows);
    fillTexture(plan, texture, { view: { buffer, stride }, rows, columns: stride, width: stride });
    textures[name] = texture;
  }
  return textures;
}
