// Decodes one sequence token by token with a KV cache.
import { type CompressoError, refusal } from "../../core/errors.ts";
import type { Device } from "../../gpu/device.ts";
import { createCaches, pagesOf } from "./cache.ts";
import { createChoice, type DrawSettings, writeChoice } from "./choice.ts";
import { createGeneralStep } from "./general.ts";
import { createRopeTables } from "../rope.ts";
import { runPrefill } from "./prefill.ts";
import { createDecodeStep, type DecodeState, stepPlacement } from "./step.ts";
import { strideOf } from "../padding.ts";
import { type LoraConfig } from "../../spec/lora.ts";
import { createLora, type Lora } from "../lora.ts";
import { createMaskSlots, type MaskSlots } from "../mask_slots.ts";
import { createStepState } from "../train/step_state.ts";
import type { Weights } from "../weights.ts";
import { byWindow, createPageTables, pagesIn, stillHolds } from "./windows.ts";

/** Options of {@link createDecodePass}. */
export interface DecodePassOptions {
  /** Capacity of the caches in tokens. */
  readonly capacity: number;
  readonly lora?: LoraConfig | null;
}

/**
 * One sequence being decoded. Write masks and LoRA before its first token. After an error it can only be disposed.
 * After an abort it can also be rewound to tokens that it had read before.
 */
export interface DecodePass extends Disposable {
  readonly masks: MaskSlots;
  readonly lora: Lora | null;
  /** Tokens that the model has read. */
  readonly length: number;
  /** Reads the next tokens of the sequence in one pass. */
  prefill(tokens: readonly number[], options?: { readonly signal?: AbortSignal | undefined }): Promise<void>;
  /**
   * Forgets all tokens except the first `count`. No other call may be pending. Returns how many remain: `count`, or 0
   * where the caches of layers with windows no longer hold what the next token sees.
   */
  rewind(count: number): number;
  /** Reads one token. Returns the next-token logits [vocab]. */
  logits(
    token: number,
    options?: { readonly signal?: AbortSignal | undefined },
  ): Promise<Float32Array<ArrayBuffer>>;
  /**
   * Reads one token (or, with null, the token chosen last), then count − 1 tokens that it chooses itself. Returns the
   * token that it chooses after each, `count` in total: the most likely token, or a drawn one. May be called again
   * before it resolves; the work then continues without a gap, and tokens are chosen as before.
   *
   * @throws CompressoError("numeric") if the logits are not finite.
   */
  next(
    token: number | null,
    options: {
      readonly count: number;
      /** How tokens are drawn, with a token. Default: the most likely ones are taken. */
      readonly draw?: DrawSettings | null | undefined;
      readonly signal?: AbortSignal | undefined;
      /** See `Plan.run`. */
      readonly profile?: Map<string, number>;
    },
  ): Promise<number[]>;
}

/** Options of one run of the decoding step. */
interface TokenRun {
  readonly repeat: number;
  readonly draw?: DrawSettings | null;
  readonly signal: AbortSignal | undefined;
  readonly profile?: Map<string, number> | undefined;
}

/** The value that the kernels of the choice write for logits that are not finite. */
const NO_PICK = 0xffffffff;

/** Allocates caches and buffers, and records the plan of one token. Initially all masks are 1 and LoRA is zero. */
export function createDecodePass(device: Device, weights: Weights, options: DecodePassOptions): DecodePass {
  const { spec } = weights, { capacity, lora: config = null } = options;
  const owned: Disposable[] = [];
  const own = <T extends Disposable>(resource: T): T => (owned.push(resource), resource);
  const dispose = (): void => owned.forEach((resource) => resource[Symbol.dispose]());
  // Tokens that were read, and the most since the caches were last empty.
  let length = 0, reach = 0;
  const advance = (count: number): void => {
    if (length + count > capacity) throw new Error(`decoding: ${length} + ${count} tokens, capacity ${capacity}`);
    length += count;
    reach = Math.max(reach, length);
  };
  try {
    const masks = own(createMaskSlots(device, spec));
    const lora = config ? own(createLora(device, spec, { ...config, trains: false })) : null;
    const stepState = own(createStepState(device));
    const fused = lora ? null : stepPlacement(device, weights, pagesOf(capacity));
    const pages = byWindow(spec, (window) => pagesIn(window, capacity));
    const places = byWindow(spec, (window) => Array.from({ length: pagesIn(window, capacity) }, (_, page) => page));
    const state: DecodeState = {
      rows: 1,
      capacity,
      weights,
      masks,
      caches: own(createCaches(device, spec, { pages, placement: fused ?? "buffer" })),
      pages: own(createPageTables(device, places, capacity)),
      rope: own(createRopeTables(device, spec, capacity)),
      token: own(device.createBuffer("token", 4)),
      position: own(device.createBuffer("position", 4)),
      picks: own(device.createBuffer("picks", 4 * capacity)),
      logits: own(device.createBuffer("logits", 4 * strideOf(spec.vocab))),
      choice: own(createChoice(device, { rows: 1, vocab: spec.vocab })),
    };
    const step = own(
      fused ? createDecodeStep(device, state) : createGeneralStep(device, state, { lora, stepState }),
    );

    const prefill: DecodePass["prefill"] = async (tokens, { signal } = {}) => {
      if (tokens.length === 0) return;
      const start = length;
      advance(tokens.length);
      await runPrefill(device, state, { tokens, start, lora, stepState, signal });
    };
    // Each run enters the queue as soon as the previous one is submitted.
    let turn = Promise.resolve();
    const run = async <T>(
      token: number | null,
      { repeat, draw = null, signal, profile }: TokenRun,
      read: () => Promise<T>,
    ): Promise<T> => {
      advance(repeat);
      const before = turn, submitted = Promise.withResolvers<void>();
      turn = submitted.promise;
      try {
        await before;
        if (token !== null) {
          device.write(state.token, Uint32Array.of(token));
          writeChoice(device, state.choice, [draw]);
        }
        const results: Promise<T>[] = [];
        await step.plan.run({
          repeat,
          signal,
          profile,
          onSubmitted: () => {
            const result = read();
            result.catch(() => {}); // awaited below unless the run fails first
            results.push(result);
            submitted.resolve();
          },
        });
        return await (results[0] ?? read());
      } finally {
        submitted.resolve();
      }
    };
    return {
      masks,
      lora,
      get length(): number {
        return length;
      },
      prefill,
      rewind(count): number {
        if (count > length) throw new Error(`decoding: rewinding ${length} tokens to ${count}`);
        length = stillHolds(count, { reach, pages }) ? count : 0;
        if (length === 0) reach = 0;
        device.write(state.position, Uint32Array.of(length));
        return length;
      },
      async logits(token, { signal } = {}): Promise<Float32Array<ArrayBuffer>> {
        return await run(token, { repeat: 1, signal }, () => device.readFloats(state.logits, spec.vocab));
      },
      async next(token, { count, draw = null, signal, profile }): Promise<number[]> {
        const range = { buffer: state.picks, byteOffset: 4 * length, bytes: 4 * count };
        const [bytes] = await run(token, { repeat: count, draw, signal, profile }, () => device.read([range]));
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

/** The error for logits that contain NaN or infinity. */
export function notFinite(): CompressoError {
  return refusal("numeric", "cannot choose the next token", {
    rule: "the logits of a model are finite",
    value: "NaN or infinity among them",
    fix: "check the model's weights, masks and LoRA",
  });
}
