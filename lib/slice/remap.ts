// A weight source whose tensors are rows and columns of another source: selected, scaled, padded with zeros.
import { refuse } from "../core/errors.ts";
import { elementCount, rowWindow } from "../spec/row_range.ts";
import { blocksOf, type QuantRows } from "../spec/quant.ts";
import type { RowRange, WeightSource } from "../spec/source.ts";
import { inOrder, onThread } from "../core/threads.ts";
import { remapRows } from "./remap_rows.ts";
import { type DecoderSpec, layerOf, type LayerSpec, projectionName, tensorShapes } from "../spec/decoder.ts";

/** Low-rank update W + scale·B·A of the base's tensor: A [rank, in], B [out, rank]. */
export interface LowRank {
  readonly a: Float32Array;
  readonly b: Float32Array;
  readonly rank: number;
  readonly scale: number;
}

/**
 * How to derive a tensor from a base tensor. Maps give the base row or column for each new one; −1 stands for zeros.
 * Without a map, all are used in order.
 */
export interface Remap {
  readonly from: string;
  /** Base tensors of the same shape to add, before rows and columns are selected. */
  readonly plus?: readonly string[] | undefined;
  readonly rows?: Int32Array | undefined;
  readonly cols?: Int32Array | undefined;
  /** Factor of each new row. */
  readonly rowScale?: Float64Array | undefined;
  /** Factor of each new column. */
  readonly colScale?: Float64Array | undefined;
  /** Low-rank update to add before rows and columns are selected. */
  readonly lowRank?: LowRank | undefined;
}

/** A tensor that does not use the base: all values are equal. */
export interface Constant {
  readonly fill: number;
}

/** Number of base values read at once, in whole rows. */
const CHUNK_VALUES = 1 << 22;

/** Most base values between two rows that are read to save a read: whole experts that go are not. */
const GAP_VALUES = 1 << 16;

/**
 * A source with the tensors of `spec`, each derived as `remap` says. Lazy: a read loads only what it needs of the base,
 * one chunk of rows at a time. Products and sums are computed in f64 and rounded once.
 *
 * @throws CompressoError("input") for a tensor that `spec` does not contain.
 */
export function remapSource(
  base: WeightSource,
  spec: DecoderSpec,
  remap: (name: string) => Remap | Constant,
): WeightSource {
  const shapes = tensorShapes(spec), baseShapes = tensorShapes(base.spec);
  if (spec.layers !== base.spec.layers) origins.set(spec.layers, headRowsOf(base, spec.layers, remap));
  const shapeOf = (name: string): number[] => {
    const shape = shapes.get(name);
    if (shape) return shape;
    refuse("input", `cannot read the tensor ${name}`, {
      rule: "the model has this tensor",
      value: "no such tensor",
    });
  };
  return {
    spec,
    ...(base.provenance ? { provenance: base.provenance } : {}),
    storedDtype(name): string {
      shapeOf(name);
      const made = remap(name);
      return "fill" in made || isComputed(made) ? "f32" : base.storedDtype(made.from);
    },
    async read(name, range): Promise<Float32Array<ArrayBuffer>> {
      const { start, count, width } = rowWindow(name, shapeOf(name), { rows: range });
      const out = new Float32Array(count * width);
      const made = remap(name);
      if ("fill" in made) return out.fill(made.fill);
      const baseShape = baseShapes.get(made.from) ?? [];
      const baseWidth = elementCount(baseShape.slice(1));
      const plain = !made.rows && !made.cols && !isComputed(made);
      if (plain) return await base.read(made.from, ...(range ? [range] : []));
      const a = made.lowRank && columnsOf(made.lowRank, made.cols, baseWidth);
      const runs = [...runsOf(made.rows, { start, count }, baseWidth)];
      const module = (): string => import.meta.resolve("./remap_rows.ts");
      await inOrder(runs, async ({ at, end, first, last }) => {
        const values = await readSum(base, made, { start: first, count: last - first + 1 });
        const work = {
          values,
          baseWidth,
          rows: Int32Array.from({ length: end - at }, (_, i) => Math.max(-1, baseRow(made, at + i) - first)),
          cols: made.cols ?? null,
          rowScale: made.rowScale?.slice(at, end) ?? null,
          colScale: made.colScale ?? null,
          update: made.lowRank && a ? { a, factors: factorsOf(made, { at, end }, made.lowRank) } : null,
        };
        return await onThread(module, remapRows, [work], { transfer: [values.buffer] });
      }, (rows, { at }) => out.set(rows, (at - start) * width));
      return out;
    },
    async readBlocks(name, options): Promise<QuantRows | null> {
      const made = remap(name), { start, count, width } = rowWindow(name, shapeOf(name), { rows: options.rows });
      if (!hasWholeRows(made)) return null;
      if (!made.rows) return await base.readBlocks?.(made.from, options) ?? null;
      const perRow = blocksOf(width);
      const codes = new Uint8Array(count * width), scales = new Uint32Array(count * perRow);
      for (const { at, end, first, last } of runsOf(made.rows, { start, count }, width)) {
        const rows = { start: first, count: last - first + 1 };
        const blocks = await base.readBlocks?.(made.from, { ...options, rows });
        if (!blocks) return null;
        for (let place = at; place < end; place++) {
          const row = (made.rows[place] ?? -1) - first;
          if (row < 0) return null;
          codes.set(blocks.codes.subarray(row * width, (row + 1) * width), (place - start) * width);
          scales.set(blocks.scales.subarray(row * perRow, (row + 1) * perRow), (place - start) * perRow);
        }
      }
      return { codes, scales };
    },
    async readStored(name, range): Promise<Uint8Array<ArrayBuffer> | null> {
      const made = remap(name), { start, count, width } = rowWindow(name, shapeOf(name), { rows: range });
      if (!hasWholeRows(made)) return null;
      if (!made.rows) return await base.readStored?.(made.from, range) ?? null;
      let out: Uint8Array<ArrayBuffer> | null = null;
      for (const { at, end, first, last } of runsOf(made.rows, { start, count }, width)) {
        const rows = { start: first, count: last - first + 1 };
        const stored = await base.readStored?.(made.from, rows);
        if (!stored) return null;
        const rowBytes = stored.length / rows.count;
        out ??= new Uint8Array(count * rowBytes);
        for (let place = at; place < end; place++) {
          const row = (made.rows[place] ?? -1) - first;
          if (row < 0) return null;
          out.set(stored.subarray(row * rowBytes, (row + 1) * rowBytes), (place - start) * rowBytes);
        }
      }
      return out;
    },
  };
}

