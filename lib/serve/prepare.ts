// From the fields of a request to a job: tokens, defaults, and the lengths that the model and the limits allow.
import { type ChatMessage, renderChat } from "../text/chat_template.ts";
import { endToken } from "../data/prompts/encode.ts";
import { encodeChatPrompt } from "../data/prompts/chat.ts";
import { chatStyle, type FormatOptions, type PromptStyle, withPrompt } from "../data/prompts/format.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { MAX_SEED } from "../core/random.ts";
import type { SamplingOptions } from "../generate/sampling.ts";
import { badRequest } from "./api_error.ts";
import type { ChatFields, CommonFields, CompletionFields } from "./fields.ts";
import type { Job, Prompt, Workbench } from "./job.ts";
import type { ServeLimits } from "./limits.ts";

/** What a job depends on besides its fields. */
export interface PrepareOptions {
  readonly bench: Workbench;
  readonly limits: ServeLimits;
}

/** OpenAI's default for completions. */
const COMPLETION_TOKENS = 16;
/** How a template writes a conversation that the model is to continue. It writes BOS itself where the model needs it. */
const TURN = { addGenerationPrompt: true, today: true } as const;
/** Default length of a chat's answer: a cache for the whole context would take much memory. */
const CHAT_TOKENS = 1024;

/** The job of a completion. Throws `ApiError` 400, and `CompressoError("input")` for a text that the tokenizer cannot take. */
export function prepareCompletion(fields: CompletionFields, options: PrepareOptions): Job {
  const { tokenizer } = options.bench, { prompt } = fields;
  const texts: readonly (string | readonly number[])[] = typeof prompt === "string"
    ? [prompt]
    : isNumbers(prompt)
    ? [prompt]
    : prompt;
  // Each text has at least one token, so too many texts are refused before any is encoded.
  if (texts.length > options.limits.tokens) throw tooManyTokens(`${texts.length} prompts`, options);
  const prompts = texts.flatMap((text): Prompt[] => {
    if (typeof text !== "string") {
      const ids = checkIds(text, options);
      const read = { ids, leading: 0, text: fields.echo ? tokenizer.decode(ids) : "", before: ids };
      return answersTo(read, fields, options);
    }
    const before = encodeWithin(text, "prompt", options), { leading } = tokenizer, ids = [...leading, ...before];
    const read = { ids: ids.length > 0 ? ids : beginning(options), leading: leading.length, text, before };
    return answersTo(read, fields, options);
  });
  return checkLengths(
    {
      prompts,
      maxTokens: fields.max_tokens ?? null,
      defaultTokens: COMPLETION_TOKENS,
      stop: fields.stop ?? [],
      endTokens: [],
      echo: fields.echo ?? false,
      top: fields.logprobs ?? null,
    },
    { field: "prompt", length: "max_tokens" },
    options,
  );
}

/**
 * The job of a chat. Throws `ApiError` 400, for a model with neither chat template nor style too, and
 * `CompressoError("input")` if the template refuses the messages.
 */
export function prepareChat(fields: ChatFields, options: PrepareOptions): Job {
  const { tokenizer, prompt } = options.bench, style = servedStyle(tokenizer);
  const { max_tokens, max_completion_tokens, logprobs, top_logprobs } = fields;
  if (style === null) {
    throw badRequest(
      "this model has no chat template; use /v1/completions, or put chat_template.jinja next to its weights",
      {
        code: "no_chat_template",
      },
    );
  }
  if (max_tokens && max_completion_tokens && max_tokens !== max_completion_tokens) {
    throw badRequest("max_tokens and max_completion_tokens differ; give one of them", { param: "max_tokens" });
  }
  if (top_logprobs && !logprobs) {
    throw badRequest("top_logprobs goes with logprobs: true", { param: "top_logprobs" });
  }
  const messages = fields.messages.map(({ role, content }): ChatMessage => ({
    role: role === "developer" ? "system" : role,
    content: typeof content === "string" ? content : content.map(({ text }) => text).join(""),
  }));
  const field = "messages";
  checkChars(messages.reduce((sum, { content }) => sum + content.length, 0), field, options);
  const ids = style === "chat"
    ? encodeWithin(renderChat(tokenizer, withPrompt(messages, { tokenizer, prompt }), TURN), field, options)
    : encodeTurns(messages, { tokenizer, prompt, style }, options);
  const end = endToken({ tokenizer, prompt: null, style });
  return checkLengths(
    {
      // Some templates put a space before an answer. It is not part of the answer, which is decoded as a separate text.
      prompts: answersTo({ ids, leading: 0, text: "", before: [] }, fields, options),
      maxTokens: max_completion_tokens ?? max_tokens ?? null,
      defaultTokens: CHAT_TOKENS,
      stop: fields.stop ?? [],
      endTokens: end === null ? [] : [end],
      echo: false,
      top: logprobs ? top_logprobs ?? 0 : null,
    },
    { field, length: max_completion_tokens ? "max_completion_tokens" : "max_tokens" },
    options,
  );
}

/** How chats are written: by the chat template if there is one, else in the tokenizer's own style; null for neither. */
export function servedStyle(tokenizer: Tokenizer): PromptStyle | null {
  return tokenizer.chatTemplate === null ? chatStyle(tokenizer) : "chat";
}

