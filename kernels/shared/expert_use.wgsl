// Sums of the pairs of each expert, those of tokens that do not count (a negative weight) left out, in their order:
//   use_of[e] = (pairs, Σ w, Σ w · ‖d‖₂), with parts of expert_norms.wgsl.
// Shapes: choice [pairs]; parts [pairs] vec2; use_of [experts, 3]. Grid: x experts / 64. Writes (=).
struct Params { pairs: u32, experts: u32 }
@group(0) @binding(0) var<storage, read> choice: array<u32>;
@group(0) @binding(1) var<storage, read> parts: array<vec2f>;
@group(0) @binding(2) var<storage, read_write> use_of: array<f32>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  let e = id.x;
  if (e >= p.experts) { return; }
  var count = 0u;
  var sum = vec2f();
  for (var pair = 0u; pair < p.pairs; pair++) {
    let part = parts[pair];
    if (choice[pair] != e || part.x < 0.0) { continue; }
    count++;
    sum += part;
  }
  use_of[3u * e] = f32(count);
  use_of[3u * e + 1u] = sum.x;
  use_of[3u * e + 2u] = sum.y;
}
