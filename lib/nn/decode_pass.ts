// Decoding one sequence token by token with a cache of keys and values. Owns the caches and the plan of one token; refuses sampling and stop rules.
import { cacheAppend, greedyNext } from "../../kernels/mod.ts";
import { CompressoError } from "../errors.ts";
import type { Device, DeviceBuffer } from "../gpu/device.ts";
import { compileKernel } from "../gpu/kernel.ts";
import { Plan, u32 } from "../gpu/plan.ts";
import { createActivations } from "./activations.ts";
import { recordDecodeAttention, recordRope, ropeTable } from "./attention.ts";
import { type DecoderContext, recordSelfAttention } from "./decoder.ts";
import { recordFinalNorm, recordLogits } from "./head.ts";
import { strideOf } from "./layout.ts";
import { createLora, type Lora, type LoraConfig } from "./lora.ts";
import { createMaskSlots, type MaskKind, type MaskSlots } from "./masks.ts";
import { recordForward } from "./pass.ts";
import { createStepState } from "./step_state.ts";
import { headWidths, type Weights } from "./weights.ts";

/** Options of {@link createDecodePass}. */
export interface DecodePassOptions {
  /** Tokens that the caches hold at most. */
  readonly capacity: number;
  readonly lora?: LoraConfig | null;
}

/** One sequence under way. Write masks and LoRA to it before its first token; after an error or an abort it can only be disposed. */
export interface DecodePass extends Disposable {
  readonly masks: MaskSlots;
  readonly lora: Lora | null;
  /** Tokens that the model has read. */
  readonly length: number;
  /** Reads the first tokens of the sequence, all at once. */
  prefill(tokens: readonly number[], options?: { readonly signal?: AbortSignal | undefined }): Promise<void>;
  /** Reads one token; returns the logits [vocab] of the next. */
  logits(
    token: number,
    options?: { readonly signal?: AbortSignal | undefined },
  ): Promise<Float32Array<ArrayBuffer>>;
  /**
   * Reads one token and then count − 1 that it chooses itself; returns the most likely token after each, `count` in all.
   * Throws `CompressoError("numeric")` where the logits are not finite.
   */
  greedy(
    token: number,
    options: { readonly count: number; readonly signal?: AbortSignal | undefined },
  ): Promise<number[]>;
}

/** Keys (after RoPE) and values of a layer, [capacity, strideOf(kvHeads·hs)]; null where the layer has no attention. */
type Cache = { readonly k: DeviceBuffer; readonly v: DeviceBuffer } | null;

/** Buffers that the records of one token refer to. */
interface Decoding {
  readonly caches: readonly Cache[];
  /** One u32: tokens read so far, the position of the present one. */
  readonly position: DeviceBuffer;
  /** The most likely token after each position, [capacity] u32. */
  readonly picks: DeviceBuffer;
  readonly capacity: number;
}

/** What kernels/greedy_next.wgsl writes for logits that are not finite. */
const NO_PICK = 0xffffffff;