/** A conversation in a style without a template. */
function encodeTurns(
  messages: readonly ChatMessage[],
  format: FormatOptions,
  { bench: { model: { spec: { maxPosition } } } }: PrepareOptions,
): readonly number[] {
  // Each question and each answer has at least one token.
  const said = messages.filter(({ role, content }) => role !== "system" && content !== "").length;
  if (said > maxPosition) throw tooLong(maxPosition, `${said} messages have more`, "messages");
  return encodeChatPrompt(messages, format);
}

/** The most characters of a text that one token stands for: a longer text has more tokens than the context, and need not be encoded to know. */
function longestToken(tokenizer: Tokenizer): number {
  let longest = 1;
  for (let id = 0; id < tokenizer.vocabSize; id++) longest = Math.max(longest, tokenizer.idToToken(id)?.length ?? 0);
  return longest;
}

const longest = new WeakMap<Tokenizer, number>();

function checkChars(chars: number, field: string, { bench: { tokenizer, model } }: PrepareOptions): void {
  const most = longest.get(tokenizer) ?? longestToken(tokenizer);
  longest.set(tokenizer, most);
  const { maxPosition } = model.spec;
  if (chars > most * maxPosition) throw tooLong(maxPosition, `a text of ${chars} characters has more`, field);
}

function encodeWithin(text: string, field: string, options: PrepareOptions): number[] {
  checkChars(text.length, field, options);
  return options.bench.tokenizer.encode(text);
}

function checkIds(
  ids: readonly number[],
  { bench: { model: { spec: { vocab } } } }: PrepareOptions,
): readonly number[] {
  const bad = ids.find((id) => id >= vocab);
  if (bad === undefined) return ids;
  throw badRequest(`token ids of this model are below ${vocab}; ${bad} is not`, { param: "prompt" });
}

function beginning({ bench: { model } }: PrepareOptions): readonly number[] {
  const { bosId } = model.spec;
  if (bosId !== null) return [bosId];
  throw badRequest("the prompt is empty, and this model has no token that begins a text", { param: "prompt" });
}

function checkLengths(
  wanted: Omit<Job, "maxTokens"> & { readonly maxTokens: number | null; readonly defaultTokens: number },
  named: { readonly field: string; readonly length: string },
  { bench: { model }, limits }: PrepareOptions,
): Job {
  const { defaultTokens, ...job } = wanted, { maxPosition } = model.spec, { prompts } = job;
  const length = prompts.reduce((most, { ids }) => Math.max(most, ids.length), 0);
  const room = maxPosition - length, asked = job.maxTokens;
  if (room < (asked ?? 1)) {
    const text = `the prompt has ${length}${asked === null ? "" : ` and ${named.length} is ${asked}`}`;
    throw tooLong(maxPosition, text, named.field);
  }
  const sum = prompts.reduce((all, { ids }) => all + ids.length, 0);
  // A default length shrinks to the allowed one.
  const allowed = Math.max(1, Math.floor((limits.tokens - sum) / prompts.length));
  const maxTokens = asked ?? Math.min(defaultTokens, room, allowed);
  const all = sum + prompts.length * maxTokens;
  if (all > limits.tokens) {
    throw tooManyTokens(String(all), { limits });
  }
  return { ...job, maxTokens };
}

function tooManyTokens(asked: string, { limits: { tokens } }: Pick<PrepareOptions, "limits">): Error {
  return badRequest(`this server takes ${tokens} tokens a request, prompts and answers together; asked for ${asked}`, {
    code: "too_many_tokens",
  });
}

/** A prompt once for each answer that is asked for; the answers have seeds one after the other. */
function answersTo(
  prompt: Omit<Prompt, "sampling" | "isCounted">,
  fields: CommonFields,
  options: PrepareOptions,
): Prompt[] {
  const sampling = samplingOf(fields, options), { seed = 0 } = sampling;
  return Array.from({ length: fields.n ?? 1 }, (_, index) => ({
    ...prompt,
    sampling: { ...sampling, seed: (seed + index) % (MAX_SEED + 1) },
    isCounted: index === 0,
  }));
}

function samplingOf(
  { temperature, top_p, top_k, repetition_penalty, frequency_penalty, presence_penalty, seed }: CommonFields,
  { bench }: PrepareOptions,
): SamplingOptions {
  return {
    temperature: temperature ?? bench.temperature,
    topP: top_p ?? 1,
    topK: top_k ?? 0,
    repetitionPenalty: repetition_penalty ?? 1,
    frequencyPenalty: frequency_penalty ?? 0,
    presencePenalty: presence_penalty ?? 0,
    seed: seed ?? crypto.getRandomValues(new Uint32Array(1))[0] ?? 0,
  };
}

function isNumbers(prompt: readonly unknown[]): prompt is readonly number[] {
  return typeof prompt[0] === "number";
}

function tooLong(context: number, text: string, param: string): ReturnType<typeof badRequest> {
  return badRequest(`this model's context holds ${context} tokens; ${text}`, {
    param,
    code: "context_length_exceeded",
  });
}
