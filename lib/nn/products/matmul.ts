// General f32 products of views of buffers: the narrow products of LoRA and their gradients.
import {
  BUFFER_GROUP,
  productBuffer,
  productTexture,
  type TextureProduct,
  textureStep,
  textureTileColumns,
} from "../../../kernels/mod.ts";
import type { Device } from "../../gpu/device.ts";
import { compileKernel, sourceOf } from "../../gpu/kernel.ts";
import { f32, type Plan, u32 } from "../../gpu/plan.ts";
import { COLUMN_ALIGN } from "../padding.ts";
import type { MatrixPlacement } from "./matrix.ts";
import { type BufferView, type OperandPool, viewTexture } from "./operand.ts";
import { type Product, productTile, sharesA } from "./variants.ts";

/** C[m, n] (=|+=) alpha · opA(A)[m, k] · opB(B)[k, n]. */
export interface MatmulOptions {
  readonly a: BufferView;
  readonly b: BufferView;
  readonly c: BufferView;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** A is stored [k][m]. Default false: [m][k]. */
  readonly transposeA?: boolean;
  /** B is stored [n][k]. Default false: [k][n]. */
  readonly transposeB?: boolean;
  /** Default 1. */
  readonly alpha?: number;
  /** += instead of =. Default false. */
  readonly accumulate?: boolean;
  /** See {@link rowParts}; only for products from buffers. */
  readonly dispatchCost?: number | undefined;
  /**
   * Scratch for the operands if products read textures. Much faster there, especially if a or b already is an operand.
   */
  readonly pool?: OperandPool;
}

/**
 * Records a general product. C must not share a buffer with A or B. The sum over k has a fixed order, and only m × n
 * values are written.
 */
export function recordMatmul(plan: Plan, options: MatmulOptions): void {
  const { a, b, c } = options;
  if (a.buffer === c.buffer || b.buffer === c.buffer) {
    throw new Error("recordMatmul: the result lies in an operand's buffer");
  }
  const { pool } = options;
  if (pool?.placement !== "texture") recordBuffer(plan, options);
  else textureParts(plan.device, options).forEach((part) => recordTexture(plan, pool, part));
}

/**
 * The product as its kernel sees it. From textures, lanes run along the longer side of C: if that is m, the kernel
 * computes Cᵀ = opB(B)ᵀ · opA(A)ᵀ.
 */
export function matmulProduct(
  placement: MatrixPlacement,
  { m, n, k, transposeA = false, transposeB = false }: Omit<MatmulOptions, "a" | "b" | "c">,
): Product {
  const isSwapped = placement === "texture" && m > n;
  const letters = isSwapped ? [!transposeB, !transposeA, true] : [transposeA, transposeB, false];
  return {
    family: `matmul-${placement}`,
    layout: letters.map((isTransposed) => isTransposed ? "t" : "n").join(""),
    dtype: "f32",
    m: isSwapped ? n : m,
    n: isSwapped ? m : n,
    k,
  };
}

/**
 * Splits a product into parts whose operands fit the height of a texture of the device. If B is stored [n][k], the
 * columns of C are split; otherwise k is, and the partial sums are added in order. The caller limits the rows of an A
 * stored [m][k]. Parts start at whole texels and at offsets that a copy supports.
 */
function textureParts(device: Device, options: MatmulOptions): readonly MatmulOptions[] {
  const { a, b, c, n, k, transposeA = false, transposeB = false, accumulate = false } = options;
  const most = Math.floor(device.limits.maxTextureDimension2D / COLUMN_ALIGN) * COLUMN_ALIGN;
  if (transposeB && n > most) {
    return partsOf(n, most).flatMap(({ first, rows }) =>
      textureParts(device, {
        ...options,
        b: viewFrom(b, first * b.stride),
        c: { ...c, offset: (c.offset ?? 0) + first },
        n: rows,
      })
    );
  }
  if (k <= most || (transposeB && !transposeA)) return [options];
  return partsOf(k, most).map(({ first, rows }) => ({
    ...options,
    a: viewFrom(a, transposeA ? first * a.stride : first),
    b: viewFrom(b, transposeB ? first : first * b.stride),
    k: rows,
    accumulate: accumulate || first > 0,
  }));
}

/** The view from a later value on. A texture of the whole view does not start there and is not used. */
function viewFrom(view: BufferView, first: number): BufferView {
  if (first === 0) return view;
  return { buffer: view.buffer, offset: (view.offset ?? 0) + first, stride: view.stride };
}

