// Sums of an array: partial[g] = scale · Σ over the g-th of `groups` blocks of f(x), f = square if params.square is 1,
// otherwise identity. scale is state.lossScale if params.scaled is 1, otherwise 1.
// Shapes: x [count]; partial [offset + groups]. Grid: one workgroup per block. Writes (=).
struct Params { count: u32, perGroup: u32, square: u32, scaled: u32, offset: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read_write> partial: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let end = min(params.count, (group.x + 1u) * params.perGroup);
  var sum = 0.0;
  for (var i = group.x * params.perGroup + lane; i < end; i += GROUP) {
    let value = x[i];
    sum += select(value, value * value, params.square == 1u);
  }
  let total = group_sum(sum, lane);
  if (lane == 0u) { partial[params.offset + group.x] = total * select(1.0, state.lossScale, params.scaled == 1u); }
}
