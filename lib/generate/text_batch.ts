// Decodes texts together: they share the steps of one model, and join and leave between tokens.
import { CompressoError } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import {
  type BatchSequence,
  createDecodeBatch,
  type DecodeBatch,
  MOST_SEQUENCES,
  pagesWithin,
} from "../nn/decode/batch.ts";
import { pagesOf, tokensOf } from "../nn/decode/cache.ts";
import { notFinite } from "../nn/decode/pass.ts";
import { writeAdapters } from "../model/input.ts";
import type { Adapters, Model } from "../model/model.ts";
import {
  checkMaxTokens,
  checkPrompt,
  type FinishReason,
  GENERATE_NAMES,
  type GenerateOptions,
  roomFor,
} from "./generate.ts";
import { createPrefixes, isSamePrompt, type Prefixes } from "./prefixes.ts";
import { checkSampling, createSampler, drawSettings } from "./sampling.ts";
import { createTurns } from "./turns.ts";

/** Options of a text of {@link createTextBatch}. */
export type BatchTextOptions = Omit<GenerateOptions, "adapters" | "readsAhead">;

/** Options of {@link createTextBatch}. */
export interface TextBatchOptions {
  /** Texts that are decoded at once, from 1 to 32; the others wait in order. Default 8. */
  readonly sequences?: number;
  /** Largest number of tokens of a prompt and its text. Default: the model's context. */
  readonly capacity?: number;
  /** Bytes of the KV cache. Default: what `sequences` texts of 1,024 tokens take, at most 1 GiB or half of what a memory limit leaves. */
  readonly cacheBytes?: number;
  /** Masks and LoRA. */
  readonly adapters?: Adapters;
}

const NAMES: NamesOf<TextBatchOptions> = {
  sequences: "number",
  capacity: "number",
  cacheBytes: "number",
  adapters: true,
};

const { adapters: _adapters, readsAhead: _readsAhead, ...TEXT_NAMES } = GENERATE_NAMES;

/** Texts under way on one model. Dispose it to free its KV cache; texts in progress then fail. */
export interface TextBatch extends AsyncDisposable {
  /**
   * Like `generate`: the same tokens, whatever other texts are under way. Each read of a token may be ahead of its use.
   * Equal prompts are read once, also those of texts that have ended while their place in the KV cache is not needed.
   *
   * @throws CompressoError("gpu") if prompt and text do not fit the KV cache, and what `generate` throws.
   */
  generate(promptTokens: readonly number[], options: BatchTextOptions): AsyncGenerator<number, FinishReason, undefined>;
}

/** Texts that are decoded at once without another number. */
export const DEFAULT_SEQUENCES = 8;
/** Tokens of a text for which the KV cache has room by default. */
const DEFAULT_TOKENS = 1024;
/** Wanted time between two reads of tokens, and the most tokens between them. */
const GROUP_SECONDS = 0.1, GROUP_TOKENS = 64;
/** Time in which a prompt is read between two groups of tokens. */
const READING_SECONDS = 0.1;

/** A text, from its place in the line to its end. */
interface Text {
  readonly prompt: readonly number[];
  readonly options: BatchTextOptions;
  /** Tokens of prompt and text. */
  readonly seen: number[];
  readonly sequence: { current: BatchSequence | null };
  readonly tokens: number[];
  /** The token that is read next. */
  last: number;
  /** Tokens that may still come. */
  left: number;
  end: { readonly reason: FinishReason } | { readonly error: unknown } | null;
  /** Called when there is a token or an end. */
  wake: () => void;
}

/**
 * Decodes texts together. Memory is allocated at the first text. Prompts are read one after the other, in order, while
 * other texts continue.
 *
 * @throws CompressoError("usage") for options out of range.
 */
