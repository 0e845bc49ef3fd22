// Causal attention with grouped KV heads, forward and backward.
import {
  attentionKernel,
  attentionKeyGradKernel,
  attentionQueryGradKernel,
  type AttentionTile,
  type AttentionVariant,
  NO_WINDOW,
} from "../../kernels/mod.ts";
import type { DeviceBuffer, DeviceTexture } from "../gpu/types.ts";
import type { Device } from "../gpu/device.ts";
import { compileKernel, sourceOf } from "../gpu/kernel.ts";
import { type Bound, f32, type Params, type Plan, u32 } from "../gpu/plan.ts";
import { headStride, strideOf } from "./padding.ts";

export { type DecodeBuffers, type DecodeShape, recordDecodeAttention } from "./decode/attention.ts";
export { ropeTable } from "../spec/rope.ts";
export { recordRope, type RopeOptions } from "./rope.ts";

/** Sizes of one layer's attention. Row m = b·seq + t; heads is a multiple of kvHeads. */
export interface AttentionShape {
  readonly batch: number;
  readonly seq: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** Unpadded width of a head: even, at most 256. */
  readonly headDim: number;
  /** Keys that a query sees, its own included, at least 1. Default: all from the first token of its sequence on. */
  readonly window?: number | undefined;
}

/** How attention is run; both have good defaults. */
export interface AttentionOptions {
  /** Textures that all layers share; without it no texture is used. */
  readonly scratch?: AttentionScratch;
  /** Default: "texture" where a CPU runs the shaders and there is a scratch, else "workgroup". */
  readonly variant?: AttentionVariant;
  /** Work of one invocation, in place of the default of the variant; for benchmarks. */
  readonly tiles?: Partial<Record<AttentionPass, Pick<AttentionTile, "lanes" | "rows" | "step">>>;
  /**
   * Floating-point operations of one dispatch, at most, as far as whole KV heads allow, and ten times as many where one alone takes more: a driver
   * ends what takes long. Default 1e9, and then 16 blocks at least.
   */
  readonly dispatchCost?: number;
}

/** The kernels: forward, dq (lanes along queries), dk and dv (lanes along keys). */
export type AttentionPass = "forward" | "query" | "key";

/** Buffers of {@link recordAttention}: q, o [rows, strideOf(heads·hs)], k, v [rows, strideOf(kvHeads·hs)], lse [heads, batch·seq], all f32. */
export interface AttentionBuffers extends AttentionOptions {
  readonly q: DeviceBuffer;
  readonly k: DeviceBuffer;
  readonly v: DeviceBuffer;
  readonly o: DeviceBuffer;
  readonly lse: DeviceBuffer;
  /** Forward only: the rows are token trees, see `attentionKernel`; [batch·seq] of four u32, which say what each sees in place of `window`. */
  readonly spans?: DeviceBuffer | undefined;
}

/** Buffers of {@link recordAttentionBackward}; gradients are stored like their values, delta like lse. */
export interface AttentionBackwardBuffers extends AttentionBuffers {
  readonly dO: DeviceBuffer;
  readonly delta: DeviceBuffer;
  readonly dq: DeviceBuffer;
  readonly dk: DeviceBuffer;
  readonly dv: DeviceBuffer;
}

/** Textures that the attention of all layers reads its operands from. Whoever makes it disposes it, after the plans that use it. */
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

  /** A texture of at least this size; layers that ask for the same name share it. */
  texture(name: string, width: number, height: number): DeviceTexture {
    const known = this.#textures.find((t) => t.name === name && t.width >= width && t.height >= height);
    if (known) return known.texture;
    const texture = this.#device.createTexture(`attention ${name}`, width, height, "rgba32float");
    this.#textures.push({ name, width, height, texture });
    return texture;
  }

  [Symbol.dispose](): void {
    for (const { texture } of this.#textures) texture[Symbol.dispose]();
    this.#textures.length = 0;
  }
}

const LOG2_E = Math.LOG2E;

/** Records o = softmax(q·kᵀ / √headDim, causal)·v and lse. Writes (=) o, its padding columns as zeros, and lse; rows past batch·seq are left alone. */
export function recordAttention(plan: Plan, shape: AttentionShape, buffers: AttentionBuffers): void {
  const { q, k, v, o, lse, spans } = buffers;
  recordPass(plan, shape, {
    ...buffers,
    pass: "forward",
    trees: spans !== undefined,
    streamed: [k, v],
    bound: ([keys, values], params) => [q, keys, values, o, lse, ...(spans ? [spans] : []), { params }],
  });
}

/** Records the backward of {@link recordAttention}. Writes (=) delta, dq, dk and dv, their padding columns as zeros; bit-identical from run to run. */
export function recordAttentionBackward(plan: Plan, shape: AttentionShape, buffers: AttentionBackwardBuffers): void {
  const { q, k, v, o, dO, lse, delta, dq, dk, dv } = buffers;
  recordPass(plan, shape, {
    ...buffers,
    pass: "query",
    streamed: [k, v],
    bound: ([keys, values], params) => [q, keys, values, o, dO, lse, delta, dq, { params }],
  });
  recordPass(plan, shape, {
    ...buffers,
    pass: "key",
    streamed: [q, dO],
    bound: ([queries, grads], params) => [queries, grads, k, v, lse, delta, dk, dv, { params }],
  });
}

