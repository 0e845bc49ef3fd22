// Sum of gradients over the micro-batches of a step: total[i] = total[i] + x[i]. Subnormal numbers count as 0, as
// adapters may treat them, so that a sum on the host has the same bits.
// Shapes: x, total [count]. Grid: x elements / 64, y blocks of 65,535 × 64. Writes (+=).
struct Params { count: u32, width: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> total: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

// Of bits, not of values: a comparison may flush its operands, but a NaN stays one.
fn normal(value: f32) -> f32 { return select(value, 0.0, (bitcast<u32>(value) & 0x7f800000u) == 0u); }

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.y * params.width + id.x;
  if (id.x >= params.width || i >= params.count) { return; }
  total[i] = normal(normal(total[i]) + normal(x[i]));
}
