// How one chunk of rows of a model agrees with the dense model on the next token. q is the softmax of the dense logits,
// p that of the logits, each over the columns that both models have and, for the losses, over all of its own columns.
// agreement[token] = (KL(q ‖ p) = Σ q·(log q − log p), 1 if both have the same largest column and else 0 (the first
// among equals), −log p[target], −log q[denseTarget], the share of q outside the common columns).
// Shapes: logits [rows, stride], dense [rows, denseStride]; targets, denseTargets i32 [tokens]; pairs [count] of
// columns (own, dense), ascending by own; agreement [tokens, 5]. Token = params.firstRow + row. With count 0 both have
// the same columns, and pairs are not read. Columns ≥ vocab are padding. Rows with a target < 0 mean nothing.
// Grid: one workgroup per row. Writes (=).
struct Params { stride: u32, vocab: u32, denseStride: u32, denseVocab: u32, count: u32, firstRow: u32 }
@group(0) @binding(0) var<storage, read> targets: array<i32>;
@group(0) @binding(1) var<storage, read> denseTargets: array<i32>;
@group(0) @binding(2) var<storage, read> pairs: array<vec2u>;
@group(0) @binding(3) var<storage, read> dense: array<f32>;
@group(0) @binding(4) var<storage, read> logits: array<f32>;
@group(0) @binding(5) var<storage, read_write> agreement: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

/// Columns of each softmax: all of the model, all of the dense model, then the columns that both have.
const OWN = 0u;
const DENSE = 1u;
const OWN_COMMON = 2u;
const DENSE_COMMON = 3u;

/// The largest of some logits, the sum of exp(logit − top), and the index of the largest.
struct Softmax { top: f32, total: f32, first: u32 }

fn own(row: u32, column: u32) -> f32 { return logits[row * params.stride + column]; }
fn other(row: u32, column: u32) -> f32 { return dense[row * params.denseStride + column]; }

/// The i-th logit of a set of columns.
fn logit(columns: u32, row: u32, i: u32) -> f32 {
  switch columns {
    case OWN: { return own(row, i); }
    case DENSE: { return other(row, i); }
    case OWN_COMMON: { return own(row, pairs[i].x); }
    default: { return other(row, pairs[i].y); }
  }
}

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  let token = params.firstRow + row;
  let paired = params.count > 0u;
  var sets: array<Softmax, 4>;
  // A loop, as its reductions are long to compile.
  for (var columns = OWN; columns <= select(DENSE, DENSE_COMMON, paired); columns++) {
    let count = select(select(params.vocab, params.denseVocab, columns == DENSE), params.count, columns >= OWN_COMMON);
    var top = -3.4e38;
    var first = NONE;
    for (var i = lane; i < count; i += GROUP) {
      let y = logit(columns, row, i);
      if (y > top) {
        top = y;
        first = i;
      }
    }
    best_of_group(top, first, true, lane);
    top = workgroupUniformLoad(&values[0]);
    first = workgroupUniformLoad(&ids[0]);
    var total = 0.0;
    for (var i = lane; i < count; i += GROUP) { total += exp(logit(columns, row, i) - top); }
    sets[columns] = Softmax(top, group_sum(total, lane), first);
  }
  let p = sets[select(OWN, OWN_COMMON, paired)];
  let q = sets[select(DENSE, DENSE_COMMON, paired)];
  var gap = 0.0;
  for (var i = lane; i < select(params.vocab, params.count, paired); i += GROUP) {
    let y = logit(select(DENSE, DENSE_COMMON, paired), row, i) - q.top;
    let share = exp(y) / q.total;
    if (share > 0.0) { gap += share * (y - (logit(select(OWN, OWN_COMMON, paired), row, i) - p.top)); }
  }
  let divergence = group_sum(gap, lane) + (log(p.total) - log(q.total));
  if (lane == 0u) {
    let at = token * 5u;
    let left = 1.0 - q.total / sets[DENSE].total * exp(q.top - sets[DENSE].top);
    agreement[at] = divergence;
    agreement[at + 1u] = select(0.0, 1.0, p.first == q.first);
    agreement[at + 2u] = log(sets[OWN].total) + (sets[OWN].top - own(row, u32(max(targets[token], 0))));
    agreement[at + 3u] = log(sets[DENSE].total) + (sets[DENSE].top - other(row, u32(max(denseTargets[token], 0))));
    agreement[at + 4u] = select(0.0, max(0.0, left), paired);
  }
}
