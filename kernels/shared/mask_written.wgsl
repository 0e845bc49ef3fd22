// Draws for masks that were written instead of sampled, as input of the update: draws[u] = (z of the unit's first slot,
// 0, p, 0). They do not depend on log α, so their slope is 0; p = P(z > 0) stays as computed by mask_sample.wgsl. A
// gate, which has no slots, gets z = 1.
// Shapes: tables as in mask_tables.wgsl; slots [count]; draws [units]. Grid: x units. Updates draws in place.
struct Params { units: u32 }
@group(0) @binding(0) var<storage, read> tables: array<vec4u>;
@group(0) @binding(1) var<storage, read> slots: array<f32>;
@group(0) @binding(2) var<storage, read_write> draws: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  let unit = id.x;
  if (unit >= params.units) { return; }
  let info = tables[unit];
  var z = 1.0;
  if ((info.z & SLOTS) > 0u) { z = slots[info.y]; }
  draws[unit] = vec4f(z, 0.0, draws[unit].z, 0.0);
}
