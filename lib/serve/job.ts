// What a request asks of the model, and its work piece by piece: echo, log-probabilities and the end of a text.
import type { Tokenizer } from "../text/tokenizer.ts";
import type { FinishReason } from "../generate/generate.ts";
import type { TextBatch } from "../generate/text_batch.ts";
import { continuationDecoder, specialIds, streamText } from "../generate/text.ts";
import { type LikelyToken, type PlaceLogprobs, placeLogprobs, tokenLogprobs } from "../eval/logprobs.ts";
import type { Adapters, Model } from "../model/model.ts";
import { isGreedy, type SamplingOptions } from "../generate/sampling.ts";
import { codePoints, createTracker, type Labels } from "./labels.ts";

/** A text to continue. */
export interface Prompt {
  readonly ids: readonly number[];
  /** How many of them the tokenizer put before the text; they are no part of `text`. */
  readonly leading: number;
  readonly text: string;
  /** Tokens of the text that the answer continues; none where the answer is a text by itself. */
  readonly before: readonly number[];
  readonly sampling: SamplingOptions;
  /** Whether its tokens are counted in `usage`: a prompt with several answers counts once. */
  readonly isCounted: boolean;
}

/** All that a request asks for. */
export interface Job {
  readonly prompts: readonly Prompt[];
  /** Tokens to generate for each at most, 0 for none. */
  readonly maxTokens: number;
  readonly stop: readonly string[];
  readonly endTokens: readonly number[];
  /** Whether the answer begins with the prompt. */
  readonly echo: boolean;
  /** Likely tokens wanted at each place; null for no log-probabilities. */
  readonly top: number | null;
}

/** A token in an answer. */
export interface TokenEntry {
  readonly id: number;
  /** Where its text begins, in code points. */
  readonly offset: number;
  /** In nats, of the model itself: before temperature and the like. Null for the first token of all. */
  readonly logprob: number | null;
  readonly top: readonly LikelyToken[];
}

/** A piece of an answer. */
export interface Piece {
  /** Of the prompt. */
  readonly index: number;
  readonly text: string;
  /** Empty unless log-probabilities were asked for. */
  readonly tokens: readonly TokenEntry[];
  /** Set in the last piece of a prompt's answer. */
  readonly finish: "stop" | "length" | null;
}

/** Tokens read and written. */
export interface Usage {
  promptTokens: number;
  completionTokens: number;
}

/** What a job is done with. */
export interface Workbench {
  readonly model: Model;
  readonly tokenizer: Tokenizer;
  readonly adapters: Adapters;
  /** Decodes the texts of all requests, with the adapters. */
  readonly texts: TextBatch;
  /** Texts of one request that are decoded at once. */
  readonly parallel: number;
  readonly labels: Labels;
  /** Text before every chat; null for none. */
  readonly prompt: string | null;
  /** Temperature of requests that give none. */
  readonly temperature: number;
}

/** Does a job: the prompts together, each ending with a piece that says why. Counts tokens in `usage` as it goes. */
export async function* runJob(
  bench: Workbench,
  job: Job,
  { usage, signal }: { readonly usage: Usage; readonly signal: AbortSignal },
): AsyncGenerator<Piece, void, undefined> {
  const { prompts, echo, top } = job, { model, adapters, parallel } = bench;
  // The prompt's log-probabilities include the likeliest next token. A scoring client asks for no more, so one pass is enough.
  const scored = echo && top !== null
    ? await tokenLogprobs(model, prompts.map(({ ids }) => ids), { top: Math.max(1, top), adapters, signal })
    : null;
  const answers = prompts.map((prompt, index) => () =>
    answer(bench, job, { index, prompt, places: scored?.[index] ?? null, usage, signal })
  );
  yield* together(answers, parallel);
}

/** The answer to one prompt. */
async function* answer(
  bench: Workbench,
  job: Job,
  { index, prompt, places, usage, signal }: {
    readonly index: number;
    readonly prompt: Prompt;
    /** Log-probabilities of the prompt, where they were asked for. */
    readonly places: readonly PlaceLogprobs[] | null;
    readonly usage: Usage;
    readonly signal: AbortSignal;
  },
): AsyncGenerator<Piece, void, undefined> {
  const { echo, top, maxTokens } = job;
  if (prompt.isCounted) usage.promptTokens += prompt.ids.length;
  const start = echo ? codePoints(prompt.text) : 0;
  const tokens = places ? promptEntries(bench, { prompt, places, top: top ?? 0 }) : [];
  const echoed: Piece = { index, text: echo ? prompt.text : "", tokens, finish: maxTokens === 0 ? "length" : null };
  if (maxTokens === 0) {
    yield echoed;
    return;
  }
  const next = places?.at(-1)?.top[0];
  if (places && next && maxTokens === 1 && job.stop.length === 0 && isGreedy(prompt.sampling)) {
    const isEnd = isEndToken(bench, job, next.id);
    const entry = {
      id: next.id,
      offset: start,
      logprob: next.logprob,
      top: places.at(-1)?.top.slice(0, top ?? 0) ?? [],
    };
    if (!isEnd) usage.completionTokens++;
    const text = isEnd ? "" : textOf(bench, prompt, next.id);
    yield echoed;
    yield { index, text, tokens: [entry], finish: isEnd ? "stop" : "length" };
    return;
  }
  const pieces = continuation(bench, job, { index, prompt, start, usage, signal });
  try {
    // The echo waits for the first piece of the answer, so that an error still comes before any text.
    const first = await pieces.next();
    if (echo) yield echoed;
    if (!first.done) yield first.value;
    yield* pieces;
  } finally {
    await pieces.return();
  }
}

