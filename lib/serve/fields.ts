// The fields of requests, by OpenAI's names, with their ranges. A field that would change nothing is refused.
//
// A field that this server does not support is an error, unless its value asks for nothing.
import { z } from "../core/packages.ts";

/** Largest number of most likely tokens that a request may ask for. */
const MOST_TOP = 20;
/** Strings that may end an answer. */
const MOST_STOPS = 16;

/** Answers that a request may ask for to each prompt. */
const MOST_ANSWERS = 128;

const whole = (least: number, most = 2 ** 31 - 1): z.ZodInt =>
  z.int(`must be a whole number from ${least} to ${most}`).min(least, `must be at least ${least}`).max(
    most,
    `must be at most ${most}`,
  );
const only = <T extends string | number | boolean>(value: T): z.ZodOptional<z.ZodNullable<z.ZodLiteral<T>>> =>
  z.literal(value, `only ${JSON.stringify(value)} is supported`).nullable().optional();
const none = z.record(z.string(), z.never("is not supported")).nullable().optional();
const nothing = z.null("is not supported").optional();

const stops = z.union([z.string(), z.array(z.string())], "must be a string or an array of strings")
  .transform((stop) => typeof stop === "string" ? [stop] : stop)
  .refine((stop) => stop.length <= MOST_STOPS, `may have at most ${MOST_STOPS} strings`)
  .refine((stop) => stop.every((text) => text !== ""), "must not hold an empty string");

const penalty = z.number("must be a number").min(-2, "must be at least -2").max(2, "must be at most 2").nullish();

const common = {
  model: z.string("must name a model"),
  temperature: z.number("must be a number").min(0, "must be at least 0").max(2, "must be at most 2").nullish(),
  top_p: z.number("must be a number").gt(0, "must be above 0").max(1, "must be at most 1").nullish(),
  top_k: whole(1).nullish(),
  repetition_penalty: z.number("must be a number").gt(0, "must be above 0").nullish(),
  seed: whole(0, 2 ** 32 - 1).nullish(),
  stop: stops.nullish(),
  stream: z.boolean("must be true or false").nullish(),
  stream_options: z.strictObject({ include_usage: z.boolean().optional() }).nullish(),
  n: whole(1, MOST_ANSWERS).nullish(),
  frequency_penalty: penalty,
  presence_penalty: penalty,
  logit_bias: none,
  // Who asks: it has no part in the answer.
  user: z.string().nullish(),
};

const ids = z.array(whole(0)).min(1, "must not be empty");

/** Fields of `POST /v1/completions`. */
export const completionFields = z.strictObject({
  ...common,
  prompt: z.union(
    [z.string(), ids, z.array(z.string()).min(1), z.array(ids).min(1)],
    "must be a string, token ids, or an array of one of these, none empty",
  ),
  max_tokens: whole(0).nullish(),
  echo: z.boolean("must be true or false").nullish(),
  logprobs: whole(0, MOST_TOP).nullish(),
  best_of: only(1),
  suffix: only(""),
}, "must be a JSON object");

/** A checked completion request. */
export type CompletionFields = z.infer<typeof completionFields>;

const textPart = z.strictObject({ type: z.literal("text", "only text is supported"), text: z.string() });

const tools = z.array(z.never("tools are not supported")).nullish();

const message = z.strictObject({
  role: z.enum(["system", "developer", "user", "assistant"], "must be system, developer, user or assistant"),
  content: z.union([z.string(), z.array(textPart)], "must be a string or an array of text parts"),
  // lm-eval sends it along with the content.
  type: only("text"),
  // As `user`.
  name: z.string("must be a string").nullish(),
  // Clients send answers back as they got them, with all fields that an answer may have.
  refusal: nothing,
  tool_calls: tools,
  function_call: nothing,
  audio: nothing,
  annotations: z.array(z.never("is not supported")).nullish(),
});

/** Fields of `POST /v1/chat/completions`. */
export const chatFields = z.strictObject({
  ...common,
  messages: z.array(message, "must be an array of messages").min(1, "must not be empty"),
  max_tokens: whole(1).nullish(),
  max_completion_tokens: whole(1).nullish(),
  logprobs: z.boolean("must be true or false").nullish(),
  top_logprobs: whole(0, MOST_TOP).nullish(),
  response_format: z.strictObject({ type: z.literal("text", "only text is supported") }).nullish(),
  tools,
  tool_choice: z.enum(["none", "auto"], "tools are not supported").nullish(),
}, "must be a JSON object");

/** A checked chat request. */
export type ChatFields = z.infer<typeof chatFields>;

/** Fields that both kinds of requests share. */
export type CommonFields = Pick<CompletionFields, keyof typeof common>;
