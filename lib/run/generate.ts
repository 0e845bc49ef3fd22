// Generation: a prompt continued token by token. Owns the choice of the next token and when to stop; refuses chat templates.
import { CompressoError } from "../errors.ts";
import { createStreamDecoder } from "../io/tokenizer.ts";
import { createDecodePass, type DecodePass, notFinite } from "../nn/decode_pass.ts";
import { packLora } from "../nn/lora.ts";
import { packMasks } from "../nn/masks.ts";
import type { DecoderSpec } from "../nn/spec.ts";
import { checkSeed, uniform } from "../random.ts";
import type { Adapters, Model } from "./model.ts";

/** Options of {@link generate} and {@link generateText}. */
export interface GenerateOptions {
  /** Tokens to generate at most. */
  readonly maxTokens: number;
  /** 0 always takes the most likely token; else tokens are drawn from softmax(logits / temperature). Default 0. */
  readonly temperature?: number;
  /** Seed of the draws, which depend on it and the token's position alone. Default 0. */
  readonly seed?: number;
  /** Masks and LoRA. */
  readonly adapters?: Adapters;
  /** Stops the work. */
  readonly signal?: AbortSignal;
}

/** Wanted time between two reads of greedy tokens. */
const GROUP_SECONDS = 0.1;
/** Tokens between two reads, at most. */
const GROUP_TOKENS = 64;
/** Stream of the random numbers that choose tokens. */
const STREAM = 0x6e78;

/**
 * Continues a prompt of token ids; an empty one stands for BOS. Ends before an end token of the model, after `maxTokens`,
 * or where prompt and continuation fill the model's context. The same seed gives the same tokens.
 *
 * @throws CompressoError("usage") for options out of range; "input" for an empty prompt without BOS, one that fills the context,
 * and ids outside the vocabulary; "numeric" where the logits are not finite.
 */
export function generate(
  model: Model,
  promptTokens: readonly number[],
  options: GenerateOptions,
): AsyncGenerator<number, void, undefined> {
  const { maxTokens, temperature = 0, seed = 0 } = options;
  checkOptions({ maxTokens, temperature });
  checkSeed(seed);
  const prompt = checkPrompt(model.spec, promptTokens);
  const count = Math.min(maxTokens, model.spec.maxPosition - prompt.length);
  return continuation(model, prompt, { ...options, count, temperature, seed });
}

/**
 * Continues a text, piece by piece; a piece is whole characters, special tokens are left out. The prompt begins with the
 * tokens that the tokenizer puts before a text, and does not end with those that it puts after one.
 *
 * @throws CompressoError("input") for a model without tokenizer, and what {@link generate} throws.
 */
export function generateText(
  model: Model,
  prompt: string,
  options: GenerateOptions,
): AsyncGenerator<string, void, undefined> {
  const { tokenizer } = model;
  if (!tokenizer) {
    throw new CompressoError("input", {
      what: "cannot generate text",
      rule: "a model needs a tokenizer to read and write text",
      value: "this one has none",
      mend: "put tokenizer.json beside the weights",
    });
  }
  const tokens = generate(model, [...tokenizer.leading, ...tokenizer.encode(prompt)], options);
  const decoder = createStreamDecoder(tokenizer, { skipSpecial: true });
  return pieces();

  async function* pieces(): AsyncGenerator<string, void, undefined> {
    for await (const token of tokens) {
      const text = decoder.push(token);
      if (text !== "") yield text;
    }
    const rest = decoder.end();
    if (rest !== "") yield rest;
  }
}

/** Index drawn from softmax(logits / temperature) by a uniform number u in (0, 1). Throws `CompressoError("numeric")` where a logit is not finite. */
export function sampleToken(
  logits: Float32Array,
  { temperature, u }: { readonly temperature: number; readonly u: number },
): number {
  let top = -Infinity;
  for (const logit of logits) {
    if (!Number.isFinite(logit)) throw notFinite();
    top = Math.max(top, logit);
  }
  let total = 0;
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - top) / temperature));
  for (const weight of weights) total += weight;
  let left = u * total, last = 0;
  for (const [id, weight] of weights.entries()) {
    if (weight === 0) continue;
    last = id;
    left -= weight;
    if (left < 0) break;
  }
  return last; // rounding may leave a rest: then the last token that can be drawn
}

