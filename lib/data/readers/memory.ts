// How much of V8's heap kept rows take, and how much they may take.

/** Share of the heap that rows of one file may have: what is read next, and what is made of the rows, needs the rest. */
const SHARE = 0.6;

/** Counts what is kept. */
export interface HeapBudget {
  /** Adds a value that is kept; returns the bytes so far where they are more than there is room for, else null. */
  add(value: unknown): number | null;
  /** The whole heap, in bytes. */
  readonly heap: number;
}

/** A budget of rows in a heap of so many bytes, beyond which V8 ends the process without a word on the file. */
export function heapBudget(heap: number): HeapBudget {
  let bytes = 0;
  return {
    heap,
    add(value): number | null {
      bytes += heapBytes(value);
      return bytes > SHARE * heap ? bytes : null;
    },
  };
}

/** Bytes of a value on the heap, about: V8 stores a text with a byte for each character where all are of Latin-1, else with two. */
export function heapBytes(value: unknown): number {
  if (typeof value === "string") return 16 + value.length * (BEYOND_LATIN1.test(value) ? 2 : 1);
  if (typeof value !== "object" || value === null) return 0;
  let bytes = 24;
  for (const part of Array.isArray(value) ? value : Object.values(value)) bytes += 8 + heapBytes(part);
  return bytes;
}

const BEYOND_LATIN1 = /[^\0-\xff]/;
