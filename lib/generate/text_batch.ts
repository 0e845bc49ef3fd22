// Decodes texts together: they share the steps of one model, and join and leave between tokens.
import { type CompressoError, refusal, refuse } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import { type BatchSequence, DecodeBatch, MOST_SEQUENCES, pagesWithin } from "../nn/decode/batch.ts";
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
import { createSampler, drawSettings } from "./sampling.ts";
import { createTurns } from "./turns.ts";

/** Options of a text of {@link TextBatch.generate}. */
export type BatchTextOptions = Omit<GenerateOptions, "adapters" | "readsAhead">;

/** Options of {@link TextBatch}. */
export interface TextBatchOptions {
  /** Texts that are decoded at once, from 1 to 32; the others wait in order. Default 8. */
  readonly sequences?: number | undefined;
  /** Largest number of tokens of a prompt and its text. Default: the model's context. */
  readonly capacity?: number | undefined;
  /** Bytes of the KV cache. Default: what `sequences` texts of 1,024 tokens take, at most 1 GiB or half of what a memory limit leaves. */
  readonly cacheBytes?: number | undefined;
  /** Masks and LoRA. */
  readonly adapters?: Adapters | undefined;
}

const NAMES: NamesOf<TextBatchOptions> = {
  sequences: "number",
  capacity: "number",
  cacheBytes: "number",
  adapters: true,
};

const { adapters: _adapters, readsAhead: _readsAhead, ...TEXT_NAMES } = GENERATE_NAMES;

/** Texts that are decoded at once without another number. */
export const DEFAULT_SEQUENCES = 8;
/** Tokens of a text for which the KV cache has room by default. */
const DEFAULT_TOKENS = 1024;
/** Wanted seconds between two reads of tokens, and the most tokens between them. */
const GROUP_SECONDS = 0.1, GROUP_TOKENS = 64;
/** Seconds for reading a prompt between two groups of tokens. */
const READING_SECONDS = 0.1;

/** A text, from its place in the line to its end. */
interface Text {
  readonly prompt: readonly number[];
  readonly options: BatchTextOptions;
  /** Tokens of the text. */
  readonly chosen: number[];
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

/** The batch of a {@link TextBatch} at work: what exists only while there are texts. */
interface Decoding extends Disposable {
  readonly batch: DecodeBatch;
  /** Largest number of tokens of a sequence. */
  readonly capacity: number;
  readonly prefixes: Prefixes;
}

/**
 * Decodes texts together on one model. Memory is allocated at the first text. Prompts are read one after the other, in
 * order, while other texts continue. Dispose it to free its KV cache; texts in progress then fail.
 */
export class TextBatch implements AsyncDisposable {
  readonly #model: Model;
  readonly #sizes: { readonly sequences: number; readonly longest: number; readonly cacheBytes: number | undefined };
  readonly #adapters: Adapters;
  /** Texts that wait, texts whose prompt has been read, and texts that are decoded. */
  readonly #line: Text[] = [];
  readonly #ready: Text[] = [];
  #active: Text[] = [];
  /** The text whose prompt is read, and the end of that. */
  #reading: { readonly text: Text; readonly done: Promise<void> } | null = null;
  readonly #turns = createTurns();
  #working: Promise<void> | null = null;
  #isOver = false;
  /** Whether a text has come since the line was looked at. */
  #hasNews = false;
  /** Tokens between two reads. */
  #size = 1;
  #change = Promise.withResolvers<void>();

  /** Use `createTextBatch`. Throws `CompressoError("usage")` for options out of range. */
  constructor(model: Model, options: TextBatchOptions = {}) {
    checkNames(options, NAMES, { whose: "createTextBatch" });
    const { adapters = {}, cacheBytes, sequences = DEFAULT_SEQUENCES, capacity: longest = model.spec.maxPosition } =
      options;
    checkSizes({ sequences, longest });
    this.#model = model;
    this.#sizes = { sequences, longest, cacheBytes };
    this.#adapters = adapters;
  }

