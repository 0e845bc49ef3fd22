// Inputs for updating the gate of a layer: gates[l] = (Σ over the layer's slots of dz · z of the slot's unit, expected
// parameters per hidden dim of what is kept if the gate is kept). A slot without a unit counts as z = 1. Layers without
// a gate get (0, 0).
// Shapes: dz [slots]; draws [units] of (z, slope, p, 0); gates [layers]. Grid: one workgroup per layer. Writes (=).
struct Params { units: u32, groupCount: u32 }
@group(0) @binding(0) var<storage, read> dz: array<f32>;
@group(0) @binding(1) var<storage, read> draws: array<vec4f>;
@group(0) @binding(2) var<storage, read> tables: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> gates: array<vec2f>;
@group(0) @binding(4) var<uniform> params: Params;

fn slot_sum(first: u32, count: u32) -> f32 {
  var sum = 0.0;
  for (var i = 0u; i < count; i++) { sum += dz[first + i]; }
  return sum;
}

@compute @workgroup_size(GROUP) fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = params.units + params.groupCount + 5u * group.x;
  var gradient = 0.0;
  var size = 0.0;
  if (tables[first + 1u].w != NONE) {
    let slots = tables[first + 4u];
    for (var kind = 0u; kind < 2u; kind++) {
      let part = tables[first + 2u * kind];
      let own = select(slots.xy, slots.zw, kind == 1u);
      if (part.y == 0u) {
        for (var i = lane; i < own.y; i += GROUP) { gradient += dz[own.x + i]; }
      }
      for (var i = lane; i < part.y; i += GROUP) {
        let unit = part.x + i;
        let draw = draws[unit];
        gradient = fma(draw.x, slot_sum(tables[unit].y, tables[unit].z & SLOTS), gradient);
        size = fma(cost_of(unit), draw.z, size);
      }
      for (var g = lane; g < part.w; g += GROUP) {
        let heads = tables[params.units + part.z + g];
        var dead = 1.0;
        for (var i = 0u; i < heads.y; i++) { dead *= 1.0 - draws[heads.x + i].z; }
        size += bitcast<f32>(heads.z) * (1.0 - dead);
      }
      if (lane == 0u) { size += bitcast<f32>(tables[first + 2u * kind + 1u].x); }
    }
  }
  let all = vec2f(group_sum(gradient, lane), group_sum(size, lane));
  if (lane == 0u) { gates[group.x] = all; }
}
