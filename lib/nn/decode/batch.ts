// Decodes several sequences together, token by token. They may join and leave between tokens.
import type { Device } from "../../gpu/device.ts";
import type { DeviceBuffer } from "../../gpu/types.ts";
import type { RunOptions } from "../../gpu/plan.ts";
import {
  type CacheLimits,
  cacheParts,
  copyPages,
  createCaches,
  mostPages,
  pageBytes,
  pagesOf,
  tokensOf,
} from "./cache.ts";
import { createChoice, type DrawSettings, writeChoice } from "./choice.ts";
import { createGeneralStep } from "./general.ts";
import { runPrefill } from "./prefill.ts";
import { createDecodeStep, type DecodeState, type DecodeStep, stepPlacement } from "./step.ts";
import { strideOf } from "../padding.ts";
import { createRopeTables } from "../rope.ts";
import { BATCH_ROWS } from "../products/matvec.ts";
import { createLora, type Lora } from "../lora.ts";
import { cacheWindow, type DecoderSpec } from "../../spec/decoder.ts";
import type { LoraConfig } from "../../spec/lora.ts";
import { createMaskSlots, type MaskSlots } from "../mask_slots.ts";
import { createStepState } from "../train/step_state.ts";
import type { Weights } from "../weights.ts";
import {
  type ByWindow,
  byWindow,
  createPageTables,
  createPool,
  firstPageSeen,
  type PagePool,
  pagesAround,
  pagesIn,
  stillHolds,
  type Window,
} from "./windows.ts";

/** Options of {@link DecodeBatch}. */
export interface DecodeBatchOptions {
  /** Sequences decoded at once, at most {@link MOST_SEQUENCES}. */
  readonly sequences: number;
  /** Largest number of tokens of a sequence. */
  readonly capacity: number;
  /** Pages of the caches of layers without a window, for all sequences. Default: enough for all at their capacity. */
  readonly pages?: number;
  readonly lora?: LoraConfig | null;
}

/** One sequence. Disposing it frees its pages; no call that reads it may be pending then. */
export interface BatchSequence extends Disposable {
  /** Tokens that the model has read. */
  readonly length: number;
  /** Reads the next tokens of the sequence in one pass. Tokens of other sequences may be decoded meanwhile, in turns with it. */
  prefill(
    tokens: readonly number[],
    options?: { readonly signal?: AbortSignal | undefined; readonly turn?: RunOptions["turn"] },
  ): Promise<void>;
  /**
   * Another sequence of up to `capacity` tokens that begins with the first `tokens` of this one, which it must still
   * hold, without reading them again. Whole pages are shared; the last page, and what layers with windows still need,
   * are copied. Null if there are not enough pages.
   */
  fork(tokens: number, options: { readonly capacity: number }): BatchSequence | null;
  /** Whether the caches, also those of layers with windows, hold what the token after the first `tokens` sees. */
  holds(tokens: number): boolean;
  /** Keeps the first `tokens`, which it must hold; frees the pages of all later ones. No more tokens can be read. */
  trim(tokens: number): void;
}

/** A sequence and its next token. */
export interface BatchRow {
  readonly sequence: BatchSequence;
  readonly token: number;
  /** How the tokens after it are drawn. Default: the most likely ones are taken. */
  readonly draw?: DrawSettings | null | undefined;
}

/** What of a device bounds the caches. */
type Bounds = Pick<Device, "memoryLimit" | "bytes"> & { readonly limits: CacheLimits };

/** Largest number of sequences of a batch. */
export const MOST_SEQUENCES = 32;
/** Largest size of the caches in bytes, and as a share of the remaining memory on a device with a limit. */
const MOST_CACHE_BYTES = 2 ** 30, CACHE_SHARE = 0.5;
/** The value that the kernels of the choice write for logits that are not finite. */
const NO_PICK = 0xffffffff;

