// Lion (Chen et al., arXiv 2302.06675), after clipping of the gradient:
//   w −= rate · (sign(b1·m + (1 − b1)·g) + decay · w);  m = b2·m + (1 − b2)·g.
// Shapes: all [count]; metrics as in clipping.wgsl. Grid: x elements / 64, y blocks of 65,535 × 64.
// Writes w, m in place.
struct Params { count: u32, width: u32 }
@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> metrics: array<f32>;
@group(0) @binding(3) var<storage, read_write> w: array<f32>;
@group(0) @binding(4) var<storage, read_write> m: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.y * params.width + id.x;
  if (id.x >= params.width || i >= params.count) { return; }
  let gradient = clipped(g[i]);
  w[i] -= state.loraRate * (sign(B1 * m[i] + (1.0 - B1) * gradient) + state.weightDecay * w[i]);
  m[i] = B2 * m[i] + (1.0 - B2) * gradient;
}
