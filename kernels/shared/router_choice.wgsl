// Experts of each token: p = softmax(logits[m, 0 … E − 1]); the k largest p, ties to the lower number, largest first.
// weights = p of the chosen experts, divided by their sum with `renormalise`. Experts e with open[first + e] = 0 count as
// absent: their logits are −∞. At least k are open.
// Shapes: logits [rows, stride]; open [experts of all layers]; choice, weights [rows, k]. Grid: x rows / 64. Writes (=).
struct Params { rows: u32, stride: u32, experts: u32, top_k: u32, renormalise: u32, first: u32 }
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> open: array<u32>;
@group(0) @binding(2) var<storage, read_write> choice: array<u32>;
@group(0) @binding(3) var<storage, read_write> weights: array<f32>;
@group(0) @binding(4) var<uniform> p: Params;

const LOWEST = -3.402823e38;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  let m = id.x;
  if (m >= p.rows) { return; }
  let row = m * p.stride;
  var largest = LOWEST;
  for (var e = 0u; e < p.experts; e++) { if (open[p.first + e] != 0u) { largest = max(largest, logits[row + e]); } }
  var total = 0.0;
  for (var e = 0u; e < p.experts; e++) { if (open[p.first + e] != 0u) { total += exp(logits[row + e] - largest); } }
  var last = 0u;
  var chosen = 0.0;
  for (var j = 0u; j < p.top_k; j++) {
    var best = p.experts;
    for (var e = 0u; e < p.experts; e++) {
      if (open[p.first + e] == 0u) { continue; }
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
