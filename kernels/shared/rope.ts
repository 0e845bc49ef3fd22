// Rotary position embedding in place.
import type { KernelSource } from "../source.ts";

/** Source of the position of a row. */
export type RopePositions = "plain" | "offset" | "rows";

/**
 * (x[i], x[i + half]) ← (x[i] cos − x[i + half] sin, x[i + half] cos + x[i] sin) for each head of each row,
 * half = half of the dims that rotate, the first of a head; params.sign = −1 rotates back.
 * Shapes: x [rows, stride] f32, head h from column h·headStride; table [positions, half] of (cos, sin). The position of
 * row m is m % seq, position[0] + m % seq with "offset", or position[m] with "rows". Grid: x = rows·half / 64, one
 * invocation per row and pair for all heads.
 * Bindings: table, position (with "offset" and "rows"), x, params. Changes x.
 */
export function ropeKernel(positions: RopePositions): KernelSource {
  const isPlain = positions === "plain", shift = isPlain ? 0 : 1;
  const at = {
    plain: "row % params.seq",
    offset: "row % params.seq + position[0]",
    rows: "position[row]",
  }[positions];
  return {
    name: isPlain ? "rope" : `rope_${positions}`,
    bindings: ["read", ...(isPlain ? [] : ["read" as const]), "storage", "uniform"],
    code:
      `struct Params { rows: u32, seq: u32, heads: u32, half: u32, headStride: u32, stride: u32, positions: u32, sign: f32 }
@group(0) @binding(0) var<storage, read> table: array<vec2f>;
${isPlain ? "" : "@group(0) @binding(1) var<storage, read> position: array<u32>;"}
@group(0) @binding(${1 + shift}) var<storage, read_write> x: array<f32>;
@group(0) @binding(${2 + shift}) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 64u;
  if (index >= params.rows * params.half) { return; }
  let row = index / params.half;
  let i = index % params.half;
  let at = min(${at}, params.positions - 1u);
  let turn = table[at * params.half + i];
  let sine = turn.y * params.sign;
  var low = row * params.stride + i;
  for (var h = 0u; h < params.heads; h++) {
    let a = x[low];
    let b = x[low + params.half];
    x[low] = a * turn.x - b * sine;
    x[low + params.half] = b * turn.x + a * sine;
    low += params.headStride;
  }
}
`,
  };
}
