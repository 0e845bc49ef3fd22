// Gated short convolutions over the tokens of a text, forward and backward.
import type { KeyRanges } from "./attention.ts";
import type { KernelSource } from "../source.ts";

/** What a row's earlier tokens are: those of one text, of a packed row, or a node's ancestors in a tree. */
export type ConvRanges = "text" | Exclude<KeyRanges, "window">;

/** The position of row `row` in its text, and the row of the token before `row`. */
const PLACES: Readonly<Record<ConvRanges, string>> = {
  text: `fn position_of(row: u32) -> u32 { return row % params.seq; }
fn before(row: u32) -> u32 { return row - 1u; }`,
  rows: `fn position_of(row: u32) -> u32 { return positions[row]; }
fn before(row: u32) -> u32 { return row - 1u; }`,
  trees: `fn position_of(row: u32) -> u32 { return positions[row]; }
fn before(row: u32) -> u32 { return parents[row]; }`,
};

const PARAMS = "struct Params { rows: u32, width: u32, stride: u32, stride3: u32, length: u32, seq: u32 }";

/** Buffers that say where texts begin. */
function buffersOf(ranges: ConvRanges): readonly string[] {
  return { text: [], rows: ["positions"], trees: ["positions", "parents"] }[ranges];
}

function declared(names: readonly string[], first: number): string {
  return names.map((name, at) => `@group(0) @binding(${first + at}) var<storage, read> ${name}: array<u32>;\n`).join(
    "",
  );
}

/**
 * y[m, c] = C[m, c] · Σ_d w[L − 1 − d, c] · (B·X)[m(d), c] over d = 0 … L − 1, where m(d) is the token d steps before m in its text;
 * before the text begins it is 0.
 * Shapes: bcx [rows, stride3], the columns B, C and X, `width` each; w [L, stride]; y [rows, stride], 0 in the columns from `width`.
 * Grid: x stride / 64, y rows. Writes (=) y.
 * Bindings: bcx, w, positions (with "rows" and "trees"), parents (with "trees"), y, params.
 */
export function shortConvKernel(ranges: ConvRanges): KernelSource {
  const names = buffersOf(ranges), next = 2 + names.length;
  return {
    name: `short_conv_${ranges}`,
    bindings: ["read", "read", ...names.map(() => "read" as const), "storage", "uniform"],
    code: `${PARAMS}
@group(0) @binding(0) var<storage, read> bcx: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
${declared(names, 2)}@group(0) @binding(${next}) var<storage, read_write> y: array<f32>;
@group(0) @binding(${next + 1}) var<uniform> params: Params;

${PLACES[ranges]}

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride) { return; }
  var sum = 0.0;
  if (id.x < params.width) {
    let steps = min(position_of(id.y) + 1u, params.length);
    var row = id.y;
    for (var d = 0u; d < steps; d++) {
      let at = row * params.stride3 + id.x;
      sum = fma(w[(params.length - 1u - d) * params.stride + id.x], bcx[at] * bcx[at + 2u * params.width], sum);
      if (d + 1u < steps) { row = before(row); }
    }
    sum *= bcx[id.y * params.stride3 + params.width + id.x];
  }
  y[id.y * params.stride + id.x] = sum;
}
`,
  };
}

/**
 * Backward of {@link shortConvKernel} for texts and packed rows, with u = B·X and v[m] the sum that C multiplies:
 *   dC[m] = dy[m] · v[m];  du[m] = Σ_d w[L − 1 − d] · (dy·C)[m + d] over tokens m + d of the same text;  dB = du·X, dX = du·B.
 * Shapes: as forward; dbcx [rows, stride3], 0 in the columns from 3·width. Grid: x (width + stride3 − 3·width) / 64, y rows.
 * Writes (=) dbcx.
 * Bindings: bcx, w, dy, positions (with "rows"), dbcx, params.
 */
export function shortConvBackward(ranges: Exclude<ConvRanges, "trees">): KernelSource {
  const names = buffersOf(ranges), next = 3 + names.length;
  return {
    name: `short_conv_backward_${ranges}`,
    bindings: ["read", "read", "read", ...names.map(() => "read" as const), "storage", "uniform"],
    code: `${PARAMS}
@group(0) @binding(0) var<storage, read> bcx: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
${declared(names, 3)}@group(0) @binding(${next}) var<storage, read_write> dbcx: array<f32>;
@group(0) @binding(${next + 1}) var<uniform> params: Params;

${PLACES[ranges]}

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  let column = id.x;
  let place = id.y * params.stride3;
  if (column >= params.width) {
    // The padding.
    let at = 2u * params.width + column;
    if (at < params.stride3) { dbcx[place + at] = 0.0; }
    return;
  }
  let steps = min(position_of(id.y) + 1u, params.length);
  var value = 0.0;
  for (var d = 0u; d < steps; d++) {
    let at = (id.y - d) * params.stride3 + column;
    value = fma(w[(params.length - 1u - d) * params.stride + column], bcx[at] * bcx[at + 2u * params.width], value);
  }
  var du = 0.0;
  for (var d = 0u; d < params.length; d++) {
    let row = id.y + d;
    if (row >= params.rows || position_of(row) < d) { break; }
    let slope = dy[row * params.stride + column] * bcx[row * params.stride3 + params.width + column];
    du = fma(w[(params.length - 1u - d) * params.stride + column], slope, du);
  }
  let b = bcx[place + column];
  let x = bcx[place + 2u * params.width + column];
  dbcx[place + column] = du * x;
  dbcx[place + params.width + column] = dy[id.y * params.stride + column] * value;
  dbcx[place + 2u * params.width + column] = du * b;
}
`,
  };
}
