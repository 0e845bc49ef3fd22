// Ends a decoding step: the most likely token t = argmax logits, the lowest id among equals, becomes the input of the
// next step. For each row r, tokens[r] = t, picks[r, position[r]] = t, then position[r] += 1. If a logit is NaN or
// infinite, picks gets 0xffffffff and tokens 0.
// Shapes: logits [rows, stride]; tokens, position [rows] u32; picks [rows, capacity]. Grid: one workgroup per row. Writes
// (=). Needs prelude best_of_row.wgsl.
struct Params { vocab: u32, capacity: u32, stride: u32 }
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(2) var<storage, read_write> picks: array<u32>;
@group(0) @binding(3) var<storage, read_write> position: array<u32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  var best = -3.4e38;
  var id = NONE;
  var finite = true;
  for (var c = lane; c < params.vocab; c += GROUP) {
    let value = logits[row * params.stride + c];
    finite = finite && is_finite(value);
    if (id == NONE || value > best) {
      best = value;
      id = c;
    }
  }
  best_of_group(best, id, finite, lane);
  if (lane != 0u) { return; }
  let at = position[row];
  let isBroken = atomicLoad(&broken) == 1u;
  tokens[row] = select(ids[0], 0u, isBroken);
  if (at < params.capacity) { picks[row * params.capacity + at] = select(ids[0], NONE, isBroken); }
  position[row] = at + 1u;
}