export function createTextBatch(model: Model, options: TextBatchOptions = {}): TextBatch {
  checkNames(options, NAMES, { whose: "createTextBatch" });
  const { device, weights, spec } = model, { adapters = {}, cacheBytes } = options;
  const { sequences = DEFAULT_SEQUENCES, capacity: longest = spec.maxPosition } = options;
  checkSizes({ sequences, longest });
  const line: Text[] = [], ready: Text[] = [], turns = createTurns();
  let active: Text[] = [], isOver = false, working: Promise<void> | null = null;
  /** The text whose prompt is read, and the end of that. */
  let reading: { readonly text: Text; readonly done: Promise<void> } | null = null;
  /** Whether a text has come since the line was looked at. */
  let hasNews = false;
  /** Tokens between two reads. */
  let size = 1;
  let change = Promise.withResolvers<void>();
  const changed = (): void => {
    change.resolve();
    change = Promise.withResolvers();
  };

  return {
    generate(promptTokens, own): AsyncGenerator<number, FinishReason, undefined> {
      checkNames(own, TEXT_NAMES, { whose: "generate" });
      checkMaxTokens(own.maxTokens);
      checkSampling(own);
      return stream(checkPrompt(spec, promptTokens), own);
    },
    async [Symbol.asyncDispose](): Promise<void> {
      isOver = true;
      changed();
      await working?.catch(() => {});
    },
  };

  async function* stream(
    prompt: readonly number[],
    own: BatchTextOptions,
  ): AsyncGenerator<number, FinishReason, undefined> {
    const { signal } = own;
    signal?.throwIfAborted();
    if (isOver) throw stopped();
    let awake = Promise.withResolvers<void>();
    const count = roomFor(spec, prompt, { ...own });
    const text: Text = {
      prompt,
      options: own,
      seen: [...prompt],
      sequence: { current: null },
      tokens: [],
      last: prompt.at(-1) ?? 0,
      left: count,
      end: null,
      wake(): void {
        awake.resolve();
        awake = Promise.withResolvers();
      },
    };
    const onAbort = (): void => finish(text, { error: signal?.reason });
    signal?.addEventListener("abort", onAbort);
    line.push(text);
    hasNews = true;
    begin();
    changed();
    try {
      for (;;) {
        signal?.throwIfAborted();
        const token = text.tokens.shift();
        if (token !== undefined) {
          yield token;
          continue;
        }
        if (text.end && "error" in text.end) throw text.end.error;
        if (text.end) return text.end.reason;
        await awake.promise;
      }
    } finally {
      signal?.removeEventListener("abort", onAbort);
      finish(text, { reason: "stop" });
    }
  }

  function begin(): void {
    working ??= work().finally(() => {
      working = null;
      if (line.length > 0) begin(); // after an error, for texts that came since
    });
  }

  /** Decodes until the end. */
  async function work(): Promise<void> {
    using stack = new DisposableStack();
    try {
      stack.use(model.enter());
      await model.release(); // what scoring has left there may be what the caches need
      const batch = stack.use(openBatch());
      const prefixes = createPrefixes();
      const start = (): boolean => {
        leave(prefixes);
        hasNews = false;
        const isReading = readNext({ ...batch, prefixes });
        active.push(...ready.splice(0));
        return isReading;
      };
      while (!isOver) {
        const isReading = start();
        if (active.length > 0) {
          if (reading) {
            // In turns: a long prompt does not stop the texts, nor they the prompt.
            await turns.give(READING_SECONDS, reading.done);
            start();
          }
          if (active.length > 0) await decode(batch.batch);
        } else if (isReading || line.length > 0) {
          turns.begin();
          await change.promise;
          turns.end();
        } else await idle();
      }
      throw stopped();
    } catch (error) {
      for (const text of [...line.splice(0), ...ready.splice(0), ...active, ...(reading ? [reading.text] : [])]) {
        finish(text, { error });
      }
      turns.begin();
      await reading?.done;
      turns.end();
      active = [];
    }
  }

  /** Waits for a text, or for the end. */
  async function idle(): Promise<void> {
    if (line.length === 0 && !isOver) await change.promise;
  }

  function openBatch(): { readonly batch: DecodeBatch; readonly capacity: number } & Disposable {
    const wanted = Math.max(pagesOf(longest), sequences * pagesOf(Math.min(longest, DEFAULT_TOKENS)));
    const most = pagesWithin(device, weights, { bytes: cacheBytes, sequences, capacity: longest });
    const pages = cacheBytes === undefined ? Math.min(wanted, most) : most;
    const capacity = Math.min(longest, tokensOf(pages));
    const batch = createDecodeBatch(device, weights, { sequences, capacity, pages, lora: adapters.lora ?? null });
    try {
      writeAdapters(device, batch, { ...adapters, spec });
      return { batch, capacity, [Symbol.dispose]: () => batch[Symbol.dispose]() };
    } catch (error) {
      batch[Symbol.dispose]();
      throw error;
    }
  }

  /** Removes texts that have ended; their pages may be taken again. */
  function leave(prefixes: Prefixes): void {
    for (const { prompt, sequence } of [...active, ...ready].filter(({ end }) => end)) {
      if (sequence.current) prefixes.keep(prompt, sequence.current);
      sequence.current = null;
    }
    active = active.filter(({ end }) => !end);
    ready.splice(0, ready.length, ...ready.filter(({ end }) => !end));
    line.splice(0, line.length, ...line.filter(({ end }) => !end));
  }

  /** Begins to read the first prompt of the line where there is room; nobody overtakes it. Returns whether one is read. */
  function readNext(
    own: { readonly batch: DecodeBatch; readonly capacity: number; readonly prefixes: Prefixes },
  ): boolean {
    const [text] = line, { batch, capacity, prefixes } = own;
    if (reading || !text || active.length + ready.length >= sequences) return reading !== null;
    const tokens = text.prompt.length - 1 + text.left;
    if (tokens > capacity) {
      line.shift();
      finish(text, { error: tooLong(tokens, capacity) });
      return readNext(own);
    }
    const found = place(text, { batch, tokens, prefixes });
    if (!found) return false;
    line.shift();
    const { sequence, isRead } = found;
    text.sequence.current = sequence;
    if (isRead) {
      ready.push(text);
      return readNext(own);
    }
    const { signal } = text.options;
    const done = sequence.prefill(text.prompt.slice(0, -1), { signal, turn: turns.wait }).then(
      () => {
        ready.push(text);
      },
      (error) => {
        finish(text, { error });
        text.sequence.current = null;
        sequence[Symbol.dispose]();
      },
    ).finally(() => {
      reading = null;
      changed();
    });
    reading = { text, done };
    return true;
  }

  /** A place for a text in the KV cache, behind an equal prompt if there is one. Null if it must wait for room. */
  function place(
    { prompt }: Text,
    { batch, tokens, prefixes }: {
      readonly batch: DecodeBatch;
      readonly tokens: number;
      readonly prefixes: Prefixes;
    },
  ): { readonly sequence: BatchSequence; readonly isRead: boolean } | null {
    do {
      const same = [...active, ...ready].find((other) => isSamePrompt(other.prompt, prompt));
      const isHeld = (one: BatchSequence | null | undefined): boolean => one?.holds(prompt.length - 1) ?? false;
      const [read = null] = [same?.sequence.current ?? null, prefixes.find(prompt)].filter(isHeld);
      const sequence = read ? read.fork(prompt.length - 1, { capacity: tokens }) : batch.open(tokens);
      if (sequence) return { sequence, isRead: read !== null };
    } while (prefixes.drop());
    return null;
  }

  /** Decodes tokens of the active texts until one of them ends or another one has come. */
  async function decode(batch: DecodeBatch): Promise<void> {
    const texts = [...active];
    const rows = texts.flatMap(({ sequence: { current }, last, options, seen }) =>
      current ? [{ sequence: current, token: last, draw: drawSettings(options, seen) }] : []
    );
    if (texts.some(({ options: { onChoice } }) => onChoice)) {
      const logits = await batch.logits(rows);
      texts.forEach((text, row) => choose(text, logits[row] ?? NOTHING, rows[row]?.sequence.length ?? 0));
      return;
    }
    let left = Math.min(...texts.map((text) => text.left));
    const start = (first: typeof rows | null): ReturnType<DecodeBatch["next"]> => {
      const count = Math.min(size, left), group = batch.next(first, { count });
      group.catch(() => {}); // it may fail before it is awaited
      left -= count;
      return group;
    };
    for (let group: ReturnType<DecodeBatch["next"]> | null = start(rows); group;) {
      const current = group, from = performance.now();
      const isStable = left > 0 && !isOver && !hasNews && !reading && ready.length === 0 &&
        texts.every(({ end }) => !end);
      group = isStable ? start(null) : null;
      const picks = await current, seconds = (performance.now() - from) / 1000;
      if (seconds < GROUP_SECONDS / 2) size = Math.min(GROUP_TOKENS, 2 * size);
      else if (seconds > GROUP_SECONDS) size = Math.max(1, Math.floor(size / 2));
      texts.forEach((text, row) => {
        const own = picks[row];
        if (!own) finish(text, { error: notFinite() });
        own?.forEach((id) => take(text, id));
      });
    }
  }

  /** Samples the next token of a text. */
  function choose(text: Text, logits: Float32Array, position: number): void {
    if (text.end) return;
    try {
      const { options, seen } = text, id = createSampler(options, seen).choose(logits, position);
      options.onChoice?.(id, logits);
      take(text, id);
    } catch (error) {
      finish(text, { error });
    }
  }

  function take(text: Text, id: number): void {
    if (text.end) return;
    const { endTokens = [], maxTokens } = text.options;
    if (spec.eosIds.includes(id) || endTokens.includes(id)) return finish(text, { reason: "end" });
    text.tokens.push(id);
    text.seen.push(id);
    text.last = id;
    if (--text.left > 0) return text.wake();
    finish(text, { reason: roomFor(spec, text.prompt, { maxTokens }) < maxTokens ? "context" : "length" });
  }

  /** Ends a text, once. */
  function finish(text: Text, end: NonNullable<Text["end"]>): void {
    if (text.end) return;
    text.end = end;
    text.wake();
    changed();
  }
}

const NOTHING = new Float32Array(0);

function checkSizes({ sequences, longest }: { readonly sequences: number; readonly longest: number }): void {
  const fail = (rule: string, value: number): never => {
    const fix = "change it, or leave it out for the default";
    throw new CompressoError("usage", { what: "cannot decode texts together", rule, value: String(value), fix });
  };
  if (!Number.isInteger(sequences) || sequences < 1 || sequences > MOST_SEQUENCES) {
    fail(`sequences is a whole number from 1 to ${MOST_SEQUENCES}`, sequences);
  }
  if (!Number.isInteger(longest) || longest < 1) fail("capacity is a whole number, at least 1", longest);
}

function tooLong(tokens: number, capacity: number): CompressoError {
  return new CompressoError("gpu", {
    what: "cannot generate this text",
    rule: `prompt and text fit the KV cache, ${capacity} tokens`,
    value: `${tokens} tokens`,
    fix: "ask for fewer tokens, or raise the memory limit",
  });
}

function stopped(): CompressoError {
  return new CompressoError("usage", {
    what: "cannot use the batch of texts",
    rule: "it works until it is disposed",
    value: "it was disposed",
    fix: "dispose it after its last text",
  });
}
