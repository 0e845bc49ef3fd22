// Expected sparsity of the masks and its constraint. With p = P(z > 0), c = parameters of a unit per hidden dim, and
// p_layer = p of the gate of a layer:
//   R = Σ_layers p_layer·(c_fixed + Σ_units c·p + Σ_KV groups c·(1 − Π(1 − p))) − square·(hidden size − H);
//   H = Σ_hidden p (or the hidden size);  ŝ = 1 − H·R / total. `square` counts weights from hidden dims to hidden dims.
// Then ascent on λ of λ1·(ŝ − t) + λ2·(ŝ − t)², whose gradients are (ŝ − t) and (ŝ − t)²: by rate · gradient, or by
// Adam with the settings of the masks (see state.lambdaAdam);  force = dL/dŝ = λ1 + 2·λ2·(ŝ − t).
// Without a goal (state.goal < 0), ŝ − t counts as 0.
// Units [0, hiddenFirst) are heads and FFN columns, [hiddenFirst, layerFirst) hidden dims, then gates.
// constraint (layout as in lib/masks/learner.ts): R, H, ŝ, λ1, λ2, force, two of the projection, (m, v) of λ1 and λ2.
// Grid: one workgroup. Writes (=).
@group(0) @binding(0) var<storage, read> logAlpha: array<f32>;

@compute @workgroup_size(GROUP) fn main(@builtin(local_invocation_index) lane: u32) {
  let size = expected_size(PRESENT, lane);
  if (lane != 0u) { return; }
  let sparsity = 1.0 - size.x * size.y / params.total;
  let gap = select(sparsity - state.goal, 0.0, state.goal < 0.0);
  constraint[0] = size.x;
  constraint[1] = size.y;
  constraint[2] = sparsity;
  if (state.lambdaAdam == 0.0) {
    constraint[3] += state.lambdaRate * gap;
    constraint[4] += state.lambdaRate * gap * gap;
  } else if (state.goal >= 0.0) {
    constraint[3] += state.lambdaRate * adam(8u, gap);
    constraint[4] += state.lambdaRate * adam(10u, gap * gap);
  }
  constraint[5] = constraint[3] + 2.0 * constraint[4] * gap;
}

fn adam(at: u32, gradient: f32) -> f32 {
  let first = B1 * constraint[at] + (1.0 - B1) * gradient;
  let second = B2 * constraint[at + 1u] + (1.0 - B2) * gradient * gradient;
  constraint[at] = first;
  constraint[at + 1u] = second;
  return first / state.maskCorrection1 / (sqrt(second / state.maskCorrection2) + 1e-8);
}
