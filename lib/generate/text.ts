// Generation as text.
import { checkNames } from "../core/check_options.ts";
import { createStreamDecoder, type StreamDecoder, type Tokenizer } from "../text/tokenizer.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import { type FinishReason, generate, GENERATE_NAMES, type GenerateOptions } from "./generate.ts";
import type { Model } from "../model/model.ts";
import { checkStops, createStopFilter } from "./stop_strings.ts";

/** Options of {@link generateText}. */
export interface GenerateTextOptions extends GenerateOptions {
  /**
   * Texts before which the continuation ends; they may begin and end within tokens. The text of a special token, such as `<|im_end|>`, stands for
   * that token. Default: none.
   */
  readonly stop?: readonly string[] | undefined;
}

/** Options of {@link streamText}. */
export interface StreamTextOptions {
  /** Gives the tokens' text. */
  readonly tokenizer: Tokenizer;
  /** See {@link GenerateTextOptions.stop}. */
  readonly stop?: readonly string[] | undefined;
  /** Tokens of the text that this text continues; none for a text by itself, such as an answer. Default: none. */
  readonly before?: readonly number[] | undefined;
  /** Called with each token, before its text is given. */
  readonly onToken?: ((id: number) => void) | undefined;
}

/**
 * Continues a text. Yields pieces of whole characters, without special tokens, and returns why the text ended. The
 * model reads the tokenizer's leading tokens, such as BOS, and then the prompt. The prompt gets no closing tokens, such
 * as EOS. Text that may be the beginning of a stop string is held back until that is decided.
 *
 * @throws CompressoError("input") for a model without tokenizer.
 * @throws CompressoError("usage") for an empty stop string; and what {@link generate} throws.
 * @example
 * ```ts
 * import { generateText, loadModel, openDevice } from "compresso";
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
  if (!tokenizer) throw noTokenizer("cannot generate text");
  checkNames(options, { ...GENERATE_NAMES, stop: true }, { whose: "generateText" });
  const { stop = [], ...own } = options;
  checkStops(stop);
  const before = tokenizer.encode(prompt);
  const tokens = generate(model, [...tokenizer.leading, ...before], own);
  return streamText(tokens, { tokenizer, stop, before });
}

/** Tokens of the text before that are decoded with a continuation. */
const BEFORE = 5;

/**
 * A decoder that starts in the middle of a text, after the tokens before it. Decoders treat the start of a text
 * differently: SentencePiece, for example, drops the first space.
 */
export function continuationDecoder(
  tokenizer: Tokenizer,
  before: readonly number[],
  options: { readonly skipSpecial: boolean },
): StreamDecoder {
  const decoder = createStreamDecoder(tokenizer, options);
  // Special tokens have no text, and a model may know ids that its tokenizer does not.
  const known = before.filter((id) => tokenizer.idToToken(id) !== null && !tokenizer.isSpecial(id));
  // If the tokens before end within a character, that part would come out with the continuation.
  for (let end = known.length; end > 0; end--) {
    const last = known.slice(Math.max(0, end - BEFORE), end);
    if (tokenizer.decode(last).endsWith("\uFFFD")) continue;
    for (const id of last) decoder.push(id);
    break;
  }
  return decoder;
}

/**
 * Text of tokens as they come: whole characters without special tokens, up to the first stop string or special token that is one, at which the
 * tokens are ended too. Returns why the text ended.
 */
export async function* streamText(
  tokens: AsyncGenerator<number, FinishReason, undefined>,
  { tokenizer, stop = [], before = [], onToken }: StreamTextOptions,
): AsyncGenerator<string, FinishReason, undefined> {
  const decoder = continuationDecoder(tokenizer, before, { skipSpecial: true }), filter = createStopFilter(stop);
  const stopIds = specialIds(tokenizer, stop);
  try {
    for (let next = await tokens.next();; next = await tokens.next()) {
      const end = next.done ? next.value : stopIds.includes(next.value) ? "stop" : null;
      if (!next.done && end === null) onToken?.(next.value);
      const text = filter.push(next.done || end !== null ? decoder.end() : decoder.push(next.value));
      if (text !== "") yield text;
      if (filter.stopped) return "stop";
      if (end === null) continue;
      const rest = filter.end();
      if (rest !== "") yield rest;
      return end;
    }
  } finally {
    await tokens.return("stop");
  }
}

/** The special tokens among stop strings: decoding leaves them out, so that no text would ever hold them. */
export function specialIds(tokenizer: Tokenizer, stops: readonly string[]): number[] {
  return stops.map((stop) => tokenizer.tokenToId(stop)).filter((id) => id !== null).filter(tokenizer.isSpecial);
}
