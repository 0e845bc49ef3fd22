// Merges blocks of column_stats.wgsl into running statistics in order. With δ = μ_k − μ, n rows so far, n_k in block k:
//   μ += δ · n_k / (n + n_k);  M += M_k + δ² · n · n_k / (n + n_k)   (Chan, Golub, LeVeque 1979).
// Shapes: partial [blocks, 2, stride]; counts [1 + blocks]: n before the first block, then each n_k; stats [2, stride]:
// μ, M.
// Grid: x columns / 4. Accumulates (+=) into stats. Counts are exact in f32 below 2^24.
struct Params { blocks: u32, stride4: u32 }
@group(0) @binding(0) var<storage, read> partial: array<vec4f>;
@group(0) @binding(1) var<storage, read> counts: array<u32>;
@group(0) @binding(2) var<storage, read_write> stats: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  var count = f32(counts[0]);
  var mean = stats[id.x];
  var squares = stats[params.stride4 + id.x];
  for (var k = 0u; k < params.blocks; k++) {
    let own = f32(counts[1u + k]);
    if (own == 0.0) { continue; }
    let delta = partial[2u * k * params.stride4 + id.x] - mean;
    let share = own / (count + own);
    mean = fma(delta, vec4f(share), mean);
    squares += partial[(2u * k + 1u) * params.stride4 + id.x] + delta * delta * (count * share);
    count += own;
  }
  stats[id.x] = mean;
  stats[params.stride4 + id.x] = squares;
}
