// What the chosen experts add to a token, for statistics. For the pair (token m, choice j):
//   parts[pair] = (w, w · ‖d[slot_of[pair]]‖₂), w = weights[m, j] / Σⱼ weights[m, j]; (−1, 0) where keep[m] = 0.
// Shapes: weights, slot_of [rows, k]; d [slots, stride4] vec4; keep [rows]; parts [rows, k] vec2. Grid: x pairs. Writes (=).
struct Params { stride4: u32, top_k: u32 }
@group(0) @binding(0) var<storage, read> weights: array<f32>;
@group(0) @binding(1) var<storage, read> slot_of: array<u32>;
@group(0) @binding(2) var<storage, read> d: array<vec4f>;
@group(0) @binding(3) var<storage, read> keep: array<u32>;
@group(0) @binding(4) var<storage, read_write> parts: array<vec2f>;
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(64) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let pair = group.x;
  let lane = local.x;
  let first = slot_of[pair] * p.stride4;
  var squares = 0.0;
  for (var c = lane; c < p.stride4; c += GROUP) { squares += dot(d[first + c], d[first + c]); }
  let norm = sqrt(group_sum(squares, lane));
  if (lane != 0u) { return; }
  let m = pair / p.top_k;
  var total = 0.0;
  for (var j = 0u; j < p.top_k; j++) { total += weights[m * p.top_k + j]; }
  let w = weights[pair] / total;
  parts[pair] = select(vec2f(-1.0, 0.0), vec2f(w, w * norm), keep[m] != 0u);
}
