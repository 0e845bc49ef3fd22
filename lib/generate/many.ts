// Many prompts that are continued together.
import type { Model } from "../model/model.ts";
import type { FinishReason } from "./generate.ts";
import { type BatchTextOptions, createTextBatch, DEFAULT_SEQUENCES, type TextBatchOptions } from "./text_batch.ts";

/** A text of {@link generateMany}. */
export interface ManyText {
  /** Tokens of the text. */
  readonly tokens: readonly number[];
  /** Why it ended. */
  readonly reason: FinishReason;
}

/** A prompt of {@link generateMany}, with its own options. */
export interface ManyRequest extends BatchTextOptions {
  /** Token ids; none means BOS. */
  readonly prompt: readonly number[];
}

/**
 * Continues many prompts together, each as `generate` does alone. Texts have options of their own, such as seeds.
 *
 * @throws CompressoError as {@link createTextBatch} and {@link TextBatch.generate}.
 * @example
 * ```ts
 * import { loadModel, openDevice } from "compresso";
 * import { generateMany } from "compresso/generate";
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * const texts = await generateMany(model, [1, 2, 3].map((seed) => ({ prompt: [5, 6], maxTokens: 4, temperature: 1, seed })));
 * if (texts.length !== 3) throw new Error("a text is missing");
 * ```
 */
export async function generateMany(
  model: Model,
  requests: readonly ManyRequest[],
  options: TextBatchOptions = {},
): Promise<readonly ManyText[]> {
  const longest = requests.reduce((most, { prompt, maxTokens }) => Math.max(most, prompt.length + maxTokens), 1);
  const sizes = {
    sequences: Math.max(1, Math.min(requests.length, options.sequences ?? DEFAULT_SEQUENCES)),
    capacity: Math.min(longest, model.spec.maxPosition),
  };
  await using batch = createTextBatch(model, { ...sizes, ...options });
  return await Promise.all(requests.map(async ({ prompt, ...own }): Promise<ManyText> => {
    const tokens: number[] = [], text = batch.generate(prompt, own);
    for (let next = await text.next();; next = await text.next()) {
      if (next.done) return { tokens, reason: next.value };
      tokens.push(next.value);
    }
  }));
}
