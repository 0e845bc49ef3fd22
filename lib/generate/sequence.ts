// Continues prompts that begin alike on one KV cache, as the turns of a chat are.
import { CompressoError } from "../core/errors.ts";
import type { DecodePass } from "../nn/decode/pass.ts";
import { checkSampling } from "./sampling.ts";
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

/** A cache under way. Dispose it to free its memory; a text that is under way is ended first, and from then on it gives `CompressoError("usage")`. */
export interface Sequence extends Disposable {
  /**
   * As `generate`, but of a prompt that begins like the last one, or like its continuation, only the rest is read. The sums run in another
   * order then, so that logits may differ in their last bits from those of a prompt read at once. One text at a time: a second one is
   * refused with `CompressoError("usage")`.
   */
  generate(
    promptTokens: readonly number[],
    options: Omit<GenerateOptions, "adapters">,
  ): AsyncGenerator<number, FinishReason, undefined>;
  /** Tokens of the last prompt that were in the cache. */
  readonly reused: number;
}

/** Tokens that a cache holds at first, so that the next turns find room. */
const LEAST_CAPACITY = 512;

/** A cache without tokens; it takes memory from its first prompt on, and grows with the prompts. */
export function createSequence(model: Model, options: { readonly adapters?: Adapters } = {}): Sequence {
  const { spec } = model, { adapters = {} } = options;
  const life = new Lifetime("sequence");
  let pass: DecodePass | null = null, entered: Disposable | null = null, capacity = 0, reused = 0;
  /** The text under way. */
  let text: AsyncGenerator<number, FinishReason, undefined> | null = null;
  /** Tokens that the pass is known to have read. */
  let held: number[] = [];

  const release = (): void => {
    pass?.[Symbol.dispose]();
    entered?.[Symbol.dispose]();
    [pass, entered, held] = [null, null, []];
  };
  /** The pass, rewound to what it holds of the prompt. */
  const prepare = (prompt: readonly number[], needed: number): DecodePass => {
    if (!pass || capacity < needed) {
      release();
      entered = model.enter();
      capacity = Math.max(needed, Math.min(Math.max(LEAST_CAPACITY, 2 * capacity), spec.maxPosition));
      pass = openPass(model, { capacity, adapters });
    }
    const wanted = prompt.length - 1, same = Math.min(commonLength(held, prompt), wanted);
    // Behind cached tokens attention is slower than at the start: not worth it for a small part.
    const start = 8 * same < wanted ? 0 : same;
    held = held.slice(0, start);
    pass.rewind(start);
    return pass;
  };
  return {
    generate(promptTokens, options): AsyncGenerator<number, FinishReason, undefined> {
      checkMaxTokens(options.maxTokens);
      checkSampling(options);
      const own = run(checkPrompt(spec, promptTokens), options, () => text = own);
      return own;
    },
    get reused(): number {
      return reused;
    },
    [Symbol.dispose](): void {
      life.end(release);
      // Where it pauses, tokens may be read ahead.
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
      throw new CompressoError("usage", {
        what: "cannot begin another text",
        rule: "one text at a time is written on a cache",
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

/** Entries at the start that are equal. */
function commonLength(a: readonly number[], b: readonly number[]): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}