/** Pages of the layers with each window where those without have `pages`: no more than rings for all sequences. */
function poolSizes(
  { spec }: Weights,
  { pages, sequences, capacity }: Required<Pick<DecodeBatchOptions, "pages" | "sequences" | "capacity">>,
): ByWindow<number> {
  const most = (window: Window): number => window === undefined ? pages : sequences * pagesIn(window, capacity);
  return byWindow(spec, (window) => Math.min(pages, most(window)));
}

/** Bytes of the caches with these pools. */
function cacheBytes({ spec }: Weights, pools: ByWindow<number>): number {
  const page = pageBytes(spec);
  return spec.layers.reduce((sum, layer, index) => {
    return sum + cacheParts(layer) * (page[index] ?? 0) * (pools.get(cacheWindow(spec, layer)) ?? 0);
  }, 0);
}

/**
 * Largest number of cache pages, for this many sequences, within the limits of the device and `bytes` (default: 1 GiB,
 * less where memory is limited). At least one.
 */
export function pagesWithin(
  device: Bounds,
  weights: Weights,
  { bytes = MOST_CACHE_BYTES, sequences, capacity }: Pick<DecodeBatchOptions, "sequences" | "capacity"> & {
    readonly bytes?: number | undefined;
  },
): number {
  const { spec } = weights, { memoryLimit, bytes: used } = device;
  const most = Math.min(bytes, MOST_CACHE_BYTES, CACHE_SHARE * (memoryLimit - used));
  const bound = mostPages(device, spec, stepPlacement(device, weights, 1) ?? "buffer");
  let low = 1, high = Math.max(1, bound);
  while (low < high) {
    const pages = Math.ceil((low + high) / 2);
    if (cacheBytes(weights, poolSizes(weights, { pages, sequences, capacity })) <= most) low = pages;
    else high = pages - 1;
  }
  return low;
}

/**
 * Largest number of sequences of up to `capacity` tokens to decode together, within {@link pagesWithin}. At least one.
 */
export function sequencesAtOnce(
  device: Bounds,
  weights: Weights,
  { capacity, bytes }: { readonly capacity: number; readonly bytes?: number | undefined },
): number {
  for (let sequences = MOST_SEQUENCES; sequences > 1; sequences--) {
    const pages = pagesWithin(device, weights, { bytes, sequences, capacity });
    if (pages >= sequences * pagesOf(capacity)) return sequences;
  }
  return 1;
}

/** Pages that a sequence which was just forked copies: its last one, and of rings all that its next token sees. */
function copiesTo(
  fork: Sequence,
  from: ByWindow<readonly number[]>,
): ByWindow<readonly { from: number; to: number }[]> {
  return new Map([...fork.pages].map(([window, own]) => {
    const source = from.get(window) ?? [], copies: { from: number; to: number }[] = [];
    const whole = Math.floor(fork.length / tokensOf(1));
    const first = window === undefined ? whole : firstPageSeen(window, fork.length);
    for (let page = first; page < pagesOf(fork.length); page++) {
      copies.push({ from: source[page % source.length] ?? 0, to: own[page % own.length] ?? 0 });
    }
    return [window, copies];
  }));
}

/** Rows of the plan that decodes this many sequences: the kernels exist for few numbers of rows. */
function planRows(sequences: number): number {
  if (sequences > BATCH_ROWS) return Math.ceil(sequences / BATCH_ROWS) * BATCH_ROWS;
  return 2 ** Math.ceil(Math.log2(sequences));
}

/** What the sequences of a batch share. */
interface Shared {
  readonly device: Device;
  readonly spec: DecoderSpec;
  readonly lora: Lora | null;
  readonly stepState: DeviceBuffer;
  readonly state: Omit<DecodeState, "rows">;
  /** Pages that no sequence has. */
  readonly pools: ByWindow<PagePool>;
  /** Sequences that have some. */
  readonly owners: Set<BatchSequence>;
}

