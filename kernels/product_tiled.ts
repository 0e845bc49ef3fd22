// Matrix product by workgroup tiles from storage buffers: the design for real GPUs. Owns its WGSL; imports nothing but types.
import type { KernelSource } from "./mod.ts";

/** One kernel of the family y[m, n] (=|+=) Σₖ x[m, k] · opW(W)[k, n]. */
export interface TiledProduct {
  /** W is stored [n][k] (forward) instead of [k][n] (backward). */
  readonly transposeB: boolean;
  readonly dtype: "f32" | "f16";
  /** Rows of y an invocation owns; a workgroup of 16 × 16 invocations owns 16 times as many, and 64 columns. */
  readonly rows: number;
}

/** Columns of y that one workgroup owns. */
export const TILED_COLUMNS = 64;
/** Values of k in one step. */
export const TILED_STEP = 16;
/** Invocations of a workgroup along each side of its tile. */
export const TILED_SIDE = 16;

/**
 * Bindings x, W (f32, or f16 in pairs), y, params. Grid: x tiles of 16 · `rows` rows, y tiles of 64 columns.
 * W's both sides are multiples of 64; x has no need of rows beyond m.
 */
export function productTiled({ transposeB, dtype, rows }: TiledProduct): KernelSource {
  const tileRows = TILED_SIDE * rows;
  return {
    name: `product-tiled-${transposeB ? "forward" : "backward"}-${dtype}-${rows}`,
    bindings: ["read", "read", "storage", "uniform"],
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
@group(0) @binding(1) var<storage, read> w: array<${dtype === "f16" ? "vec2u" : "vec4f"}>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<uniform> p: Params;

// [k][m] and [k][n]; 4 more than the tile, against bank conflicts of the transposing stores.
const PITCH_X = ${tileRows + 4}u;
const PITCH_W = ${TILED_COLUMNS + 4}u;
var<workgroup> tile_x: array<f32, ${TILED_STEP * (tileRows + 4)}>;
var<workgroup> tile_w: array<f32, ${TILED_STEP * (TILED_COLUMNS + 4)}>;

fn load_w(index: u32) -> vec4f {
${
      dtype === "f16"
        ? "  let pair = w[index];\n  return vec4f(unpack2x16float(pair.x), unpack2x16float(pair.y));"
        : "  return w[index];"
    }
}

@compute @workgroup_size(${TILED_SIDE}, ${TILED_SIDE}) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) id: vec3u) {
  let t = id.y * ${TILED_SIDE}u + id.x;
  let m0 = group.x * ${tileRows}u;
  let n0 = group.y * ${TILED_COLUMNS}u;
  var sum: array<vec4f, ${rows}>;
  for (var step = 0u; step < p.steps; step++) {
    if (t < ${tileRows * 4}u) {
      let m = t / 4u;
      let k = t % 4u;
      let value = x[min(m0 + m, p.rows - 1u) * p.strideX + p.first + step * 4u + k];
      for (var j = 0u; j < 4u; j++) { tile_x[(k * 4u + j) * PITCH_X + m] = value[j]; }
    }
    {
${
      transposeB
        ? `      let n = t / 4u;
      let k = t % 4u;
      let value = load_w((n0 + n) * p.strideW + step * 4u + k);
      for (var j = 0u; j < 4u; j++) { tile_w[(k * 4u + j) * PITCH_W + n] = value[j]; }`
        : `      let k = t / 16u;
      let n = t % 16u;
      let value = load_w((step * ${TILED_STEP}u + k) * p.strideW + n0 / 4u + n);
      for (var j = 0u; j < 4u; j++) { tile_w[k * PITCH_W + n * 4u + j] = value[j]; }`
    }
    }
    workgroupBarrier();
    for (var k = 0u; k < ${TILED_STEP}u; k++) {
      let at = k * PITCH_W + id.x * 4u;
      let b = vec4f(tile_w[at], tile_w[at + 1u], tile_w[at + 2u], tile_w[at + 3u]);
${lines(rows, (r) => `      sum[${r}] += tile_x[k * PITCH_X + id.y * ${rows}u + ${r}u] * b;`)}
    }
    workgroupBarrier();
  }
  let n4 = n0 / 4u + id.x;
  if (n4 * 4u >= p.columns) { return; }
${
      lines(rows, (r) =>
        `  {
    let m = m0 + id.y * ${rows}u + ${r}u;
    let at = p.offset + m * p.strideY + n4;
    if (m < p.rows) {
      if (p.accumulate == 1u) { sum[${r}] += y[at]; }
      y[at] = sum[${r}];
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
