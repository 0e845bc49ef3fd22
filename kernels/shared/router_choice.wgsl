// Experts of each token. The score s of expert e is softmax(logits[m, 0 … E − 1])[e], or sigmoid(logits[m, e]) with `sigmoid`.
// The k experts with the largest s, or with the largest s + bias[e] with `biased`; ties to the lower number, largest first.
// weights = scale · s of the chosen experts, divided by the sum of their s with `renormalise`. Experts e with
// open[first + e] = 0 count as absent: their logits are −∞. At least k are open.
// Shapes: logits [rows, stride]; open [experts of all layers]; bias [experts]; choice, weights [rows, k]. Grid: x rows / 64.
// Writes (=).
struct Params {
  rows: u32,
  stride: u32,
  experts: u32,
  top_k: u32,
  renormalise: u32,
  first: u32,
  sigmoid: u32,
  biased: u32,
  scale: f32,
}
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> open: array<u32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> choice: array<u32>;
@group(0) @binding(4) var<storage, read_write> weights: array<f32>;
@group(0) @binding(5) var<uniform> p: Params;

const LOWEST = -3.402823e38;

fn score(logit: f32, largest: f32, total: f32) -> f32 {
  if (p.sigmoid == 1u) { return 1.0 / (1.0 + exp(-logit)); }
  return exp(logit - largest) / total;
}

// What is compared: the logit, which grows with the score, or the score with its bias.
fn rank(row: u32, e: u32, largest: f32, total: f32) -> f32 {
  if (p.biased == 0u) { return logits[row + e]; }
  return score(logits[row + e], largest, total) + bias[e];
}

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  let m = id.x;
  if (m >= p.rows) { return; }
  let row = m * p.stride;
  var largest = LOWEST;
  for (var e = 0u; e < p.experts; e++) { if (open[p.first + e] != 0u) { largest = max(largest, logits[row + e]); } }
  var total = 0.0;
  for (var e = 0u; e < p.experts; e++) { if (open[p.first + e] != 0u) { total += exp(logits[row + e] - largest); } }
  var last = 0u;
  var before = 0.0;
  var chosen = 0.0;
  for (var j = 0u; j < p.top_k; j++) {
    var best = p.experts;
    var most = LOWEST;
    for (var e = 0u; e < p.experts; e++) {
      if (open[p.first + e] == 0u) { continue; }
      let value = rank(row, e, largest, total);
      // Only what comes after the last choice in the order of falling values, then rising numbers.
      if (j > 0u && (value > before || (value == before && e <= last))) { continue; }
      if (best == p.experts || value > most) {
        best = e;
        most = value;
      }
    }
    best = min(best, p.experts - 1u); // logits that are not numbers
    let own = score(logits[row + best], largest, total);
    choice[m * p.top_k + j] = best;
    weights[m * p.top_k + j] = p.scale * own;
    chosen += own;
    last = best;
    before = most;
  }
  if (p.renormalise == 1u) {
    for (var j = 0u; j < p.top_k; j++) { weights[m * p.top_k + j] /= chosen; }
  }
}
