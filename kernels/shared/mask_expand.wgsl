// Copies unit values to the slots that the decoder reads: slots[i] = z of its unit · z of the gate of its layer; either
// may be missing (NONE). Slots without both keep their value.
// Shapes: draws [units], z first; owners [count] of (unit, gate); slots [count]. Grid: x slots. Writes (=).
const NONE = 0xffffffffu;
struct Params { count: u32 }
@group(0) @binding(0) var<storage, read> draws: array<vec4f>;
@group(0) @binding(1) var<storage, read> owners: array<vec2u>;
@group(0) @binding(2) var<storage, read_write> slots: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.count) { return; }
  let owner = owners[id.x];
  if (owner.x == NONE && owner.y == NONE) { return; }
  var z = 1.0;
  if (owner.x != NONE) { z = draws[owner.x].x; }
  if (owner.y != NONE) { z *= draws[owner.y].x; }
  slots[id.x] = z;
}