/** A sequence with its pages. */
class Sequence implements BatchSequence {
  readonly pages: ByWindow<number[]>;
  readonly #shared: Shared;
  /** Tokens that it began with, which were read by another one. */
  readonly #first: number;
  #capacity: number;
  #length: number;
  /** The most tokens that it had. */
  #reach: number;

  private constructor(
    shared: Shared,
    pages: ByWindow<number[]>,
    { capacity, length }: { readonly capacity: number; readonly length: number },
  ) {
    this.#shared = shared;
    this.pages = pages;
    this.#capacity = capacity;
    this.#first = this.#length = this.#reach = length;
    shared.owners.add(this);
  }

  /** A sequence that begins with the `length` tokens in the given pages. Null if there are not enough pages. */
  static open(
    shared: Shared,
    { capacity, leading = [], length = 0 }: {
      readonly capacity: number;
      readonly leading?: readonly number[];
      readonly length?: number;
    },
  ): Sequence | null {
    const most = shared.state.capacity;
    if (capacity > most) throw new Error(`decoding: a sequence of ${capacity} tokens, capacity ${most}`);
    const taken = new Map<Window, number[]>();
    for (const [window, pool] of shared.pools) {
      const own = pool.take(capacity, window === undefined ? leading : []);
      if (!own) {
        give(shared, taken);
        return null;
      }
      taken.set(window, own);
    }
    return new Sequence(shared, taken, { capacity, length });
  }

  get length(): number {
    return this.#length;
  }

  /** Counts tokens that are read next. */
  advance(count: number): void {
    if (this.#length + count > this.#capacity) {
      throw new Error(`decoding: ${this.#length} + ${count} tokens, capacity ${this.#capacity}`);
    }
    this.#length += count;
    this.#reach = Math.max(this.#reach, this.#length);
  }

