// Output of the experts: sum[m] = Σⱼ weights[m, j] · d[slot_of[m, j]], j ascending from the first choice.
// Mode 0: y = sum; 1: y += sum; 2: y = sigmoid(gate[m, 0]) · y + sum (a gated shared expert).
// Shapes: weights, slot_of [rows, k]; d [slots, stride4] vec4; gate [rows, strideGate]; y [rows, stride4] vec4.
// Grid: x stride4 / 64, y rows. Writes (=), or (+=) by mode.
struct Params { stride4: u32, top_k: u32, mode: u32, stride_gate: u32 }
@group(0) @binding(0) var<storage, read> weights: array<f32>;
@group(0) @binding(1) var<storage, read> slot_of: array<u32>;
@group(0) @binding(2) var<storage, read> d: array<vec4f>;
@group(0) @binding(3) var<storage, read> gate: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.stride4) { return; }
  let m = id.y;
  let at = m * p.stride4 + id.x;
  var sum = vec4f();
  for (var j = 0u; j < p.top_k; j++) {
    let pair = m * p.top_k + j;
    sum += weights[pair] * d[slot_of[pair] * p.stride4 + id.x];
  }
  if (p.mode == 1u) { sum += y[at]; }
  if (p.mode == 2u) { sum += y[at] / (1.0 + exp(-gate[m * p.stride_gate])); }
  y[at] = sum;
}