/** What generators yield, as it comes; `most` of them are under way at once. */
async function* together<T>(
  sources: readonly (() => AsyncGenerator<T, void, undefined>)[],
  most: number,
): AsyncGenerator<T, void, undefined> {
  const waiting = [...sources], open = new Map<AsyncGenerator<T, void, undefined>, Promise<() => boolean>>();
  const found: T[] = [];
  const advance = (source: AsyncGenerator<T, void, undefined>): void =>
    void open.set(
      source,
      source.next().then(({ done, value }) => () => {
        if (done) return open.delete(source);
        found.push(value);
        advance(source);
        return true;
      }),
    );
  try {
    for (;;) {
      while (open.size < most && waiting.length > 0) waiting.splice(0, 1).forEach((make) => advance(make()));
      if (open.size === 0) return;
      (await Promise.race(open.values()))();
      yield* found.splice(0);
    }
  } finally {
    for (const step of open.values()) step.catch(() => {}); // one failed already, or nobody listens any more
    await Promise.all([...open.keys()].map((source) => source.return()));
  }
}

async function* continuation(
  bench: Workbench,
  job: Job,
  { index, prompt, start, usage, signal }: {
    readonly index: number;
    readonly prompt: Prompt;
    /** Where the answer begins. */
    readonly start: number;
    readonly usage: Usage;
    readonly signal: AbortSignal;
  },
): AsyncGenerator<Piece, void, undefined> {
  const { texts, tokenizer } = bench, { maxTokens, stop, endTokens, top } = job;
  const { before } = prompt, tracker = createTracker(tokenizer, { start, before, skipSpecial: true });
  const stopIds = specialIds(tokenizer, stop);
  let waiting: TokenEntry[] = [], end = start;
  const onChoice = (id: number, logits: Float32Array): void => {
    if (stopIds.includes(id) && !isEndToken(bench, job, id)) return; // no part of the answer, as no stop string is
    waiting.push({ id, offset: tracker.at, ...placeLogprobs(logits, { id, top: top ?? 0 }) });
    if (!isEndToken(bench, job, id)) tracker.push(id);
  };
  const tokens = texts.generate(prompt.ids, {
    ...prompt.sampling,
    maxTokens,
    endTokens,
    signal,
    ...(top === null ? {} : { onChoice }),
  });
  const pieces = streamText(tokens, { tokenizer, stop, before, onToken: () => void usage.completionTokens++ });
  // A token belongs to the first piece that holds its beginning. Parts of characters and of stop strings are still held
  // back.
  let reason: FinishReason = "length";
  try {
    for (let next = await pieces.next();; next = await pieces.next()) {
      if (next.done) {
        reason = next.value;
        break;
      }
      end += codePoints(next.value);
      yield { index, text: next.value, tokens: waiting.filter(({ offset }) => offset < end), finish: null };
      waiting = waiting.filter(({ offset }) => offset >= end);
    }
  } finally {
    await pieces.return("stop");
  }
  const isStop = reason === "end" || reason === "stop";
  // What belongs to a stop string is no part of the answer; an end token stands in its list, though it has no text.
  yield { index, text: "", tokens: reason === "stop" ? [] : waiting, finish: isStop ? "stop" : "length" };
}

/** An answer of one token. */
function textOf({ tokenizer }: Workbench, { before }: Prompt, id: number): string {
  const decoder = continuationDecoder(tokenizer, before, { skipSpecial: true });
  return decoder.push(id) + decoder.end();
}

function promptEntries(
  { tokenizer }: Workbench,
  { prompt, places, top }: {
    readonly prompt: Prompt;
    readonly places: readonly PlaceLogprobs[];
    readonly top: number;
  },
): TokenEntry[] {
  const tracker = createTracker(tokenizer, { start: 0, skipSpecial: false });
  return prompt.ids.map((id, place) => {
    const found = places[place];
    const entry = { id, offset: tracker.at, logprob: found?.logprob ?? null, top: found?.top.slice(0, top) ?? [] };
    if (place >= prompt.leading) tracker.push(id);
    return entry;
  });
}

function isEndToken({ model }: Workbench, { endTokens }: Job, id: number): boolean {
  return model.spec.eosIds.includes(id) || endTokens.includes(id);
}
