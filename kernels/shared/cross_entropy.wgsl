// Cross-entropy of one chunk of rows: loss[m] = log Σ exp(y[m]) − y[m, target[m]] for y = logits_of(logits); rows with
// target < 0 have loss 0. If params.gradient is 1, the gradient replaces the logits:
//   logits := (softmax(y) − onehot(target)) · state.lossScale · logit_slopes(logits), zero for rows without target.
// Shapes: logits [rows, stride], stride a multiple of 4; targets [tokens] i32 and loss [tokens], read and written from
// params.firstRow; columns ≥ vocab are padding.
// A lane's maximum and sum are of one pass: the sum is scaled down where the maximum grows.
// Grid: one workgroup per row. Writes (=).
@group(0) @binding(0) var<storage, read> targets: array<i32>;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read_write> logits: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

const LEAST = -3.4e38;

/** Whether the columns of the vec4 `c4` are within the vocabulary. */
fn is_column(c4: u32) -> vec4<bool> { return c4 * 4u + vec4u(0u, 1u, 2u, 3u) < vec4u(params.vocab); }

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  let token = params.firstRow + row;
  let width = params.stride / 4u;
  let base = row * width;
  let wanted = targets[token];
  if (wanted < 0) {
    if (lane == 0u) { loss[token] = 0.0; }
    if (params.gradient == 1u) {
      for (var c = lane; c < width; c += GROUP) { logits[base + c] = vec4f(); }
    }
    return;
  }
  let used = (params.vocab + 3u) / 4u;
  var largest = LEAST;
  var sum = 0.0;
  for (var c = lane; c < used; c += GROUP) {
    let y = select(vec4f(LEAST), logits_of(logits[base + c]), is_column(c));
    let next = max(largest, max(max(y.x, y.y), max(y.z, y.w)));
    let e = exp(y - next);
    sum = sum * exp(largest - next) + ((e.x + e.y) + (e.z + e.w));
    largest = next;
  }
  let top = group_max(largest, lane);
  let total = group_sum(sum * exp(largest - top), lane);
  // The difference first: it is exact where the two logits are close, however large they are.
  if (lane == 0u) {
    let target_logit = logits_of(logits[base + u32(wanted) / 4u])[u32(wanted) % 4u];
    loss[token] = log(total) + (top - target_logit);
  }
  if (params.gradient == 0u) { return; }
  workgroupBarrier();
  storageBarrier();
  for (var c = lane; c < width; c += GROUP) {
    let raw = logits[base + c];
    let value = select(vec4f(), exp(logits_of(raw) - top) / total, is_column(c));
    let hit = vec4f(c * 4u + vec4u(0u, 1u, 2u, 3u) == vec4u(u32(wanted)));
    logits[base + c] = (value - hit) * state.lossScale * logit_slopes(raw);
  }
}
