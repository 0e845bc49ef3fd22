// Experts of each token: p = softmax(logits[m, 0 … E − 1]); the k largest p, ties to the lower number, largest first.
// weights = p of the chosen experts, divided by their sum with `renormalise`.
// Shapes: logits [rows, stride]; choice, weights [rows, k]. Grid: x rows / 64. Writes (=).
struct Params { rows: u32, stride: u32, experts: u32, top_k: u32, renormalise: u32 }
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> choice: array<u32>;
@group(0) @binding(2) var<storage, read_write> weights: array<f32>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  let m = id.x;
  if (m >= p.rows) { return; }
  let row = m * p.stride;
  var largest = logits[row];
  for (var e = 1u; e < p.experts; e++) { largest = max(largest, logits[row + e]); }
  var total = 0.0;
  for (var e = 0u; e < p.experts; e++) { total += exp(logits[row + e] - largest); }
  var last = 0u;
  var chosen = 0.0;
  for (var j = 0u; j < p.top_k; j++) {
    var best = p.experts;
    for (var e = 0u; e < p.experts; e++) {
      let value = logits[row + e];
      // Only what comes after the last choice in the order of falling values, then rising numbers.
      let before = logits[row + last];
      if (j > 0u && (value > before || (value == before && e <= last))) { continue; }
      if (best == p.experts || value > logits[row + best]) { best = e; }
    }
    best = min(best, p.experts - 1u); // logits that are not numbers
    let probability = exp(logits[row + best] - largest) / total;
    choice[m * p.top_k + j] = best;
    weights[m * p.top_k + j] = probability;
    chosen += probability;
    last = best;
  }
  if (p.renormalise == 1u) {
    for (var j = 0u; j < p.top_k; j++) { weights[m * p.top_k + j] /= chosen; }
  }
}
