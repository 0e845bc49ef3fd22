// A conversation with a model: questions in, answers out, piece by piece.
import { option, refuse } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import type { ChatMessage } from "../text/chat_template.ts";
import { encodeChatPrompt } from "../data/prompts/chat.ts";
import { chatStyle, checkPromptText, endToken, type PromptStyle, turnShape } from "../data/prompts/format.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import type { FinishReason, GenerateOptions } from "./generate.ts";
import { streamText } from "./text.ts";
import type { Model } from "../model/model.ts";
import { SAMPLING_NAMES } from "./sampling.ts";
import { createSequence } from "./sequence.ts";
import { checkStops } from "./stop_strings.ts";
import { timeTokens, type TokenTimes } from "./timed_tokens.ts";

/** Options of {@link createChat}. */
export interface ChatOptions extends Omit<GenerateOptions, "endTokens" | "signal"> {
  /**
   * Text before the first question: the system turn or, if the chat template has no system turn, the beginning of the
   * first question. Default: none.
   */
  readonly system?: string | null | undefined;
  /** Layout of the turns. Default: the model's own, see `promptStyle`. */
  readonly style?: PromptStyle | undefined;
  /** Texts before which an answer ends. Default: none. */
  readonly stop?: readonly string[] | undefined;
}

const NAMES: NamesOf<ChatOptions> = {
  ...SAMPLING_NAMES,
  maxTokens: "number",
  onChoice: true,
  readsAhead: "switch",
  adapters: true,
  system: true,
  style: true,
  stop: true,
};

/** An answer that is whole. */
export interface ChatAnswer {
  /** What was said. */
  readonly text: string;
  /** Why it ended. */
  readonly reason: FinishReason;
  /** Tokens that the model wrote. */
  readonly tokens: readonly number[];
  /** Tokens that stood before the answer. */
  readonly promptTokens: number;
  /** How many of these were still in the cache. */
  readonly reusedTokens: number;
  /** Earlier messages that were dropped to make room. */
  readonly dropped: number;
  /** How long it took. */
  readonly times: TokenTimes;
}

/** A conversation under way. Dispose it to free its cache; the model stays. */
export interface Chat extends Disposable {
  /** The conversation so far, without the system text. */
  readonly messages: readonly ChatMessage[];
  /**
   * Asks a question. Yields the answer piece by piece, and returns it as a whole. If the signal fires or the caller
   * leaves the loop, the part that was written stays in the conversation. If question and history leave no room for an
   * answer, the oldest turns are dropped.
   *
   * @throws CompressoError("input") for a question that alone fills the context, or that the chat template refuses. The
   * conversation is then as before.
   * @throws CompressoError("usage") while another answer is in progress; and what `generate` throws.
   */
  ask(
    question: string,
    options?: { readonly signal?: AbortSignal | undefined },
  ): AsyncGenerator<string, ChatAnswer, undefined>;
  /** Forgets all turns. If an answer is in progress, its turn is forgotten as soon as it has ended. */
  reset(): void;
}

/** Share of the context that is kept free for an answer, at most. */
const ROOM_SHARE = 1 / 4;

/**
 * Begins a conversation. It uses the tokenizer's chat template or, for a model with a prompt style, that style. If a
 * prompt begins with the same tokens as the one before it, the common tokens are not read again.
 *
 * @throws CompressoError("input") for a model without tokenizer, or whose tokenizer has neither a chat template nor a style.
 * @throws CompressoError("usage") for an empty system text or stop string, and options that do not exist.
 * @example
 * ```ts
 * import { createChat, loadModel, openDevice } from "compresso";
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * using chat = createChat(model, { maxTokens: 8 });
 * let answer = "";
 * for await (const piece of chat.ask("Story: Tom went to Rome. Where is Tom?")) answer += piece;
 * if (chat.messages[1]?.content !== answer) throw new Error(answer);
 * ```
 */
export function createChat(model: Model, options: ChatOptions): Chat {
  checkNames(options, NAMES, { whose: "createChat" });
  const { system = null, style, stop = [], adapters = {}, ...settings } = options;
  checkPromptText(system, { what: "cannot use this system text" });
  const tokenizer = tokenizerFor(model);
  const format = { tokenizer, prompt: system, style: style ?? ownStyle(tokenizer), today: true };
  checkStops(stop);
  const end = endToken(format), endTokens = end === null ? [] : [end];
  const lead = format.style === "chat" ? turnShape(tokenizer).lead : "";
  const sequence = createSequence(model, { adapters });
  let messages: readonly ChatMessage[] = [], resets = 0;
  return {
    get messages(): readonly ChatMessage[] {
      return messages;
    },
    ask,
    reset(): void {
      messages = [];
      resets++;
    },
    [Symbol.dispose]: sequence[Symbol.dispose],
  };

  async function* ask(
    question: string,
    { signal }: { readonly signal?: AbortSignal | undefined } = {},
  ): AsyncGenerator<string, ChatAnswer, undefined> {
    const { asked, prompt } = fitted(question), began = resets;
    const dropped = messages.length + 1 - asked.length;
    const { tokens, times } = timeTokens(
      sequence.generate(prompt, { ...settings, endTokens, signal }),
    );
    const seen: number[] = [];
    const pieces = streamText(tokens, { tokenizer, stop, onToken: (id) => void seen.push(id) });
    let text = "";
    const keep = (): void => {
      const content = text.startsWith(lead) ? text.slice(lead.length) : text;
      if (content !== "" && resets === began) messages = [...asked, { role: "assistant", content }];
    };
    try {
      for (let next = await pieces.next();; next = await pieces.next()) {
        if (next.done) {
          const { reused: reusedTokens } = sequence;
          return { text, reason: next.value, tokens: seen, promptTokens: prompt.length, reusedTokens, dropped, times };
        }
        text += next.value;
        yield next.value;
      }
    } finally {
      await pieces.return("stop");
      keep();
    }
  }

  /** The conversation with the question, without its oldest turns where they leave no room for an answer. */
  function fitted(question: string): { readonly asked: readonly ChatMessage[]; readonly prompt: readonly number[] } {
    const { maxPosition } = model.spec;
    const room = Math.min(settings.maxTokens, Math.floor(ROOM_SHARE * maxPosition));
    for (let first = 0;; first++) {
      if (first > 0 && messages[first]?.role === "assistant") continue;
      const asked: readonly ChatMessage[] = [...messages.slice(first), { role: "user", content: question }];
      const prompt = encodeChatPrompt(asked, format);
      if (prompt.length + room <= maxPosition || first >= messages.length) return { asked, prompt };
    }
  }
}

function tokenizerFor({ tokenizer }: Model): Tokenizer {
  if (tokenizer) return tokenizer;
  throw noTokenizer("cannot chat with this model");
}

function ownStyle(tokenizer: Tokenizer): PromptStyle {
  return chatStyle(tokenizer) ?? refuse("input", "cannot chat with this model", {
    rule: "its tokenizer has a chat template, or its tokenizer_config.json names a compresso_style",
    value: "it has neither",
    fix: `take a model that was trained to chat, or choose the style "alpaca" or "plain" (${option("style")})`,
  });
}