/** Allocates caches and buffers, and records the plan of one token. All masks are 1 and LoRA is zero at first. */
export function createDecodePass(device: Device, weights: Weights, options: DecodePassOptions): DecodePass {
  const { spec } = weights, { capacity, lora: config = null } = options;
  const rank = config?.rank ?? 0;
  const owned: Disposable[] = [];
  const own = <T extends Disposable>(resource: T): T => (owned.push(resource), resource);
  const dispose = (): void => owned.forEach((resource) => resource[Symbol.dispose]());
  let length = 0;
  const advance = (count: number): void => {
    if (length + count > capacity) throw new Error(`decoding: ${length} + ${count} tokens, capacity ${capacity}`);
    length += count;
  };
  try {
    const act = own(createActivations(device, spec, { batch: 1, seq: 1, backward: false, rank, headRows: 1 }));
    const masks = own(createMaskSlots(device, spec));
    const lora = config ? own(createLora(device, spec, config)) : null;
    const shared = {
      weights,
      masks,
      lora,
      rope: own(device.uploadBuffer("rope", ropeTable(spec, capacity))),
      state: own(createStepState(device)),
      dropout: false,
      maskGrads: new Set<MaskKind>(),
    };
    const decoding: Decoding = {
      caches: weights.layers.map((layer): Cache => {
        if (!layer.attention) return null;
        const bytes = 4 * capacity * strideOf(headWidths(spec, layer.spec).kv);
        return { k: own(device.createBuffer("k cache", bytes)), v: own(device.createBuffer("v cache", bytes)) };
      }),
      position: own(device.createBuffer("position", 4)),
      picks: own(device.createBuffer("picks", 4 * capacity)),
      capacity,
    };
    const step = own(recordStep({ ...shared, plan: new Plan(device), act }, decoding));

    const prefill: DecodePass["prefill"] = async (tokens, { signal } = {}) => {
      if (length > 0) throw new Error("decoding: the sequence has begun");
      if (tokens.length === 0) return;
      advance(tokens.length);
      using batch = createActivations(device, spec, {
        batch: 1,
        seq: tokens.length,
        backward: false,
        rank,
        headRows: 1,
      });
      using plan = recordPrefill({ ...shared, plan: new Plan(device), act: batch }, decoding.caches);
      device.write(batch.tokens, Uint32Array.from(tokens));
      device.write(decoding.position, Uint32Array.of(tokens.length));
      await plan.run(signal ? { signal } : {});
    };
    const run = async (token: number, repeat: number, signal: AbortSignal | undefined): Promise<void> => {
      advance(repeat);
      device.write(act.tokens, Uint32Array.of(token));
      await step.run({ repeat, ...(signal ? { signal } : {}) });
    };
    return {
      masks,
      lora,
      get length(): number {
        return length;
      },
      prefill,
      async logits(token, { signal } = {}): Promise<Float32Array<ArrayBuffer>> {
        await run(token, 1, signal);
        return await device.readFloats(act.logits, spec.vocab);
      },
      async greedy(token, { count, signal }): Promise<number[]> {
        const first = length;
        await run(token, count, signal);
        const [bytes] = await device.read([{ buffer: decoding.picks, byteOffset: 4 * first, bytes: 4 * count }]);
        const picks = [...new Uint32Array(bytes ?? new ArrayBuffer(0))];
        if (picks.includes(NO_PICK)) throw notFinite();
        return picks;
      },
      [Symbol.dispose]: dispose,
    };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** The error of logits that hold NaN or infinity. */
export function notFinite(): CompressoError {
  return new CompressoError("numeric", {
    what: "cannot choose the next token",
    rule: "the logits of a model are finite",
    value: "NaN or infinity among them",
    mend: "check the model's weights, masks and LoRA",
  });
}

/** The plan of one token: act.tokens[0] at position[0] to act.logits, then the greedy choice as the next input. */
function recordStep(base: DecoderContext, decoding: Decoding): Plan {
  const context: DecoderContext = { ...base, attend: (_, index) => recordCachedAttention(base, decoding, index) };
  const { plan, act, weights: { spec } } = context;
  recordForward(context);
  recordFinalNorm(context);
  recordLogits(context, { first: 0, rows: 1 });
  plan.dispatch(compileKernel(plan.device, greedyNext), [act.logits, act.tokens, decoding.picks, decoding.position, {
    params: [u32(spec.vocab), u32(decoding.capacity)],
  }], { groups: [1], cost: 4 * spec.vocab });
  return plan.finish();
}

/** The plan of the first tokens: all layers, whose keys and values are copied before the next layer overwrites them. */
function recordPrefill(base: DecoderContext, caches: readonly Cache[]): Plan {
  const { plan, act: { layers, rows }, weights } = base;
  const context: DecoderContext = {
    ...base,
    attend: (own, index) => {
      recordSelfAttention(own, index);
      const cache = caches[index], layer = weights.layers[index], forward = layers[index]?.forward;
      if (!cache || !layer || !forward) return;
      const bytes = 4 * rows * strideOf(headWidths(weights.spec, layer.spec).kv);
      plan.copy(forward.k, cache.k, { bytes });
      plan.copy(forward.v, cache.v, { bytes });
    },
  };
  recordForward(context);
  return plan.finish();
}

/** o of one query at position[0] over the cache, to which its own key and value are appended first. */
function recordCachedAttention(
  { plan, act, weights, rope }: DecoderContext,
  { caches, position, capacity }: Decoding,
  index: number,
): void {
  const cache = caches[index], layer = weights.layers[index], own = act.layers[index];
  if (!cache || !layer || !own) return;
  const { headDim } = weights.spec, { heads, kvHeads } = layer.spec, { q, k, v, o } = own.forward;
  const widths = headWidths(weights.spec, layer.spec), kvStride = strideOf(widths.kv);
  const turn = { rows: 1, seq: 1, headDim, cosSin: rope, positionBuffer: position };
  recordRope(plan, { ...turn, buffer: q, heads, stride: strideOf(widths.q) });
  recordRope(plan, { ...turn, buffer: k, heads: kvHeads, stride: kvStride });
  plan.dispatch(compileKernel(plan.device, cacheAppend), [k, v, position, cache.k, cache.v, {
    params: [u32(kvStride / 4), u32(capacity)],
  }], { groups: [Math.ceil(kvStride / 256)], cost: 2 * kvStride });
  recordDecodeAttention(plan, { heads, kvHeads, headDim, capacity }, {
    q,
    kCache: cache.k,
    vCache: cache.v,
    o,
    position,
  });
}