  /**
   * Like `generate`: the same tokens, regardless of other texts. Each read of a token may be ahead of its use. Equal
   * prompts are read once, also those of texts that have ended while their place in the KV cache is not needed.
   *
   * @throws CompressoError("gpu") if prompt and text do not fit the KV cache, and what `generate` throws.
   */
  generate(
    promptTokens: readonly number[],
    options: BatchTextOptions,
  ): AsyncGenerator<number, FinishReason, undefined> {
    checkNames(options, TEXT_NAMES, { whose: "generate" });
    checkMaxTokens(options.maxTokens);
    return this.#stream(checkPrompt(this.#model.spec, promptTokens), options);
  }

  /** Stops all texts, and waits for the end of the current step. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    this.#changed();
    await this.#working?.catch(() => {});
  }

  async *#stream(
    prompt: readonly number[],
    options: BatchTextOptions,
  ): AsyncGenerator<number, FinishReason, undefined> {
    const { signal } = options;
    signal?.throwIfAborted();
    if (this.#isOver) throw stopped();
    let awake = Promise.withResolvers<void>();
    const text: Text = {
      prompt,
      options,
      chosen: [],
      sequence: { current: null },
      tokens: [],
      last: prompt.at(-1) ?? 0,
      left: roomFor(this.#model.spec, prompt, { ...options }),
      end: null,
      wake(): void {
        awake.resolve();
        awake = Promise.withResolvers();
      },
    };
    const onAbort = (): void => this.#finish(text, { error: signal?.reason });
    signal?.addEventListener("abort", onAbort);
    this.#line.push(text);
    this.#hasNews = true;
    this.#begin();
    this.#changed();
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
      this.#finish(text, { reason: "stop" });
    }
  }

  #changed(): void {
    this.#change.resolve();
    this.#change = Promise.withResolvers();
  }

  #begin(): void {
    this.#working ??= this.#work().finally(() => {
      this.#working = null;
      if (this.#line.length > 0) this.#begin(); // after an error, for texts that came since
    });
  }

  /** Decodes until the end. */
  async #work(): Promise<void> {
    using stack = new DisposableStack();
    try {
      stack.use(this.#model.enter());
      await this.#model.release(); // the caches may need the memory that scoring has kept
      const decoding = stack.use(this.#open());
      while (!this.#isOver) await this.#turn(decoding);
      throw stopped();
    } catch (error) {
      const reading = this.#reading, waiting = [...this.#line.splice(0), ...this.#ready.splice(0)];
      for (const text of [...waiting, ...this.#active, ...(reading ? [reading.text] : [])]) {
        this.#finish(text, { error });
      }
      this.#turns.begin();
      await this.#reading?.done;
      this.#turns.end();
      this.#active = [];
    }
  }

  /** Decodes some tokens, reads a part of a prompt, or waits for a text or the end. */
  async #turn(decoding: Decoding): Promise<void> {
    const isReading = this.#start(decoding);
    if (this.#active.length > 0) {
      if (this.#reading) {
        // In turns: a long prompt does not stop the texts, nor they the prompt.
        await this.#turns.give(READING_SECONDS, this.#reading.done);
        this.#start(decoding);
      }
      if (this.#active.length > 0) await this.#decode(decoding.batch);
    } else if (isReading || this.#line.length > 0) {
      this.#turns.begin();
      await this.#change.promise;
      this.#turns.end();
    } else if (!this.#isOver) await this.#change.promise;
  }

  /** Lets texts leave and join. Returns whether a prompt is read. */
  #start(decoding: Decoding): boolean {
    this.#leave(decoding.prefixes);
    this.#hasNews = false;
    const isReading = this.#readNext(decoding);
    this.#active.push(...this.#ready.splice(0));
    return isReading;
  }

  #open(): Decoding {
    const { device, weights, spec } = this.#model, { sequences, longest, cacheBytes } = this.#sizes;
    const wanted = Math.max(pagesOf(longest), sequences * pagesOf(Math.min(longest, DEFAULT_TOKENS)));
    const most = pagesWithin(device, weights, { bytes: cacheBytes, sequences, capacity: longest });
    const pages = cacheBytes === undefined ? Math.min(wanted, most) : most;
    const capacity = Math.min(longest, tokensOf(pages)), { lora = null } = this.#adapters;
    using stack = new DisposableStack();
    const batch = stack.use(new DecodeBatch(device, weights, { sequences, capacity, pages, lora }));
    writeAdapters(device, batch, { ...this.#adapters, spec });
    const owned = stack.move();
    return { batch, capacity, prefixes: createPrefixes(), [Symbol.dispose]: () => owned.dispose() };
  }

  /** Removes texts that have ended; their pages may be taken again. */
  #leave(prefixes: Prefixes): void {
    for (const { prompt, sequence } of [...this.#active, ...this.#ready].filter(({ end }) => end)) {
      if (sequence.current) prefixes.keep(prompt, sequence.current);
      sequence.current = null;
    }
    this.#active = this.#active.filter(({ end }) => !end);
    for (const texts of [this.#ready, this.#line]) texts.splice(0, texts.length, ...texts.filter(({ end }) => !end));
  }

  /** Begins to read the first prompt of the line where there is room; nobody overtakes it. Returns whether one is read. */
  #readNext(decoding: Decoding): boolean {
    const [text] = this.#line, { capacity } = decoding;
    const isFull = this.#active.length + this.#ready.length >= this.#sizes.sequences;
    if (this.#reading || !text || isFull) return this.#reading !== null;
    const tokens = text.prompt.length - 1 + text.left;
    if (tokens > capacity) {
      this.#line.shift();
      this.#finish(text, { error: tooLong(tokens, capacity) });
      return this.#readNext(decoding);
    }
    const found = this.#place(text, decoding, tokens);
    if (!found) return false;
    this.#line.shift();
    text.sequence.current = found.sequence;
    if (found.isRead) {
      this.#ready.push(text);
      return this.#readNext(decoding);
    }
    this.#reading = { text, done: this.#read(text, found.sequence) };
    return true;
  }

  /** Reads a prompt. */
  async #read(text: Text, sequence: BatchSequence): Promise<void> {
    const { prompt, options: { signal } } = text;
    try {
      await sequence.prefill(prompt.slice(0, -1), { signal, turn: this.#turns.wait });
      this.#ready.push(text);
    } catch (error) {
      this.#finish(text, { error });
      text.sequence.current = null;
      sequence[Symbol.dispose]();
    } finally {
      this.#reading = null;
      this.#changed();
    }
  }

  /** A place for a text in the KV cache, after an equal prompt if there is one. Null if it must wait for room. */
  #place(
    { prompt }: Text,
    { batch, prefixes }: Decoding,
    tokens: number,
  ): { readonly sequence: BatchSequence; readonly isRead: boolean } | null {
    do {
      const same = [...this.#active, ...this.#ready].find((other) => isSamePrompt(other.prompt, prompt));
      const isHeld = (one: BatchSequence | null | undefined): boolean => one?.holds(prompt.length - 1) ?? false;
      const [read = null] = [same?.sequence.current ?? null, prefixes.find(prompt)].filter(isHeld);
      const sequence = read ? read.fork(prompt.length - 1, { capacity: tokens }) : batch.open(tokens);
      if (sequence) return { sequence, isRead: read !== null };
    } while (prefixes.drop());
    return null;
  }

  /** Decodes tokens of the active texts until one of them ends or another one has come. */
  async #decode(batch: DecodeBatch): Promise<void> {
    const texts = [...this.#active];
    const rows = texts.flatMap(({ sequence: { current }, last, options, prompt, chosen }) =>
      current ? [{ sequence: current, token: last, draw: drawSettings(options, prompt, { chosen }) }] : []
    );
    if (texts.some(({ options: { onChoice } }) => onChoice)) {
      const logits = await batch.logits(rows);
      texts.forEach((text, row) => this.#choose(text, logits[row] ?? NOTHING, rows[row]?.sequence.length ?? 0));
      return;
    }
    let left = Math.min(...texts.map((text) => text.left));
    const start = (first: typeof rows | null): ReturnType<DecodeBatch["next"]> => {
      const count = Math.min(this.#size, left), group = batch.next(first, { count });
      group.catch(() => {}); // it may fail before it is awaited
      left -= count;
      return group;
    };
    for (let group: ReturnType<DecodeBatch["next"]> | null = start(rows); group;) {
      const current = group, from = performance.now();
      const isQuiet = !this.#isOver && !this.#hasNews && !this.#reading && this.#ready.length === 0;
      group = left > 0 && isQuiet && texts.every(({ end }) => !end) ? start(null) : null;
      const picks = await current, seconds = (performance.now() - from) / 1000;
      if (seconds < GROUP_SECONDS / 2) this.#size = Math.min(GROUP_TOKENS, 2 * this.#size);
      else if (seconds > GROUP_SECONDS) this.#size = Math.max(1, Math.floor(this.#size / 2));
      texts.forEach((text, row) => {
        const own = picks[row];
        if (!own) this.#finish(text, { error: notFinite() });
        own?.forEach((id) => this.#take(text, id));
      });
    }
  }

  /** Samples the next token of a text. */
  #choose(text: Text, logits: Float32Array, position: number): void {
    if (text.end) return;
    try {
      const { options, prompt, chosen } = text;
      const id = createSampler(options, prompt, { chosen }).choose(logits, position);
      options.onChoice?.(id, logits);
      this.#take(text, id);
    } catch (error) {
      this.#finish(text, { error });
    }
  }

  #take(text: Text, id: number): void {
    if (text.end) return;
    const { endTokens = [], maxTokens } = text.options, { spec } = this.#model;
    if (spec.eosIds.includes(id) || endTokens.includes(id)) return this.#finish(text, { reason: "end" });
    text.tokens.push(id);
    text.chosen.push(id);
    text.last = id;
    if (--text.left > 0) return text.wake();
    this.#finish(text, { reason: roomFor(spec, text.prompt, { maxTokens }) < maxTokens ? "context" : "length" });
  }

  /** Ends a text, once. */
  #finish(text: Text, end: NonNullable<Text["end"]>): void {
    if (text.end) return;
    text.end = end;
    text.wake();
    this.#changed();
  }
}

/**
 * Decodes texts together; see {@link TextBatch}.
 *
 * @throws CompressoError("usage") for options out of range.
 */
export function createTextBatch(model: Model, options: TextBatchOptions = {}): TextBatch {
  return new TextBatch(model, options);
}

const NOTHING = new Float32Array(0);

function checkSizes({ sequences, longest }: { readonly sequences: number; readonly longest: number }): void {
  const fail = (rule: string, value: number): never => {
    const fix = "change it, or leave it out for the default";
    refuse("usage", "cannot decode texts together", { rule, value, fix });
  };
  if (!Number.isInteger(sequences) || sequences < 1 || sequences > MOST_SEQUENCES) {
    fail(`sequences is a whole number from 1 to ${MOST_SEQUENCES}`, sequences);
  }
  if (!Number.isInteger(longest) || longest < 1) fail("capacity is a whole number, at least 1", longest);
}

function tooLong(tokens: number, capacity: number): CompressoError {
  return refusal("gpu", "cannot generate this text", {
    rule: `prompt and text fit the KV cache, ${capacity} tokens`,
    value: `${tokens} tokens`,
    fix: "ask for fewer tokens, or raise the memory limit",
  });
}

function stopped(): CompressoError {
  return refusal("usage", "cannot use the batch of texts", {
    rule: "it works until it is disposed",
    value: "it was disposed",
    fix: "dispose it after its last text",
  });
}
