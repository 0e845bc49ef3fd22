// Decodes several sequences together, token by token. They may join and leave between tokens.
import type { Device } from "../../gpu/device.ts";
import type { RunOptions } from "../../gpu/plan.ts";
import { type CacheLimits, copyPages, createCaches, mostPages, pageBytes, pagesOf, tokensOf } from "./cache.ts";
import { createChoice, type DrawSettings, writeChoice } from "./choice.ts";
import { createGeneralStep } from "./general.ts";
import { runPrefill } from "./prefill.ts";
import { createDecodeStep, type DecodeState, type DecodeStep, stepPlacement } from "./step.ts";
import { strideOf } from "../padding.ts";
import { createRopeTables } from "../rope.ts";
import { BATCH_ROWS } from "../products/matvec.ts";
import { createLora, type Lora } from "../lora.ts";
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
  pagesAround,
  pagesIn,
  stillHolds,
  type Window,
} from "./windows.ts";

/** Options of {@link createDecodeBatch}. */
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
   * hold, without reading them again. Null if there are not enough pages: whole pages are shared, the last one is
   * copied, and so is what layers with windows still need.
   */
  fork(tokens: number, options: { readonly capacity: number }): BatchSequence | null;
  /** Whether the caches, also those of layers with windows, hold what the token behind the first `tokens` sees. */
  holds(tokens: number): boolean;
  /** Forgets all tokens behind the first `tokens`, which it must hold, and frees their pages; no more can be read. */
  trim(tokens: number): void;
}

/** A sequence and its next token. */
export interface BatchRow {
  readonly sequence: BatchSequence;
  readonly token: number;
  /** How the tokens after it are drawn. Default: the most likely ones are taken. */
  readonly draw?: DrawSettings | null | undefined;
}

