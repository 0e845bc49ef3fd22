// Embedding look-up from a frozen matrix in any storage.
import type { KernelSource } from "../source.ts";
import { weightAccess, weightBindings, type WeightStorage } from "./weight_access.ts";

/**
 * Bindings E (and its scales), tokens, x, params: x[m, c] = E[tokens[m], c] for the tokens of one shard of E (rows
 * firstRow … firstRow + count − 1); other rows are not written. With `isScaled`, times params.scale.
 * Shapes: tokens [rows] u32; x [rows, stride]. Grid: x columns / 4, y rows. Writes (=) x.
 */
export function embeddingKernel(
  storage: WeightStorage,
  { isScaled = false }: { readonly isScaled?: boolean } = {},
): KernelSource {
  const weights = weightBindings(storage), next = weights.length;
  return {
    name: `embedding-${storage.placement}-${storage.dtype}${isScaled ? "-scaled" : ""}`,
    bindings: [...weights, "read", "storage", "uniform"],
    code: `${weightAccess(storage, 0)}
struct Params { rows: u32, stride4: u32, firstRow: u32, count: u32${isScaled ? ", scale: f32" : ""} }
@group(0) @binding(${next}) var<storage, read> tokens: array<u32>;
@group(0) @binding(${next + 1}) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(${next + 2}) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  let token = tokens[id.y];
  if (token < params.firstRow || token >= params.firstRow + params.count) { return; }
  x[id.y * params.stride4 + id.x] = load_weight4(token - params.firstRow, id.x, params.stride4)${
      isScaled ? " * params.scale" : ""
    };
}
`,
  };
}
