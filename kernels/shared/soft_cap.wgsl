// Soft cap in place: x[i] := cap · tanh(x[i] / cap). tanh is 1 in f32 from 10 on; some drivers overflow for much larger
// values. Shapes: x [count]. Grid: one invocation an element, x then y. Changes x.
struct Params { count: u32, cap: f32 }
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 64u;
  if (i >= params.count) { return; }
  x[i] = params.cap * tanh(clamp(x[i] / params.cap, -10.0, 10.0));
}
