// AdamW (Loshchilov & Hutter 2019), after clipping of the gradient:
//   m = b1·m + (1 − b1)·g;  v = b2·v + (1 − b2)·g²;  w −= rate · (m / c1 / (sqrt(v / c2) + 1e-8) + decay · w).
// Shapes: all [count]; metrics as in clipping.wgsl. Grid: x elements / 64, y blocks of 65,535 × 64.
// Writes w, m, v in place.
struct Params { count: u32, width: u32 }
@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> metrics: array<f32>;
@group(0) @binding(3) var<storage, read_write> w: array<f32>;
@group(0) @binding(4) var<storage, read_write> m: array<f32>;
@group(0) @binding(5) var<storage, read_write> v: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.y * params.width + id.x;
  if (id.x >= params.width || i >= params.count) { return; }
  let gradient = clipped(g[i]);
  let first = B1 * m[i] + (1.0 - B1) * gradient;
  let second = B2 * v[i] + (1.0 - B2) * gradient * gradient;
  m[i] = first;
  v[i] = second;
  let step = first / state.loraCorrection1 / (sqrt(second / state.loraCorrection2) + 1e-8);
  w[i] -= state.loraRate * (step + state.weightDecay * w[i]);
}