  async prefill(
    tokens: readonly number[],
    { signal, turn }: { readonly signal?: AbortSignal | undefined; readonly turn?: RunOptions["turn"] } = {},
  ): Promise<void> {
    if (tokens.length === 0) return;
    const start = this.#length, { device, state, lora, stepState } = this.#shared;
    this.advance(tokens.length);
    using pages = createPageTables(device, this.pages, this.#capacity);
    using position = device.createBuffer("position", 4);
    await runPrefill(device, { ...state, position, pages }, { tokens, start, lora, stepState, signal, turn });
  }

  fork(tokens: number, { capacity }: { readonly capacity: number }): BatchSequence | null {
    this.#checkHas(tokens);
    const whole = Math.floor(tokens / tokensOf(1)), all = this.pages.get(undefined) ?? [];
    const fork = Sequence.open(this.#shared, { capacity, leading: all.slice(0, whole), length: tokens });
    const { device, state, spec } = this.#shared;
    if (fork) copyPages(device, state.caches, { spec, pages: copiesTo(fork, this.pages) });
    return fork;
  }

  holds(tokens: number): boolean {
    const pages = byWindow(this.#shared.spec, (window) => this.pages.get(window)?.length ?? 0);
    // The rings of a fork have nothing from before it.
    return tokens >= this.#first && tokens <= this.#length && stillHolds(tokens, { reach: this.#reach, pages });
  }

  trim(tokens: number): void {
    this.#checkHas(tokens);
    this.#length = this.#capacity = tokens;
    // A whole ring stays: its pages are counted around.
    give(this.#shared, new Map([[undefined, this.pages.get(undefined)?.splice(pagesOf(tokens)) ?? []]]));
  }

  [Symbol.dispose](): void {
    if (this.#shared.owners.delete(this)) give(this.#shared, this.pages);
  }

  #checkHas(tokens: number): void {
    if (tokens > this.#length) throw new Error(`decoding: ${tokens} tokens of ${this.#length}`);
  }
}

function give({ pools }: Shared, unused: ByWindow<readonly number[]>): void {
  unused.forEach((own, window) => pools.get(window)?.give(own));
}

/** Sequences that are decoded together. Write masks and LoRA before the first token. After an error it can only be disposed. */
export class DecodeBatch implements Disposable {
  readonly masks: MaskSlots;
  readonly lora: Lora | null;
  readonly #shared: Shared;
  readonly #options: DecodeBatchOptions;
  readonly #owned: DisposableStack;
  readonly #steps = new Map<number, DecodeStep>();
  readonly #placement: ReturnType<typeof stepPlacement>;
  /** The sequences of the last step, in the order of their rows. */
  #current: readonly Sequence[] = [];
  /** Each run enters the queue as soon as the previous one is submitted. */
  #turn = Promise.resolve();

  /** Allocates caches and buffers. Plans are recorded when first needed. Initially all masks are 1 and LoRA is zero. */
  constructor(device: Device, weights: Weights, options: DecodeBatchOptions) {
    const { spec } = weights, { sequences, capacity, lora: config = null } = options;
    const { pages = sequences * pagesOf(capacity) } = options, perRow = pagesOf(capacity), most = planRows(sequences);
    if (sequences > MOST_SEQUENCES) throw new Error(`decoding: ${sequences} sequences, at most ${MOST_SEQUENCES}`);
    using stack = new DisposableStack();
    const buffer = (label: string, values: number): DeviceBuffer => stack.use(device.createBuffer(label, 4 * values));
    const masks = stack.use(createMaskSlots(device, spec));
    const lora = config ? stack.use(createLora(device, spec, { ...config, trains: false })) : null;
    const stepState = stack.use(createStepState(device));
    this.#placement = lora ? null : stepPlacement(device, weights, pages);
    const sizes = poolSizes(weights, { pages, sequences, capacity });
    const state: Omit<DecodeState, "rows"> = {
      capacity,
      weights,
      masks,
      caches: stack.use(createCaches(device, spec, { pages: sizes, placement: this.#placement ?? "buffer" })),
      pages: byWindow(spec, () => ({ buffer: buffer("pages", most * perRow), perRow })),
      rope: stack.use(createRopeTables(device, spec, capacity)),
      token: buffer("token", most),
      position: buffer("position", most),
      picks: buffer("picks", most * capacity),
      logits: buffer("logits", most * strideOf(spec.vocab)),
      choice: stack.use(createChoice(device, { rows: most, vocab: spec.vocab })),
    };
    const pools = byWindow(spec, (window) => createPool(window, sizes.get(window) ?? 0));
    this.#shared = { device, spec, lora, stepState, state, pools, owners: new Set() };
    this.#options = options;
    this.masks = masks;
    this.lora = lora;
    this.#owned = stack.move();
  }

  /** Pages that no sequence has; of several windows, where there are fewest. */
  get freePages(): number {
    return Math.min(...[...this.#shared.pools.values()].map(({ free }) => free));
  }

  /** Takes pages for a sequence of up to this many tokens. Null if there are not enough. */
  open(capacity: number): BatchSequence | null {
    return Sequence.open(this.#shared, { capacity });
  }

  /** Reads a token of each sequence. Returns the next-token logits [vocab] of each, the same bits as decoded alone. */
  async logits(
    rows: readonly BatchRow[],
    { signal }: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<readonly Float32Array<ArrayBuffer>[]> {
    const { device, spec, state } = this.#shared, stride = strideOf(spec.vocab);
    const read = (): Promise<Float32Array<ArrayBuffer>> => device.readFloats(state.logits, rows.length * stride);
    const all = await this.#run(rows, { repeat: 1, signal }, read);
    return rows.map((_, row) => all.slice(row * stride, row * stride + spec.vocab));
  }

  /**
   * Reads a token of each sequence (or, with null, the tokens chosen last of the same sequences), then count − 1 tokens
   * that it chooses itself. Returns the token that it chooses after each, `count` for each sequence: the most likely token
   * or a drawn one. Null for a sequence whose logits are not finite. May be called again before it resolves; the
   * work then continues without a gap.
   */
  async next(
    rows: readonly BatchRow[] | null,
    { count, signal, profile }: {
      readonly count: number;
      readonly signal?: AbortSignal | undefined;
      /** See `Plan.run`. */
      readonly profile?: Map<string, number>;
    },
  ): Promise<readonly (readonly number[] | null)[]> {
    const { device, state: { picks: buffer, capacity } } = this.#shared;
    const read = (starts: readonly number[]): Promise<readonly ArrayBuffer[]> =>
      device.read(
        starts.map((start, row) => ({ buffer, byteOffset: 4 * (row * capacity + start), bytes: 4 * count })),
      );
    const all = await this.#run(rows, { repeat: count, signal, profile }, read);
    return all.map((bytes) => {
      const picks = [...new Uint32Array(bytes)];
      return picks.includes(NO_PICK) ? null : picks;
    });
  }

  #stepOf(rows: number): DecodeStep {
    let step = this.#steps.get(rows);
    if (!step) {
      const { device, state, lora, stepState } = this.#shared, all = { ...state, rows };
      step = this.#owned.use(
        this.#placement ? createDecodeStep(device, all) : createGeneralStep(device, all, { lora, stepState }),
      );
      this.#steps.set(rows, step);
    }
    return step;
  }

  #checked(sequence: BatchSequence): Sequence {
    if (sequence instanceof Sequence && this.#shared.owners.has(sequence)) return sequence;
    throw new Error("decoding: the sequence belongs to another batch or was disposed");
  }

  /** Writes the rows of a step; rows beyond the sequences repeat the first one. */
  #write(rows: readonly BatchRow[], own: readonly Sequence[], starts: readonly number[]): void {
    const { device, state } = this.#shared, count = planRows(rows.length), perRow = pagesOf(state.capacity);
    const places = Array.from({ length: count }, (_, index) => index < rows.length ? index : 0);
    for (const [window, { buffer }] of state.pages) {
      const table = new Uint32Array(count * perRow);
      places.forEach((place, index) =>
        table.set(pagesAround(own[place]?.pages.get(window) ?? [], perRow), index * perRow)
      );
      device.write(buffer, table);
    }
    device.write(state.token, Uint32Array.from(places, (place) => rows[place]?.token ?? 0));
    device.write(state.position, Uint32Array.from(places, (place) => starts[place] ?? 0));
    writeChoice(device, state.choice, places.map((place) => rows[place]?.draw ?? null));
  }

  async #run<T>(
    rows: readonly BatchRow[] | null,
    { repeat, signal, profile }: {
      readonly repeat: number;
      readonly signal: AbortSignal | undefined;
      readonly profile?: Map<string, number> | undefined;
    },
    read: (starts: readonly number[]) => Promise<T>,
  ): Promise<T> {
    const own = rows ? rows.map(({ sequence }) => this.#checked(sequence)) : this.#current;
    const starts = own.map(({ length }) => length), { sequences } = this.#options;
    if (own.length === 0 || own.length > sequences) {
      throw new Error(`decoding: ${own.length} sequences, from 1 to ${sequences}`);
    }
    own.forEach((sequence) => sequence.advance(repeat));
    this.#current = own;
    const before = this.#turn, submitted = Promise.withResolvers<void>();
    this.#turn = submitted.promise;
    try {
      await before;
      if (rows) this.#write(rows, own, starts);
      const results: Promise<T>[] = [];
      await this.#stepOf(planRows(own.length)).plan.run({
        repeat,
        ...(signal ? { signal } : {}),
        ...(profile ? { profile } : {}),
        onSubmitted: () => {
          const result = read(starts);
          result.catch(() => {}); // awaited below unless the run fails first
          results.push(result);
          submitted.resolve();
        },
      });
      return await (results[0] ?? read(starts));
    } finally {
      submitted.resolve();
    }
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}
