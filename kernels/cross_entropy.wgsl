// Cross-entropy of one chunk of rows: loss[m] = log Σ exp(y[m]) − y[m, target[m]] for y = logit_of(logits); rows with
// target < 0 have loss 0. If params.gradient is 1, the gradient replaces the logits:
//   logits := (softmax(y) − onehot(target)) · state.lossScale · logit_slope(logits), zero for rows without target.
// Shapes: logits [rows, stride]; targets [tokens] i32 and loss [tokens], read and written from params.firstRow; columns
// ≥ vocab are padding.
// Grid: one workgroup per row. Writes (=).
@group(0) @binding(0) var<storage, read> targets: array<i32>;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read_write> logits: array<f32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  let token = params.firstRow + row;
  let base = row * params.stride;
  let wanted = targets[token];
  if (wanted < 0) {
    if (lane == 0u) { loss[token] = 0.0; }
    if (params.gradient == 1u) {
      for (var c = lane; c < params.stride; c += GROUP) { logits[base + c] = 0.0; }
    }
    return;
  }
  var largest = -3.4e38;
  for (var c = lane; c < params.vocab; c += GROUP) { largest = max(largest, logit_of(logits[base + c])); }
  let top = group_max(largest, lane);
  var sum = 0.0;
  for (var c = lane; c < params.vocab; c += GROUP) { sum += exp(logit_of(logits[base + c]) - top); }
  let total = group_sum(sum, lane);
  // The difference first: it is exact where the two logits are close, however large they are.
  if (lane == 0u) { loss[token] = log(total) + (top - logit_of(logits[base + u32(wanted)])); }
  if (params.gradient == 0u) { return; }
  workgroupBarrier();
  storageBarrier();
  for (var c = lane; c < params.stride; c += GROUP) {
    var value = 0.0;
    let raw = logits[base + c];
    if (c < params.vocab) { value = exp(logit_of(raw) - top) / total; }
    if (c == u32(wanted)) { value -= 1.0; }
    logits[base + c] = value * state.lossScale * logit_slope(raw);
  }
}
