// Copies unit values to the slots that the decoder reads: slots[i] = z of unit unitOf[i]; slots with unitOf = 0xffffffff keep their value.
// Shapes: draws [units], z first; unitOf, slots [count]. Grid: x slots. Writes (=).
struct Params { count: u32 }
@group(0) @binding(0) var<storage, read> draws: array<vec4f>;
@group(0) @binding(1) var<storage, read> unitOf: array<u32>;
@group(0) @binding(2) var<storage, read_write> slots: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.count) { return; }
  let unit = unitOf[id.x];
  if (unit != 0xffffffffu) { slots[id.x] = draws[unit].x; }
}
