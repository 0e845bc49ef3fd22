// Matrix product from storage buffers in workgroup tiles, for GPUs.
import type { KernelSource } from "../source.ts";
import { weightAccess, weightBindings, type WeightDtype } from "../shared/weight_access.ts";

/** One kernel of the family y[m, n] (=|+=) Σₖ x[m, k] · opW(W)[k, n]. */
export interface TiledProduct {
  /** W is stored [n][k] (forward) instead of [k][n] (backward). */
  readonly transposeB: boolean;
  readonly dtype: WeightDtype;
  /** Rows of y that an invocation owns; a workgroup of 16 × 16 invocations owns 16 times as many. */
  readonly rows: number;
  /** Columns of y that an invocation owns, a multiple of 4; a workgroup owns 16 times as many. */
  readonly columns: number;
}

/** Values of k per step. */
export const TILED_STEP = 16;
/** Invocations of a workgroup along each side of its tile. */
export const TILED_SIDE = 16;

/** Bytes of workgroup memory of a kernel. */
export function tiledBytes({ rows, columns }: Pick<TiledProduct, "rows" | "columns">): number {
  return 4 * TILED_STEP * (TILED_SIDE * (rows + columns) + 2 * PITCH_PAD);
}

/** Invocations of a workgroup. */
const GROUP = TILED_SIDE * TILED_SIDE;
/** Distance in columns between two vec4 of an invocation: neighbouring invocations read neighbouring columns. */
const SPAN = 4 * TILED_SIDE;
/** Padding of a tile row in f32, against bank conflicts of the transposing stores. */
const PITCH_PAD = 4;

/**
 * Bindings x, W (and its scales if it is block-quantised), y, params. Grid: x tiles of 16 · `rows` rows, y tiles of 16
 * · `columns` columns. The order of the sum is fixed: k ascending, for every tile. Both sides of W are multiples of
 * 64; x needs no rows beyond m.
 */
export function productTiled({ transposeB, dtype, rows, columns }: TiledProduct): KernelSource {
  const tileRows = TILED_SIDE * rows, tileColumns = TILED_SIDE * columns, vectors = columns / 4;
  const storage = { placement: "buffer", dtype } as const, weights = weightBindings(storage), next = 1 + weights.length;
  return {
    name: `product-tiled-${transposeB ? "forward" : "backward"}-${dtype}-${rows}x${columns}`,
    bindings: ["read", ...weights, "storage", "uniform"],
    code: `struct Params {
  rows: u32,       // m
  columns: u32,    // values written of each row of y, a multiple of 4
  steps: u32,      // steps of k
  first: u32,      // first vec4 of a row of x
  strideX: u32,    // of x, in vec4
  strideW: u32,    // of W, in vec4
  offset: u32,     // first vec4 of y
  strideY: u32,    // of y, in vec4
  accumulate: u32, // 1: +=, 0: =
}
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
${weightAccess(storage, 1)}
@group(0) @binding(${next}) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(${next + 1}) var<uniform> p: Params;

// [k][m] and [k][n]
const PITCH_X = ${tileRows + PITCH_PAD}u;
const PITCH_W = ${tileColumns + PITCH_PAD}u;
var<workgroup> tile_x: array<f32, ${TILED_STEP * (tileRows + PITCH_PAD)}>;
var<workgroup> tile_w: array<f32, ${TILED_STEP * (tileColumns + PITCH_PAD)}>;

@compute @workgroup_size(${TILED_SIDE}, ${TILED_SIDE}) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) id: vec3u) {
  let t = id.y * ${TILED_SIDE}u + id.x;
  let m0 = group.x * ${tileRows}u;
  let n0 = group.y * ${tileColumns}u;
  var sum: array<vec4f, ${rows * vectors}>;
  workgroupBarrier(); // some drivers zero workgroup memory late: see CONTRIBUTING.md
  for (var step = 0u; step < p.steps; step++) {
    for (var i = t; i < ${tileRows * 4}u; i += ${GROUP}u) {
      let m = i / 4u;
      let k = i % 4u;
      let value = x[min(m0 + m, p.rows - 1u) * p.strideX + p.first + step * 4u + k];
      for (var j = 0u; j < 4u; j++) { tile_x[(k * 4u + j) * PITCH_X + m] = value[j]; }
    }
    for (var i = t; i < ${tileColumns * 4}u; i += ${GROUP}u) {
${
      transposeB
        ? `      let n = i / 4u;
      let k = i % 4u;
      let value = load_weight4(min(n0 + n, p.columns - 1u), step * 4u + k, p.strideW);
      for (var j = 0u; j < 4u; j++) { tile_w[(k * 4u + j) * PITCH_W + n] = value[j]; }`
        : `      let k = i / ${tileColumns / 4}u;
      let n = i % ${tileColumns / 4}u;
      let value = load_weight4(step * ${TILED_STEP}u + k, min(n0 / 4u + n, p.columns / 4u - 1u), p.strideW);
      for (var j = 0u; j < 4u; j++) { tile_w[k * PITCH_W + n * 4u + j] = value[j]; }`
    }
    }
    workgroupBarrier();
    for (var k = 0u; k < ${TILED_STEP}u; k++) {
${
      lines(vectors, (v) =>
        `      let at${v} = k * PITCH_W + id.x * 4u + ${v * SPAN}u;
      let b${v} = vec4f(${[0, 1, 2, 3].map((j) => `tile_w[at${v} + ${j}u]`).join(", ")});`)
    }
${
      lines(rows * vectors, (i) => {
        const r = Math.floor(i / vectors);
        return `      sum[${i}] += tile_x[k * PITCH_X + id.y * ${rows}u + ${r}u] * b${i % vectors};`;
      })
    }
    }
    workgroupBarrier();
  }
${
      lines(rows * vectors, (i) =>
        `  {
    let m = m0 + id.y * ${rows}u + ${Math.floor(i / vectors)}u;
    let n4 = n0 / 4u + id.x + ${(i % vectors) * SPAN / 4}u;
    let at = p.offset + m * p.strideY + n4;
    if (m < p.rows && n4 * 4u < p.columns) {
      if (p.accumulate == 1u) { sum[${i}] += y[at]; }
      y[at] = sum[${i}];
    }
  }`)
    }
}
`,
  };
}

function lines(count: number, line: (index: number) => string): string {
  return Array.from({ length: count }, (_, index) => line(index)).join("\n");
}
