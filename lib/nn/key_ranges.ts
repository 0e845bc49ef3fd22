// The keys that queries attend to where a sequence is not one text: buffers of token trees, and of packed rows.
import type { Device } from "../gpu/device.ts";
import type { Pass, RangeBuffers } from "./context.ts";

/** Bytes of a token's span. */
const SPAN_BYTES = { trees: 16, rows: 8 } as const;

/** Allocates the buffers of a pass over `rows` tokens, for layers with these windows, and for convolutions if there are some. */
export function createRangeBuffers(
  device: Device,
  of: RangeBuffers["of"],
  { rows, windows, convolves = false }: {
    readonly rows: number;
    readonly windows: readonly (number | undefined)[];
    readonly convolves?: boolean;
  },
): RangeBuffers {
  using stack = new DisposableStack();
  const bytes = SPAN_BYTES[of] * rows;
  const spans = new Map(windows.map((window) => [window, stack.use(device.createBuffer("key spans", bytes))]));
  const positions = stack.use(device.createBuffer("positions", 4 * rows));
  const parents = of === "trees" && convolves ? stack.use(device.createBuffer("parents", 4 * rows)) : null;
  const owned = stack.move();
  return { of, spans, positions, parents, [Symbol.dispose]: () => owned.dispose() };
}

/**
 * What attention reads of packed rows, [tokens] of two u32: the first key that a token attends to, and one past the last
 * query that attends to it, both counted in its sequence.
 *
 * @param positions - [sequences · seq]: the position of each token in its row; a row begins at 0, and each sequence begins a row.
 */
export function rowSpans(
  positions: Uint32Array,
  { seq, window = Infinity }: { readonly seq: number; readonly window?: number | undefined },
): Uint32Array<ArrayBuffer> {
  const spans = new Uint32Array(2 * positions.length);
  let end = seq;
  for (let index = positions.length - 1; index >= 0; index--) {
    const at = index % seq, position = positions[index] ?? 0;
    if (at === seq - 1) end = seq;
    spans[2 * index] = at - Math.min(position, window - 1);
    spans[2 * index + 1] = Math.min(end, at + window);
    if (position === 0) end = at;
  }
  return spans;
}

/** Writes the rows of packed sequences into a pass for them; without positions each sequence is one row. */
export function writeRows(
  { device, act, ranges }: Pick<Pass, "device" | "act" | "ranges">,
  positions?: Uint32Array<ArrayBuffer>,
): void {
  if (ranges?.of !== "rows") throw new Error("this pass is not for packed rows");
  const { rows, shape: { seq } } = act, own = positions ?? Uint32Array.from({ length: rows }, (_, row) => row % seq);
  for (const [window, buffer] of ranges.spans) device.write(buffer, rowSpans(own, { seq, window }));
  device.write(ranges.positions, own);
}
