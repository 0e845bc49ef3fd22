// Log-probabilities of one chunk of rows, for a given token and for the most likely tokens, the lowest id first among
// equals. p[m, c] = logits[m, c] − log Σ exp(logits[m]). chosen[token] = p[m, target], 0 if target < 0; ids[token, i]
// and values[token, i] are the i-th most likely token and its p. Equal logits give equal bits in both outputs.
// Shapes: logits [rows, stride]; targets i32, chosen [tokens]; ids, values [tokens, top], read and written from
// params.firstRow; columns ≥ vocab are padding; top ≤ vocab.
// Grid: one workgroup per row. Writes (=).
struct Params { stride: u32, vocab: u32, firstRow: u32, top: u32 }
const NONE = 0xffffffffu;
@group(0) @binding(0) var<storage, read> targets: array<i32>;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> chosen: array<f32>;
@group(0) @binding(3) var<storage, read_write> ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> values: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;
var<workgroup> best_values: array<f32, GROUP>;
var<workgroup> best_ids: array<u32, GROUP>;

// Whether (a, i) stands before (b, j): the larger first, the lower id among equals.
fn before(a: f32, i: u32, b: f32, j: u32) -> bool {
  return i != NONE && (j == NONE || a > b || (a == b && i < j));
}

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let token = params.firstRow + group.x;
  let base = group.x * params.stride;
  var largest = -3.4e38;
  for (var c = lane; c < params.vocab; c += GROUP) { largest = max(largest, logits[base + c]); }
  let peak = group_max(largest, lane);
  var sum = 0.0;
  for (var c = lane; c < params.vocab; c += GROUP) { sum += exp(logits[base + c] - peak); }
  let total = log(group_sum(sum, lane));
  if (lane == 0u) {
    let wanted = targets[token];
    var p = 0.0;
    if (wanted >= 0) { p = (logits[base + u32(wanted)] - peak) - total; }
    chosen[token] = p;
  }
  // Each turn takes the first logit after the previous turn's in the order, so no logit has to be marked as taken.
  var last = 0.0;
  var lastId = NONE;
  for (var i = 0u; i < params.top; i++) {
    var value = 0.0;
    var id = NONE;
    for (var c = lane; c < params.vocab; c += GROUP) {
      let own = logits[base + c];
      if ((lastId == NONE || before(last, lastId, own, c)) && before(own, c, value, id)) {
        value = own;
        id = c;
      }
    }
    workgroupBarrier();
    best_values[lane] = value;
    best_ids[lane] = id;
    workgroupBarrier();
    for (var step = GROUP / 2u; step > 0u; step /= 2u) {
      if (lane < step && before(best_values[lane + step], best_ids[lane + step], best_values[lane], best_ids[lane])) {
        best_values[lane] = best_values[lane + step];
        best_ids[lane] = best_ids[lane + step];
      }
      workgroupBarrier();
    }
    last = workgroupUniformLoad(&best_values[0]);
    lastId = workgroupUniformLoad(&best_ids[0]);
    if (lane == 0u) {
      ids[token * params.top + i] = lastId;
      values[token * params.top + i] = (last - peak) - total;
    }
  }
}