/** What tells the three kernels apart. */
const PASSES = {
  // Products of a query and a key, each headDim; the streamed textures' names; on a CPU the padded columns of all owned rows of an invocation (they live in the
  // L1 cache) and the streamed rows of a step. Measured on lavapipe with headDim 64: more owned rows share a load, which costs 6 cycles a value
  // there, but the compiler's time grows faster than the speed.
  forward: { generate: attentionKernel, products: 2, names: ["k", "v"], columns: 384, step: 2 },
  query: { generate: attentionQueryGradKernel, products: 3, names: ["k", "v"], columns: 384, step: 4 },
  key: { generate: attentionKeyGradKernel, products: 4, names: ["q", "dO"], columns: 256, step: 4 },
} as const;

type Streamed = readonly [DeviceBuffer | DeviceTexture, DeviceBuffer | DeviceTexture];

interface PassOptions extends AttentionOptions {
  readonly pass: AttentionPass;
  /** Whether the forward kernel is that for trees. */
  readonly trees?: boolean;
  /** The two matrices that all invocations of a workgroup share. */
  readonly streamed: readonly [DeviceBuffer, DeviceBuffer];
  readonly bound: (streamed: Streamed, params: Params) => readonly Bound[];
}

/** A head may take so many times the cost of a dispatch of several before its blocks are distinguished. */
const LONG_HEAD = 10;
/** Blocks that go together at least: fewer would leave most of a GPU idle. */
const LEAST_BLOCKS = 16;

/** Records one kernel over all sequences and KV heads, in as many dispatches as keep each of them short: by heads, and by blocks where one head is long. */
function recordPass(plan: Plan, shape: AttentionShape, options: PassOptions): void {
  const { batch, seq, heads, kvHeads, headDim, window = NO_WINDOW } = shape;
  const { pass, trees = false, scratch, dispatchCost = 1e9, bound } = options;
  const pairs = batch * kvHeads, ratio = heads / kvHeads, hs = headStride(headDim);
  if (pairs * seq === 0) return;
  const variant = options.variant ?? (plan.device.facts.isCpu && scratch ? "texture" : "workgroup");
  const tile = { variant, headDim, ...tileOf(pass, variant, headDim), ...options.tiles?.[pass] };
  const source = trees ? sourceOf(attentionKernel, tile, { trees }) : sourceOf(PASSES[pass].generate, tile);
  const kernel = compileKernel(plan.device, source);
  const streamed = variant === "texture" ? copied(plan, shape, options) : options.streamed;
  const owned = pass === "key" ? seq : seq * ratio;
  const blocks = Math.ceil(owned / (tile.lanes * tile.rows));
  const strides = [strideOf(heads * hs) / 4, strideOf(kvHeads * hs) / 4];
  const seen = Math.min(seq, window);
  const pairCost = PASSES[pass].products * seen * (2 * seq - seen + 1) * headDim * ratio;
  const { maxComputeWorkgroupsPerDimension } = plan.device.limits;
  const part = Math.max(1, Math.min(pairs, maxComputeWorkgroupsPerDimension, Math.floor(dispatchCost / pairCost)));
  // Of one long head some blocks go together, as a GPU does many side by side. One that sees all rows does twice the work of the mean one.
  const blockCost = 2 * pairCost / blocks, headCost = LONG_HEAD * dispatchCost;
  const least = options.dispatchCost === undefined ? LEAST_BLOCKS : 1;
  const most = pairCost <= headCost ? blocks : Math.max(least, Math.floor(headCost / blockCost));
  for (let first = 0; first < pairs; first += part) {
    const count = Math.min(part, pairs - first);
    for (let from = 0; from < blocks; from += most) {
      const end = Math.min(blocks, from + most);
      // Queries count from the last block on, keys from the first.
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
      const params = [...integers.map(u32), f32(LOG2_E / Math.sqrt(headDim))];
      const cost = count * Math.min(pairCost, (end - from) * blockCost);
      plan.dispatch(kernel, bound(streamed, params), { groups: [end - from, count], cost });
    }
  }
}

function tileOf(
  pass: AttentionPass,
  variant: AttentionVariant,
  headDim: number,
): Pick<AttentionTile, "lanes" | "rows" | "step"> {
  if (variant === "workgroup") return { lanes: 64, rows: 1, step: 2 };
  const rows = Math.floor(PASSES[pass].columns / headStride(headDim));
  return { lanes: 8, rows: Math.min(6, Math.max(1, rows)), step: PASSES[pass].step };
}

/** Records the copies of the streamed matrices to textures. */
function copied(plan: Plan, shape: AttentionShape, { pass, scratch, streamed }: PassOptions): Streamed {
  if (!scratch) throw new Error("attention: the variant 'texture' needs a scratch");
  const stride = strideOf((pass === "key" ? shape.heads : shape.kvHeads) * headStride(shape.headDim));
  const rows = shape.batch * shape.seq;
  const copy = (i: 0 | 1): DeviceTexture => {
    const texture = scratch.texture(PASSES[pass].names[i], stride / 4, rows);
    plan.copyToTexture(streamed[i], texture, { bytesPerRow: stride * 4, rows });
    return texture;
  };
  return [copy(0), copy(1)];
}
