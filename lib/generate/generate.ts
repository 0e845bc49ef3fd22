// Generation: a prompt continued token by token.
import { refuse } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import type { DrawSettings } from "../nn/decode/choice.ts";
import { createDecodePass, type DecodePass } from "../nn/decode/pass.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import type { Adapters, Model } from "../model/model.ts";
import { writeAdapters } from "../model/input.ts";
import { createSampler, drawSettings, type Sampler, SAMPLING_NAMES, type SamplingOptions } from "./sampling.ts";

/** Options of {@link generate}. */
export interface GenerateOptions extends SamplingOptions {
  /** Tokens to generate at most. */
  readonly maxTokens: number;
  /** Further tokens that end the text, such as the end of a turn in a chat. Default: none. */
  readonly endTokens?: readonly number[] | undefined;
  /**
   * Called with each chosen token, an end token included, and with the model's logits [vocab] at its place.
   * Tokens are then chosen one by one on the CPU, which is slower.
   */
  readonly onChoice?: ((id: number, logits: Float32Array) => void) | undefined;
  /**
   * Whether the GPU continues with likely tokens, if it can, while the caller handles the last ones. Set false to keep
   * it free between two tokens, for models that take turns. Default true.
   */
  readonly readsAhead?: boolean | undefined;
  /** Masks and LoRA. */
  readonly adapters?: Adapters | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
}

/** Names of them. */
export const GENERATE_NAMES: NamesOf<GenerateOptions> = {
  ...SAMPLING_NAMES,
  maxTokens: "number",
  endTokens: true,
  onChoice: true,
  readsAhead: "switch",
  adapters: true,
  signal: true,
};

/** Why a text ended: at an end token, at a stop string, after `maxTokens`, or where the model's context was full. */
export type FinishReason = "end" | "stop" | "length" | "context";

/** Wanted seconds between two reads of tokens. */
const GROUP_SECONDS = 0.1;
/** Most tokens between two reads. */
const GROUP_TOKENS = 64;

/**
 * Continues a prompt of token ids; an empty prompt means BOS. Ends before an end token, after `maxTokens`, or once
 * prompt and continuation fill the model's context; returns the reason. The same seed gives the same tokens.
 *
 * @throws CompressoError("usage") for options out of range or that do not exist.
 * @throws CompressoError("input") for an empty prompt without BOS, a prompt that fills the context, and ids outside the vocabulary.
 * @throws CompressoError("numeric") if the logits are not finite.
 */
export function generate(
  model: Model,
  promptTokens: readonly number[],
  options: GenerateOptions,
): AsyncGenerator<number, FinishReason, undefined> {
  checkNames(options, GENERATE_NAMES, { whose: "generate" });
  checkMaxTokens(options.maxTokens);
  return continuation(model, checkPrompt(model.spec, promptTokens), options);
}

async function* continuation(
  model: Model,
  prompt: readonly number[],
  options: GenerateOptions,
): AsyncGenerator<number, FinishReason, undefined> {
  const { adapters = {}, signal } = options;
  signal?.throwIfAborted();
  using _entered = model.enter();
  using pass = openPass(model, { capacity: prompt.length + roomFor(model.spec, prompt, options), adapters });
  await pass.prefill(prompt.slice(0, -1), { signal });
  return yield* continueTokens(pass, prompt, { ...options, spec: model.spec });
}

/** Tokens that may follow a prompt: `maxTokens`, or fewer where the context ends. */
export function roomFor({ maxPosition }: DecoderSpec, prompt: readonly number[], options: GenerateOptions): number {
  return Math.min(options.maxTokens, maxPosition - prompt.length);
}

/** A pass with the adapters in place, at its beginning. The caller has entered the model. */
export function openPass(
  { device, weights, spec }: Model,
  { capacity, adapters }: { readonly capacity: number; readonly adapters: Adapters },
): DecodePass {
  const pass = createDecodePass(device, weights, { capacity, lora: adapters.lora ?? null });
  try {
    writeAdapters(device, pass, { ...adapters, spec });
    return pass;
  } catch (error) {
    pass[Symbol.dispose]();
    throw error;
  }
}