/** Whether values are computed from those of the base. */
function isComputed({ rowScale, colScale, lowRank, plus = [] }: Remap): boolean {
  return Boolean(rowScale || colScale || lowRank) || plus.length > 0;
}

/** Whether each row is one of the base, unchanged. */
function hasWholeRows(made: Remap | Constant): made is Remap {
  return !("fill" in made) && !made.cols && !isComputed(made);
}

/** New rows `at` to `end` whose base rows are in order, from `first` to `last`, within one chunk and without a large gap. */
interface Run {
  readonly at: number;
  readonly end: number;
  readonly first: number;
  readonly last: number;
}

/** Splits a range of new rows into runs. Rows without a base row, −1, are within a run or left out. */
function* runsOf(rows: Int32Array | undefined, { start, count }: RowRange, baseWidth: number): Generator<Run> {
  const rowsIn = (values: number): number => Math.max(1, Math.floor(values / Math.max(1, baseWidth)));
  const most = rowsIn(CHUNK_VALUES), gap = rowsIn(GAP_VALUES), stop = start + count;
  const rowOf = (index: number): number => rows ? rows[index] ?? -1 : index;
  for (let at = start; at < stop;) {
    const first = rowOf(at);
    if (first < 0) {
      at++;
      continue;
    }
    let end = at + 1, last = first;
    for (; end < stop; end++) {
      const row = rowOf(end);
      if (row >= 0 && (row < last || row - last > gap || row - first >= most)) break;
      if (row >= 0) last = row;
    }
    yield { at, end, first, last };
    at = end;
  }
}

/** Base rows of q_proj and k_proj of a layer; absent if all rows are used in order. */
export interface HeadOrigin {
  readonly q: Int32Array | undefined;
  readonly k: Int32Array | undefined;
}

/**
 * Keyed by the layers, since every slicing creates a new array, and LoRA is converted knowing only the shape of a
 * source.
 */
const origins = new WeakMap<readonly LayerSpec[], readonly HeadOrigin[]>();

/**
 * Origin of the heads of each layer, for layers that {@link remapSource} made in this program. The shape alone does not
 * contain it.
 */
export function headOrigins({ layers }: Pick<DecoderSpec, "layers">): readonly HeadOrigin[] {
  return origins.get(layers) ?? [];
}

function headRowsOf(
  base: WeightSource,
  layers: readonly LayerSpec[],
  remap: (name: string) => Remap | Constant,
): readonly HeadOrigin[] {
  const before = headOrigins(base.spec);
  const rowsOf = (layer: number, projection: "q" | "k"): Int32Array | undefined => {
    const made = remap(projectionName(layer, projection));
    return "fill" in made ? undefined : made.rows ?? before[layerOf(made.from)]?.[projection];
  };
  return layers.map((_, layer) => ({ q: rowsOf(layer, "q"), k: rowsOf(layer, "k") }));
}

/** Rows of the base tensor plus those of the tensors to add. */
async function readSum(
  base: WeightSource,
  { from, plus = [] }: Remap,
  rows: RowRange,
): Promise<Float32Array<ArrayBuffer>> {
  const sum = await base.read(from, rows);
  for (const name of plus) {
    const values = await base.read(name, rows);
    for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] ?? 0) + (values[i] ?? 0);
  }
  return sum;
}

/** The base row of a new row; −1 for zeros. */
function baseRow({ rows }: Remap, place: number): number {
  return rows ? rows[place] ?? -1 : place;
}

/** A at the new columns, [rank, new columns]; zeros for columns of −1. */
function columnsOf({ a, rank }: LowRank, cols: Int32Array | undefined, baseWidth: number): Float64Array {
  if (!cols) return new Float64Array(a);
  const width = cols.length, own = new Float64Array(rank * width);
  for (let r = 0; r < rank; r++) {
    for (let i = 0; i < width; i++) own[r * width + i] = a[r * baseWidth + (cols[i] as number)] ?? 0;
  }
  return own;
}

/** Factors of the rows of A for new rows, [new rows, rank]. */
function factorsOf(made: Remap, { at, end }: Pick<Run, "at" | "end">, { b, rank, scale }: LowRank): Float64Array {
  const factors = new Float64Array((end - at) * rank);
  for (let place = at; place < end; place++) {
    const row = baseRow(made, place);
    for (let r = 0; r < rank; r++) factors[(place - at) * rank + r] = scale * (b[row * rank + r] ?? 0);
  }
  return factors;
}
