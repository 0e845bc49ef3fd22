// Generation as text. Owns the way from tokens to pieces of text, and stop strings; refuses to choose tokens.
import { CompressoError } from "../errors.ts";
import { createStreamDecoder, type Tokenizer } from "../io/tokenizer.ts";
import { type FinishReason, generate, type GenerateOptions } from "./generate.ts";
import type { Model } from "./model.ts";
import { checkStops, createStopFilter } from "./stop_strings.ts";

/** Options of {@link generateText}. */
export interface GenerateTextOptions extends GenerateOptions {
  /** Texts before which the continuation ends; they may begin and end within tokens. Default: none. */
  readonly stop?: readonly string[];
}

/** Options of {@link streamText}. */
export interface StreamTextOptions {
  /** Gives the tokens' text. */
  readonly tokenizer: Tokenizer;
  /** See {@link GenerateTextOptions.stop}. */
  readonly stop?: readonly string[] | undefined;
  /** Called with each token, before its text is given. */
  readonly onToken?: (id: number) => void;
}

/**
 * Continues a text, piece by piece; a piece is whole characters, special tokens are left out. The prompt begins with the
 * tokens that the tokenizer puts before a text, and does not end with those that it puts after one. Text that may become a stop string
 * is held back until it is known. Returns why the text ended.
 *
 * @throws CompressoError("input") for a model without tokenizer; "usage" for an empty stop string; and what {@link generate} throws.
 *
 * @example
 * ```ts
 * import { generateText, loadModel, openDevice } from "../../mod.ts";
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * let text = "";
 * for await (const piece of generateText(model, "Tom went", { maxTokens: 8, stop: ["."] })) text += piece;
 * if (text.includes(".")) throw new Error(text);
 * ```
 */
export function generateText(
  model: Model,
  prompt: string,
  options: GenerateTextOptions,
): AsyncGenerator<string, FinishReason, undefined> {
  const { tokenizer } = model;
  if (!tokenizer) {
    throw new CompressoError("input", {
      what: "cannot generate text",
      rule: "a model needs a tokenizer to read and write text",
      value: "this one has none",
      mend: "put tokenizer.json beside the weights",
    });
  }
  const { stop = [] } = options;
  checkStops(stop);
  const tokens = generate(model, [...tokenizer.leading, ...tokenizer.encode(prompt)], options);
  return streamText(tokens, { tokenizer, stop });
}

/**
 * Text of tokens as they come: whole characters without special tokens, up to the first stop string, at which the tokens are ended too.
 * Returns why the text ended.
 */
export async function* streamText(
  tokens: AsyncGenerator<number, FinishReason, undefined>,
  { tokenizer, stop = [], onToken }: StreamTextOptions,
): AsyncGenerator<string, FinishReason, undefined> {
  const decoder = createStreamDecoder(tokenizer, { skipSpecial: true }), filter = createStopFilter(stop);
  try {
    for (let next = await tokens.next();; next = await tokens.next()) {
      if (!next.done) onToken?.(next.value);
      const text = filter.push(next.done ? decoder.end() : decoder.push(next.value));
      if (text !== "") yield text;
      if (filter.stopped) return "stop";
      if (!next.done) continue;
      const rest = filter.end();
      if (rest !== "") yield rest;
      return next.value;
    }
  } finally {
    await tokens.return("stop");
  }
}
