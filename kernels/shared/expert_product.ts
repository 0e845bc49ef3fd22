// Product of rows that are sorted by expert with the matrix of their expert, stacked in one matrix.
import type { KernelSource } from "../source.ts";
import { weightAccess, weightBindings, type WeightStorage } from "./weight_access.ts";

/** One kernel of the family y[s] = W[expert of s]·x[row of s]. */
export interface ExpertProduct extends WeightStorage {
  /** Slots of a tile, all of one expert. */
  readonly tile: number;
  /** Columns of a workgroup, one for each invocation. */
  readonly lanes: number;
}

/**
 * y[s, n] (=) Σₖ x[row(s), k] · W[e · columns + n, k] for the slots s of each tile, where e is the tile's expert: k
 * ascending in steps of four. Padding slots compute what a slot of the tile does, padding columns become 0. A tile
 * without expert, and rows of W outside of the shard, are skipped.
 *
 * Bindings x, W (and its scales), slots, tiles, y, params. row(s) = slots[s] / perRow with perRow > 0, else s. Grid: x
 * tiles, y strideY / lanes.
 */
export function expertProduct({ placement, dtype, tile, lanes }: ExpertProduct): KernelSource {
  const storage = { placement, dtype }, weights = weightBindings(storage), next = 1 + weights.length;
  const each = (line: (slot: number) => string): string => Array.from({ length: tile }, (_, i) => line(i)).join("\n");
  return {
    name: `expert-product-${placement}-${dtype}-${tile}x${lanes}`,
    bindings: ["read", ...weights, "read", "read", "storage", "uniform"],
    code: `struct Params {
  columns: u32, // rows of W of one expert
  first: u32,   // first row of W in the shard
  rows: u32,    // rows of W in the shard
  steps: u32,   // vec4 of a row of x that are summed
  strideX: u32, // of x, in vec4
  strideW: u32, // of W, in vec4
  strideY: u32, // of y, in f32
  perRow: u32,  // pairs of a row of x; 0 where x has a row for each slot
}
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
${weightAccess(storage, 1)}
@group(0) @binding(${next}) var<storage, read> slots: array<u32>;
@group(0) @binding(${next + 1}) var<storage, read> tiles: array<u32>;
@group(0) @binding(${next + 2}) var<storage, read_write> y: array<f32>;
@group(0) @binding(${next + 3}) var<uniform> p: Params;

const NONE = 0xffffffffu;

fn row_of(slot: u32, other: u32) -> u32 {
  let pair = slots[slot];
  let known = select(pair, slots[other], pair == NONE);
  return select(known / max(p.perRow, 1u), slot, p.perRow == 0u);
}

@compute @workgroup_size(${lanes}) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) id: vec3u) {
  let expert = tiles[group.x];
  let n = group.y * ${lanes}u + id.x;
  if (expert == NONE || n >= p.strideY) { return; }
  let slot = group.x * ${tile}u;
  let at = slot * p.strideY + n;
  if (n >= p.columns) {
${each((i) => `    y[at + ${i}u * p.strideY] = 0.0;`)}
    return;
  }
  let row = expert * p.columns + n;
  if (row < p.first || row >= p.first + p.rows) { return; }
${each((i) => `  let x${i} = row_of(slot + ${i}u, slot) * p.strideX;\n  var sum${i} = 0.0;`)}
  for (var k = 0u; k < p.steps; k++) {
    let w = load_weight4(row - p.first, k, p.strideW);
${each((i) => `    sum${i} += dot(x[x${i} + k], w);`)}
  }
${each((i) => `  y[at + ${i}u * p.strideY] = sum${i};`)}
}
`,
  };
}