/** Sequences that are decoded together. Write masks and LoRA before the first token. After an error it can only be disposed. */
export interface DecodeBatch extends Disposable {
  readonly masks: MaskSlots;
  readonly lora: Lora | null;
  /** Pages that no sequence has; of several windows, where there are fewest. */
  readonly freePages: number;
  /** Takes pages for a sequence of up to this many tokens. Null if there are not enough. */
  open(capacity: number): BatchSequence | null;
  /** Reads a token of each sequence. Returns the next-token logits [vocab] of each, the same bits as decoded alone. */
  logits(
    rows: readonly BatchRow[],
    options?: { readonly signal?: AbortSignal | undefined },
  ): Promise<readonly Float32Array<ArrayBuffer>[]>;
  /**
   * Reads a token of each sequence (or, with null, the tokens chosen last of the same sequences), then count − 1 tokens
   * that it chooses itself. Returns the token that it chooses after each, `count` for each sequence: the most likely one
   * or one that is drawn. Null for a sequence whose logits are not finite. May be called again before it resolves; the work then continues without a gap.
   */
  next(
    rows: readonly BatchRow[] | null,
    options: {
      readonly count: number;
      readonly signal?: AbortSignal | undefined;
      /** See `Plan.run`. */
      readonly profile?: Map<string, number>;
    },
  ): Promise<readonly (readonly number[] | null)[]>;
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
  return spec.layers.reduce((sum, { window }, layer) => sum + 2 * (page[layer] ?? 0) * (pools.get(window) ?? 0), 0);
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
function copiesTo(fork: Own, from: ByWindow<readonly number[]>): ByWindow<readonly { from: number; to: number }[]> {
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

/** A sequence with its pages. */
interface Own extends BatchSequence {
  readonly pages: ByWindow<number[]>;
  capacity: number;
  length: number;
  /** The most tokens that it had. */
  reach: number;
}

/** Allocates caches and buffers. Plans are recorded when first needed. Initially all masks are 1 and LoRA is zero. */
export function createDecodeBatch(device: Device, weights: Weights, options: DecodeBatchOptions): DecodeBatch {
  const { spec } = weights, { sequences, capacity, lora: config = null } = options;
  const { pages = sequences * pagesOf(capacity) } = options, perRow = pagesOf(capacity), most = planRows(sequences);
  if (sequences > MOST_SEQUENCES) throw new Error(`decoding: ${sequences} sequences, at most ${MOST_SEQUENCES}`);
  const stack = new DisposableStack();
  try {
    const masks = stack.use(createMaskSlots(device, spec));
    const lora = config ? stack.use(createLora(device, spec, { ...config, trains: false })) : null;
    const stepState = stack.use(createStepState(device));
    const fused = lora ? null : stepPlacement(device, weights, pages);
    const stride = strideOf(spec.vocab);
    const buffer = (label: string, values: number): DecodeState["token"] =>
      stack.use(device.createBuffer(label, 4 * values));
    const sizes = poolSizes(weights, { pages, sequences, capacity });
    const state: Omit<DecodeState, "rows"> = {
      capacity,
      weights,
      masks,
      caches: stack.use(createCaches(device, spec, { pages: sizes, placement: fused ?? "buffer" })),
      pages: byWindow(spec, () => ({ buffer: buffer("pages", most * perRow), perRow })),
      rope: stack.use(createRopeTables(device, spec, capacity)),
      token: buffer("token", most),
      position: buffer("position", most),
      picks: buffer("picks", most * capacity),
      logits: buffer("logits", most * stride),
      choice: stack.use(createChoice(device, { rows: most, vocab: spec.vocab })),
    };
    const steps = new Map<number, DecodeStep>();
    const stepOf = (rows: number): DecodeStep => {
      const known = steps.get(rows);
      if (known) return known;
      const all = { ...state, rows };
      const step = stack.use(
        fused ? createDecodeStep(device, all) : createGeneralStep(device, all, { lora, stepState }),
      );
      steps.set(rows, step);
      return step;
    };

    const pools = byWindow(spec, (window) => createPool(window, sizes.get(window) ?? 0)),
      owned = new Set<BatchSequence>();
    const give = (unused: ByWindow<readonly number[]>): void =>
      unused.forEach((own, window) => pools.get(window)?.give(own));
    /** Pages of every window, or of none if one has not enough. */
    const take = (tokens: number, shared: readonly number[]): Map<Window, number[]> | null => {
      const taken = new Map<Window, number[]>();
      for (const [window, pool] of pools) {
        const own = pool.take(tokens, window === undefined ? shared : []);
        if (!own) {
          give(taken);
          return null;
        }
        taken.set(window, own);
      }
      return taken;
    };
    const advance = (sequence: Own, count: number): void => {
      if (sequence.length + count > sequence.capacity) {
        throw new Error(`decoding: ${sequence.length} + ${count} tokens, capacity ${sequence.capacity}`);
      }
      sequence.length += count;
      sequence.reach = Math.max(sequence.reach, sequence.length);
    };
    /** A sequence that begins with `length` tokens, which lie in the pages `shared`. */
    const openBehind = (
      room: number,
      { shared, length }: { readonly shared: readonly number[]; readonly length: number },
    ): Own | null => {
      if (room > capacity) throw new Error(`decoding: a sequence of ${room} tokens, capacity ${capacity}`);
      const own = take(room, shared);
      if (!own) return null;
      const sequence: Own = {
        pages: own,
        capacity: room,
        length,
        reach: length,
        async prefill(tokens, { signal, turn: parts } = {}): Promise<void> {
          if (tokens.length === 0) return;
          const start = sequence.length;
          advance(sequence, tokens.length);
          using tables = createPageTables(device, own, sequence.capacity);
          using position = device.createBuffer("position", 4);
          const ownState = { ...state, position, pages: tables };
          await runPrefill(device, ownState, { tokens, start, lora, stepState, signal, turn: parts });
        },
        fork(tokens, { capacity: wanted }): BatchSequence | null {
          if (tokens > sequence.length) throw new Error(`decoding: ${tokens} tokens of ${sequence.length}`);
          const whole = Math.floor(tokens / tokensOf(1)), all = own.get(undefined) ?? [];
          const fork = openBehind(wanted, { shared: all.slice(0, whole), length: tokens });
          if (fork) copyPages(device, state.caches, { spec, pages: copiesTo(fork, own) });
          return fork;
        },
        holds(tokens): boolean {
          const pages = byWindow(spec, (window) => own.get(window)?.length ?? 0), { reach } = sequence;
          // The rings of a fork have nothing from before it.
          return tokens >= length && tokens <= sequence.length && stillHolds(tokens, { reach, pages });
        },
        trim(tokens): void {
          if (tokens > sequence.length) throw new Error(`decoding: ${tokens} tokens of ${sequence.length}`);
          sequence.length = sequence.capacity = tokens;
          // A whole ring stays: its pages are counted around.
          give(byWindow(spec, (window) => window === undefined ? own.get(window)?.splice(pagesOf(tokens)) ?? [] : []));
        },
        [Symbol.dispose](): void {
          if (owned.delete(sequence)) give(own);
        },
      };
      owned.add(sequence);
      return sequence;
    };
    const open = (room: number): BatchSequence | null => openBehind(room, { shared: [], length: 0 });

    /** The sequences of the last step, in the order of their rows. */
    let current: readonly Own[] = [];
    const checked = (sequence: BatchSequence): Own => {
      if (!owned.has(sequence)) throw new Error("decoding: a sequence of another batch, or one that was disposed");
      return sequence as Own;
    };
    /** Writes the rows of a step; rows beyond the sequences repeat the first one. */
    const write = (rows: readonly BatchRow[], own: readonly Own[], starts: readonly number[]): void => {
      const count = planRows(rows.length);
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
    };
    // Each run enters the queue as soon as the previous one is submitted.
    let turn = Promise.resolve();
    const run = async <T>(
      rows: readonly BatchRow[] | null,
      { repeat, signal, profile }: {
        readonly repeat: number;
        readonly signal: AbortSignal | undefined;
        readonly profile?: Map<string, number> | undefined;
      },
      read: (starts: readonly number[]) => Promise<T>,
    ): Promise<T> => {
      const own = rows ? rows.map(({ sequence }) => checked(sequence)) : current;
      const starts = own.map(({ length }) => length);
      if (own.length === 0 || own.length > sequences) {
        throw new Error(`decoding: ${own.length} sequences, from 1 to ${sequences}`);
      }
      own.forEach((sequence) => advance(sequence, repeat));
      current = own;
      const before = turn, submitted = Promise.withResolvers<void>();
      turn = submitted.promise;
      try {
        await before;
        if (rows) write(rows, own, starts);
        const results: Promise<T>[] = [];
        await stepOf(planRows(own.length)).plan.run({
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
    };
    return {
      masks,
      lora,
      get freePages(): number {
        return Math.min(...[...pools.values()].map(({ free }) => free));
      },
      open,
      async logits(rows, { signal } = {}): Promise<readonly Float32Array<ArrayBuffer>[]> {
        const all = await run(rows, { repeat: 1, signal }, () => device.readFloats(state.logits, rows.length * stride));
        return rows.map((_, row) => all.slice(row * stride, row * stride + spec.vocab));
      },
      async next(rows, { count, signal, profile }): Promise<readonly (readonly number[] | null)[]> {
        const read = (starts: readonly number[]): Promise<readonly ArrayBuffer[]> =>
          device.read(starts.map((start, row) => ({
            buffer: state.picks,
            byteOffset: 4 * (row * capacity + start),
            bytes: 4 * count,
          })));
        const all = await run(rows, { repeat: count, signal, profile }, read);
        return all.map((bytes) => {
          const picks = [...new Uint32Array(bytes)];
          return picks.includes(NO_PICK) ? null : picks;
        });
      },
      [Symbol.dispose]: () => stack.dispose(),
    };
  } catch (error) {
    stack.dispose();
    throw error;
  }
}
