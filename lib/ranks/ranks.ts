// Ranks: processes that train one run together, and the sum that gives all of them the same bits.

/** One of the processes that train a run together; see `openMpi`. */
export interface Ranks {
  /** Number of this process, from 0. Rank 0 writes the files. */
  readonly rank: number;
  /** Number of processes, at least 1. */
  readonly size: number;
  /**
   * The sum of the parts of rank 0, in order, then of those of rank 1, and so on: with the same bits on all ranks, and
   * for the same parts on any number of ranks. All ranks call it, each with one part or more, all of the same length.
   */
  sum(parts: readonly Float32Array<ArrayBuffer>[]): Promise<Float32Array<ArrayBuffer>>;
  /** The text of a rank. All ranks call it, with their own texts. */
  textOf(rank: number, text: string): Promise<string>;
}

const LEAST_NORMAL = 2 ** -126;

/** total[i] += values[i], as kernels/shared/accumulate.wgsl adds: in f32, with subnormal numbers as 0. */
export function addInto(total: Float32Array, values: Float32Array): void {
  for (let i = 0; i < total.length; i++) {
    total[i] = normal(Math.fround(normal(total[i] ?? 0) + normal(values[i] ?? 0)));
  }
}

function normal(value: number): number {
  return value < LEAST_NORMAL && value > -LEAST_NORMAL ? 0 : value;
}

/**
 * What each rank has, in the order of ranks: what JSON keeps, and arrays of f32 with all their bits. All ranks call it. A
 * stop that one of them was asked for reaches all here.
 */
export async function gathered<T>(ranks: Ranks, own: T): Promise<T[]> {
  await ranks.sum([new Float32Array(1)]);
  const all: T[] = [], text = JSON.stringify(own, packed);
  for (let from = 0; from < ranks.size; from++) all.push(JSON.parse(await ranks.textOf(from, text), unpacked));
  return all;
}

/** Name of an array's bytes in JSON. */
const F32 = "f32 in base64";

function packed(_: string, value: unknown): unknown {
  if (!(value instanceof Float32Array)) return value;
  return { [F32]: new Uint8Array(value.buffer, value.byteOffset, value.byteLength).toBase64() };
}

function unpacked(_: string, value: unknown): unknown {
  if (typeof value !== "object" || value === null || !(F32 in value)) return value;
  return new Float32Array(Uint8Array.fromBase64(String(value[F32])).buffer);
}

/** Items of each rank between two exchanges of results. */
const ROUND = 4;

/**
 * Runs each item on one of the ranks and gives every rank all results, in order. Without ranks, one after the other. All
 * ranks have the same items; results are what {@link gathered} takes.
 */
export async function* dealt<Item, Result>(
  items: Iterable<Item>,
  ranks: Ranks | undefined,
  run: (item: Item) => Promise<Result>,
): AsyncGenerator<readonly [Item, Result]> {
  if (!ranks) {
    for (const item of items) yield [item, await run(item)];
    return;
  }
  const { rank, size } = ranks, left = Iterator.from(items);
  for (;;) {
    const round = taken(left, ROUND * size), own: Result[] = [];
    if (round.length === 0) return;
    for (const [index, item] of round.entries()) if (index % size === rank) own.push(await run(item));
    const all = await gathered(ranks, own);
    for (const [index, item] of round.entries()) {
      const result = all[index % size]?.[Math.floor(index / size)];
      if (result !== undefined) yield [item, result];
    }
  }
}

/** The next items, at most so many; the iterator stays open. */
function taken<Item>(left: Iterator<Item>, most: number): Item[] {
  const items: Item[] = [];
  while (items.length < most) {
    const next = left.next();
    if (next.done) break;
    items.push(next.value);
  }
  return items;
}