async function* continuation(
  model: Model,
  prompt: readonly number[],
  options: GenerateOptions & { readonly count: number; readonly temperature: number; readonly seed: number },
): AsyncGenerator<number, void, undefined> {
  const { count, temperature, seed, adapters = {}, signal } = options;
  const { device, weights, spec } = model, { lora, masks = {} } = adapters;
  signal?.throwIfAborted();
  using pass = createDecodePass(device, weights, { capacity: prompt.length + count, lora: lora ?? null });
  device.write(pass.masks.z, packMasks(spec, pass.masks.layout, masks));
  if (lora && pass.lora) device.write(pass.lora.params, packLora(spec, pass.lora, lora.weights));
  await pass.prefill(prompt.slice(0, -1), { signal });
  const last = prompt.at(-1) ?? 0;
  const tokens = temperature === 0
    ? greedyTokens(pass, last, { count, signal })
    : sampledTokens(pass, last, { count, temperature, seed, signal });
  for await (const id of tokens) {
    if (spec.eosIds.includes(id)) return;
    yield id;
  }
}

/**
 * Greedy tokens in groups that grow until one takes {@link GROUP_SECONDS}. While one group is read the next is under way, as if no token
 * ended the text; if one does, that work is given up.
 */
async function* greedyTokens(
  pass: DecodePass,
  token: number,
  { count, signal }: { readonly count: number; readonly signal: AbortSignal | undefined },
): AsyncGenerator<number, void, undefined> {
  const end = new AbortController();
  const either = signal ? AbortSignal.any([signal, end.signal]) : end.signal;
  let size = 1, left = count;
  const start = (first: number | null): Promise<number[]> => {
    const group = pass.greedy(first, { count: Math.min(size, left), signal: either });
    group.catch(() => {}); // it may fail before it is awaited
    left -= Math.min(size, left);
    return group;
  };
  let group: Promise<number[]> | null = start(token);
  try {
    while (group) {
      const current: Promise<number[]> = group, from = performance.now();
      group = left > 0 ? start(null) : null;
      const ids = await current;
      const seconds = (performance.now() - from) / 1000;
      if (seconds < GROUP_SECONDS / 2) size = Math.min(GROUP_TOKENS, 2 * size);
      else if (seconds > GROUP_SECONDS) size = Math.max(1, Math.floor(size / 2));
      yield* ids;
    }
  } finally {
    end.abort();
    await group?.catch(() => {});
  }
}

async function* sampledTokens(
  pass: DecodePass,
  token: number,
  { count, temperature, seed, signal }: {
    readonly count: number;
    readonly temperature: number;
    readonly seed: number;
    readonly signal: AbortSignal | undefined;
  },
): AsyncGenerator<number, void, undefined> {
  for (let left = count, last = token; left > 0; left--) {
    const logits = await pass.logits(last, { signal });
    last = sampleToken(logits, { temperature, u: uniform(seed, STREAM, pass.length) });
    yield last;
  }
}

function checkPrompt({ vocab, bosId, maxPosition }: DecoderSpec, tokens: readonly number[]): readonly number[] {
  const what = "cannot continue this prompt";
  if (tokens.length === 0) {
    if (bosId !== null) return [bosId];
    throw new CompressoError("input", {
      what,
      rule: "a model without BOS token needs a prompt",
      value: "an empty prompt",
      mend: "give at least one token",
    });
  }
  if (tokens.length >= maxPosition) {
    throw new CompressoError("input", {
      what,
      rule: `it is shorter than the model's context of ${maxPosition} tokens`,
      value: `${tokens.length} tokens`,
      mend: "shorten the prompt",
    });
  }
  const bad = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= vocab);
  if (bad === undefined) return [...tokens];
  throw new CompressoError("input", {
    what,
    rule: `token ids lie in [0, ${vocab})`,
    value: String(bad),
    mend: "use the tokenizer of this model",
  });
}

function checkOptions({ maxTokens, temperature }: { readonly maxTokens: number; readonly temperature: number }): void {
  const fail = (rule: string, value: number): never => {
    throw new CompressoError("usage", { what: "cannot generate with these settings", rule, value: String(value) });
  };
  if (!Number.isInteger(maxTokens) || maxTokens < 1) fail("maxTokens is a whole number, at least 1", maxTokens);
  if (!Number.isFinite(temperature) || temperature < 0) fail("temperature is a number, at least 0", temperature);
}
