// Generates from several prompts on one KV cache and reuses their common beginning, such as the turns of a chat.
import { refuse } from "../core/errors.ts";
import type { DecodePass } from "../nn/decode/pass.ts";
import {
  checkMaxTokens,
  checkPrompt,
  continueTokens,
  type FinishReason,
  type GenerateOptions,
  openPass,
  roomFor,
} from "./generate.ts";
import { Lifetime } from "../model/lifetime.ts";
import type { Adapters, Model } from "../model/model.ts";

/**
 * A KV cache in use. Dispose it to free its memory. That ends a text in progress, and later use throws
 * `CompressoError("usage")`.
 */
export interface Sequence extends Disposable {
  /**
   * Like `generate`, but reuses the cache: if a prompt begins like the last one, or like its continuation, only the
   * rest is read. Sums then run in another order, so logits may differ in their last bits from those of a prompt read
   * at once.
   *
   * @throws CompressoError("usage") if another text is in progress: there can be only one at a time.
   */
  generate(
    promptTokens: readonly number[],
    options: Omit<GenerateOptions, "adapters">,
  ): AsyncGenerator<number, FinishReason, undefined>;
  /** Tokens of the last prompt that were in the cache. */
  readonly reused: number;
}

/** Least capacity of a cache in tokens, so that the next turns fit. */
const LEAST_CAPACITY = 512;

/** Creates an empty cache. It allocates memory at its first prompt and grows with the prompts. */
export function createSequence(model: Model, options: { readonly adapters?: Adapters | undefined } = {}): Sequence {
  const { spec } = model, { adapters = {} } = options;
  const life = new Lifetime("sequence");
  let pass: DecodePass | null = null, entered: Disposable | null = null, capacity = 0, reused = 0;
  /** The text in progress. */
  let text: AsyncGenerator<number, FinishReason, undefined> | null = null;
  /** Tokens that the pass has read. */
  let held: number[] = [];

  const release = (): void => {
    pass?.[Symbol.dispose]();
    entered?.[Symbol.dispose]();
    [pass, entered, held] = [null, null, []];
  };
  /** The pass, rewound to the part of the prompt that it holds. */
  const prepare = (prompt: readonly number[], needed: number): DecodePass => {
    if (!pass || capacity < needed) {
      release();
      entered = model.enter();
      capacity = Math.max(needed, Math.min(Math.max(LEAST_CAPACITY, 2 * capacity), spec.maxPosition));
      pass = openPass(model, { capacity, adapters });
    }
    const wanted = prompt.length - 1, same = Math.min(commonLength(held, prompt), wanted);
    // Attention after cached tokens is slower than at the start, so a small cached part is not reused.
    const start = 8 * same < wanted ? 0 : same;
    held = held.slice(0, pass.rewind(start));
    return pass;
  };
  return {
    generate(promptTokens, options): AsyncGenerator<number, FinishReason, undefined> {
      checkMaxTokens(options.maxTokens);
      const own = run(checkPrompt(spec, promptTokens), options, () => text = own);
      return own;
    },
    get reused(): number {
      return reused;
    },
    [Symbol.dispose](): void {
      life.end(release);
      // At a pause, tokens may have been read ahead.
      text?.return("stop").catch(() => {});
    },
  };

  async function* run(
    prompt: readonly number[],
    options: Omit<GenerateOptions, "adapters">,
    begin: () => void,
  ): AsyncGenerator<number, FinishReason, undefined> {
    options.signal?.throwIfAborted();
    if (text) {
      refuse("usage", "cannot begin another text", {
        rule: "a cache serves one text at a time",
        value: "one is under way",
        fix: "read it to its end, or leave it: a loop does so by break, a generator by return()",
      });
    }
    using _entered = life.enter();
    const signal = options.signal ? AbortSignal.any([options.signal, life.signal]) : life.signal;
    begin();
    try {
      const own = prepare(prompt, prompt.length + roomFor(spec, prompt, options));
      reused = held.length;
      await own.prefill(prompt.slice(reused, -1), { signal });
      held = prompt.slice(0, -1);
      const tokens = continueTokens(own, prompt, { ...options, signal, spec });
      try {
        for (let last = prompt.at(-1) ?? 0;;) {
          const { done, value } = await tokens.next();
          if (done) return value;
          held.push(last); // it was read before the next one could be chosen
          last = value;
          yield value;
        }
      } finally {
        await tokens.return("stop");
      }
    } catch (error) {
      if (!signal.aborted) release();
      throw error;
    } finally {
      text = null;
    }
  }
}

/** Number of equal entries at the start. */
function commonLength(a: readonly number[], b: readonly number[]): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}
