// Learned position embeddings.
import type { RopePositions } from "./rope.ts";
import type { KernelSource } from "../source.ts";

/**
 * x[m, c] += P[position(m) + offset, c]. The position of row m is that of `ropeKernel`: m % seq, position[0] + m % seq
 * with "offset", or position[m] with "rows". Positions past the table use its last row.
 * Shapes: x [rows, stride]; P [positions, stride], padding zero. Grid: x columns / 4, y rows. Adds (+=) to x.
 * Bindings: P, position (with "offset" and "rows"), x, params.
 */
export function positionsKernel(positions: RopePositions): KernelSource {
  const isPlain = positions === "plain", shift = isPlain ? 0 : 1;
  const at = {
    plain: "id.y % params.seq",
    offset: "id.y % params.seq + position[0]",
    rows: "position[id.y]",
  }[positions];
  return {
    name: `positions_${positions}`,
    bindings: ["read", ...(isPlain ? [] : ["read" as const]), "storage", "uniform"],
    code: `struct Params { seq: u32, stride4: u32, positions: u32, offset: u32 }
@group(0) @binding(0) var<storage, read> table: array<vec4f>;
${isPlain ? "" : "@group(0) @binding(1) var<storage, read> position: array<u32>;"}
@group(0) @binding(${1 + shift}) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(${2 + shift}) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  let row = min(${at} + params.offset, params.positions - 1u);
  x[id.y * params.stride4 + id.x] += table[row * params.stride4 + id.x];
}
`,
  };
}
