// Decodes several sequences of the same length together, token by token.
import type { DeviceLimits } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";
import { Plan } from "../../gpu/plan.ts";
import { createActivations } from "../activations.ts";
import { createRopeTables } from "../rope.ts";
import { cacheBytes, createCaches } from "./cache.ts";
import { recordCachedAttention } from "./general.ts";
import { recordFinalNorm, recordLogits } from "../head.ts";
import { strideOf } from "../padding.ts";
import { createMaskSlots, type MaskKind } from "../mask_slots.ts";
import { recordForward } from "../pass.ts";
import type { DecoderSpec } from "../../spec/decoder.ts";
import { createStepState } from "../train/step_state.ts";
import type { Weights } from "../weights.ts";

/** Sizes of {@link createBatchPass}. */
export interface BatchPassOptions {
  readonly sequences: number;
  /** Largest number of tokens of a sequence. */
  readonly capacity: number;
}

/** Sequences of the same length that are decoded together. After an error or an abort it can only be disposed. */
export interface BatchPass extends Disposable {
  /** Tokens of each sequence that the model has read. */
  readonly length: number;
  /** Reads the next token of each sequence [sequences]. Returns the next-token logits [vocab] of each. */
  logits(
    tokens: ArrayLike<number>,
    options?: { readonly signal?: AbortSignal | undefined },
  ): Promise<readonly Float32Array<ArrayBuffer>[]>;
}

/** Largest number of sequences of one pass. Larger batches reuse the weights that the products read. */
const MOST_SEQUENCES = 32;
/** Largest size of the caches of one pass in bytes, and as a share of the remaining memory on a device with a limit. */
const MOST_CACHE_BYTES = 2 ** 30, CACHE_SHARE = 0.5;

/**
 * Largest number of sequences of the given length to decode together. Their caches take at most `bytes` (default: 1
 * GiB, less where memory is limited), and each cache fits one binding. At least one.
 */
export function sequencesAtOnce(
  { memoryLimit, bytes: used, limits }: Pick<Device, "memoryLimit" | "bytes"> & {
    readonly limits: Pick<DeviceLimits, "maxStorageBufferBindingSize" | "maxBufferSize">;
  },
  spec: DecoderSpec,
  { capacity, bytes = MOST_CACHE_BYTES }: { readonly capacity: number; readonly bytes?: number | undefined },
): number {
  const most = Math.min(bytes, MOST_CACHE_BYTES, CACHE_SHARE * (memoryLimit - used)),
    layers = cacheBytes(spec, capacity);
  const all = 2 * layers.reduce((sum, layer) => sum + layer, 0), largest = Math.max(...layers);
  const bound = Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize);
  const count = Math.floor(Math.min(MOST_SEQUENCES, most / Math.max(1, all), bound / Math.max(1, largest)));
  return Math.max(1, count);
}

/**
 * Allocates caches and buffers, and records the plan of one token of each sequence. The logits of a sequence do not
 * depend on the others.
 */
export function createBatchPass(
  device: Device,
  weights: Weights,
  { sequences, capacity }: BatchPassOptions,
): BatchPass {
  const { spec } = weights, stride = strideOf(spec.vocab);
  const stack = new DisposableStack();
  try {
    const position = stack.use(device.createBuffer("position", 4));
    const caches = stack.use(createCaches(device, spec, { capacity, placement: "buffer", sequences }));
    const act = stack.use(createActivations(device, spec, {
      batch: sequences,
      seq: 1,
      backward: false,
      rank: 0,
      headRows: sequences,
    }));
    const plan = stack.use(new Plan(device));
    const context = {
      plan,
      weights,
      act,
      masks: stack.use(createMaskSlots(device, spec)),
      lora: null,
      rope: stack.use(createRopeTables(device, spec, capacity)),
      position,
      state: stack.use(createStepState(device)),
      dropout: false,
      maskGrads: new Set<MaskKind>(),
    };
    recordForward({ ...context, attend: (own, index) => recordCachedAttention(own, { caches, position }, index) });
    recordFinalNorm(context);
    recordLogits(context, { first: 0, rows: sequences });
    plan.finish();
    let length = 0;
    return {
      get length(): number {
        return length;
      },
      async logits(tokens, { signal } = {}): Promise<readonly Float32Array<ArrayBuffer>[]> {
        if (tokens.length !== sequences) throw new Error(`decoding: ${tokens.length} tokens of ${sequences} sequences`);
        if (length >= capacity) throw new Error(`decoding: ${length + 1} tokens, capacity ${capacity}`);
        device.write(act.tokens, Uint32Array.from(tokens));
        device.write(position, Uint32Array.of(length++));
        await plan.run(signal ? { signal } : {});
        const all = await device.readFloats(act.logits, sequences * stride);
        return Array.from({ length: sequences }, (_, row) => all.subarray(row * stride, row * stride + spec.vocab));
      },
      [Symbol.dispose]: () => stack.dispose(),
    };
  } catch (error) {
    stack.dispose();
    throw error;
  }
}