function recordTexture(plan: Plan, pool: OperandPool, options: MatmulOptions): void {
  const { a, b, c, m, n, k, transposeA = false, transposeB = false, alpha = 1, accumulate = false } = options;
  const textureA = viewTexture(plan, pool, {
    view: a,
    rows: transposeA ? k : m,
    columns: transposeA ? m : k,
    slot: "matmul-a",
  });
  const textureB = viewTexture(plan, pool, {
    view: b,
    rows: transposeB ? n : k,
    columns: transposeB ? k : n,
    slot: "matmul-b",
  });
  const product = matmulProduct("texture", options), { m: rows, n: columns } = product;
  const isSwapped = product.layout.endsWith("t");
  const offset = c.offset ?? 0;
  const tile = productTile(plan.device, product);
  const variant: TextureProduct = {
    rows: tile.rows,
    vectors: tile.columns / 4,
    dtype: "f32",
    transposeA: product.layout.startsWith("t"),
    transposeB: product.layout[1] === "t",
    transposeC: isSwapped,
    scalarC: isSwapped || offset % 4 !== 0 || c.stride % 4 !== 0 || columns % 4 !== 0,
    tail: k % 4 !== 0,
    broadcast: !product.layout.startsWith("t") && sharesA(plan.device, tile),
  };
  const params = [
    u32(rows),
    u32(columns),
    u32(k),
    u32(Math.ceil(k / textureStep(variant))),
    u32(0), // start
    u32(0), // first
    u32(offset),
    u32(c.stride),
    u32(accumulate ? 1 : 0),
    f32(alpha),
  ];
  const [first, second] = isSwapped ? [textureB, textureA] : [textureA, textureB];
  plan.dispatch(compileKernel(plan.device, sourceOf(productTexture, variant)), [first, second, c.buffer, { params }], {
    groups: [Math.ceil(rows / variant.rows), Math.ceil(columns / textureTileColumns(variant))],
    cost: 2 * m * n * k,
  });
}

/** Number of workgroups along x, within the limit of every adapter: 65535. */
const MOST_GROUPS = 32768;

function recordBuffer(plan: Plan, options: MatmulOptions): void {
  const { a, b, c, m, n, k, transposeA = false, transposeB = false, alpha = 1, accumulate = false } = options;
  const tile = productTile(plan.device, matmulProduct("buffer", options));
  const tilesN = Math.ceil(n / tile.columns), cost = 2 * n * k, { dispatchCost } = options;
  const [strideAm, strideAk] = transposeA ? [1, a.stride] : [a.stride, 1];
  for (const { first, rows } of rowParts(m, { cost, tileRows: tile.rows, dispatchCost })) {
    const groups = Math.ceil(Math.ceil(rows / tile.rows) * tilesN / BUFFER_GROUP);
    const width = Math.min(groups, MOST_GROUPS);
    const params = [
      u32(rows),
      u32(n),
      u32(k),
      u32(tilesN),
      u32((a.offset ?? 0) + first * strideAm),
      u32(strideAm),
      u32(strideAk),
      u32(b.offset ?? 0),
      u32(transposeB ? 1 : b.stride),
      u32(transposeB ? b.stride : 1),
      u32((c.offset ?? 0) + first * c.stride),
      u32(c.stride),
      u32(accumulate ? 1 : 0),
      f32(alpha),
    ];
    plan.dispatch(
      compileKernel(plan.device, sourceOf(productBuffer, tile)),
      [a.buffer, b.buffer, c.buffer, { params }],
      {
        groups: [width, Math.ceil(groups / width)],
        cost: cost * rows,
      },
    );
  }
}

/**
 * Floating-point operations of one dispatch. It takes a few hundredths to tenths of a second on small GPUs, whose
 * drivers abort dispatches that take seconds.
 */
const DISPATCH_COST = 1e10;

/**
 * Splits the rows of a product into dispatches of at most `dispatchCost` floating-point operations (default 10¹⁰), in
 * whole tiles. `cost` is the cost of one row. Splitting does not change any bit of the result.
 */
export function rowParts(
  rows: number,
  { cost, tileRows, dispatchCost = DISPATCH_COST }: {
    readonly cost: number;
    readonly tileRows: number;
    readonly dispatchCost?: number | undefined;
  },
): RowPart[] {
  return partsOf(rows, tileRows * Math.max(1, Math.floor(dispatchCost / Math.max(1, cost * tileRows))));
}

interface RowPart {
  readonly first: number;
  readonly rows: number;
}

function partsOf(rows: number, part: number): RowPart[] {
  return Array.from({ length: Math.ceil(rows / part) }, (_, index) => {
    const first = index * part;
    return { first, rows: Math.min(part, rows - first) };
  });
}