/** Continues a prompt; the pass has read all of its tokens except the last. */
export async function* continueTokens(
  pass: DecodePass,
  prompt: readonly number[],
  options: GenerateOptions & { readonly spec: DecoderSpec },
): AsyncGenerator<number, FinishReason, undefined> {
  const { spec, maxTokens, endTokens = [], readsAhead = true, onChoice, signal } = options;
  const count = roomFor(spec, prompt, options), last = prompt.at(-1) ?? 0;
  const tokens = onChoice
    ? singleTokens(pass, last, { count, sampler: createSampler(options, prompt), onChoice, signal })
    : groupedTokens(pass, last, { count, draw: drawSettings(options, prompt), readsAhead, signal });
  for await (const id of tokens) {
    if (spec.eosIds.includes(id) || endTokens.includes(id)) return "end";
    yield id;
  }
  return count < maxTokens ? "context" : "length";
}

/**
 * Tokens that the GPU chooses, in groups that grow until a group takes {@link GROUP_SECONDS}. With `readsAhead` the GPU
 * computes the next group while one is read. If a token of the group ends the text, the next group is dropped.
 */
async function* groupedTokens(
  pass: DecodePass,
  token: number,
  { count, draw, readsAhead, signal }: {
    readonly count: number;
    readonly draw: DrawSettings | null;
    readonly readsAhead: boolean;
    readonly signal: AbortSignal | undefined;
  },
): AsyncGenerator<number, void, undefined> {
  const end = new AbortController();
  const either = signal ? AbortSignal.any([signal, end.signal]) : end.signal;
  let size = 1, left = count;
  const start = (first: number | null): Promise<number[]> => {
    const group = pass.next(first, { count: Math.min(size, left), draw, signal: either });
    group.catch(() => {}); // it may fail before it is awaited
    left -= Math.min(size, left);
    return group;
  };
  let group: Promise<number[]> | null = start(token);
  try {
    while (group) {
      const current: Promise<number[]> = group, from = performance.now();
      group = left > 0 && readsAhead ? start(null) : null;
      const ids = await current;
      const seconds = (performance.now() - from) / 1000;
      if (seconds < GROUP_SECONDS / 2) size = Math.min(GROUP_TOKENS, 2 * size);
      else if (seconds > GROUP_SECONDS) size = Math.max(1, Math.floor(size / 2));
      yield* ids;
      if (!group && left > 0) group = start(null);
    }
  } finally {
    end.abort();
    await group?.catch(() => {});
  }
}

async function* singleTokens(
  pass: DecodePass,
  token: number,
  { count, sampler, onChoice, signal }: {
    readonly count: number;
    readonly sampler: Sampler;
    readonly onChoice: NonNullable<GenerateOptions["onChoice"]>;
    readonly signal: AbortSignal | undefined;
  },
): AsyncGenerator<number, void, undefined> {
  for (let left = count, last = token; left > 0; left--) {
    const logits = await pass.logits(last, { signal });
    last = sampler.choose(logits, pass.length);
    onChoice(last, logits);
    yield last;
  }
}

/** The prompt as it is read. See {@link generate} for what it throws. */
export function checkPrompt({ vocab, bosId, maxPosition }: DecoderSpec, tokens: readonly number[]): readonly number[] {
  const what = "cannot continue this prompt";
  if (tokens.length === 0) {
    if (bosId !== null) return [bosId];
    refuse("input", what, {
      rule: "a model without BOS token needs a prompt",
      value: "an empty prompt",
      fix: "give at least one token",
    });
  }
  if (tokens.length >= maxPosition) {
    refuse("input", what, {
      rule: `it is shorter than the model's context of ${maxPosition} tokens`,
      value: `${tokens.length} tokens`,
      fix: "shorten the prompt",
    });
  }
  const bad = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= vocab);
  if (bad === undefined) return [...tokens];
  refuse("input", what, {
    rule: `token ids lie in [0, ${vocab})`,
    value: String(bad),
    fix: "use the tokenizer of this model",
  });
}

/** Throws `CompressoError("usage")` for a number of tokens that cannot be generated. */
export function checkMaxTokens(maxTokens: number): void {
  if (Number.isInteger(maxTokens) && maxTokens >= 1) return;
  refuse("usage", "cannot generate with these settings", {
    rule: "maxTokens is a whole number, at least 1",
    value: maxTokens,
  });
}
