// Statistics of columns over the k-th block of BLOCK rows, using only rows with keep[m] = 1:
//   partial[k, 0, c] = μ = Σ x[m, c] / n;  partial[k, 1, c] = Σ (x[m, c] − μ)², n = counts[1 + k]; both 0 if n = 0.
// Uses two passes: Σ x² − n·μ² would cancel if the mean is large compared with the deviation.
// Shapes: x [rows, stride]; keep [rows]; counts [1 + blocks]; partial [blocks, 2, stride].
// Grid: x columns / 4, y blocks. Writes (=) partial.
struct Params { rows: u32, stride4: u32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> keep: array<u32>;
@group(0) @binding(2) var<storage, read> counts: array<u32>;
@group(0) @binding(3) var<storage, read_write> partial: array<vec4f>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  let first = id.y * BLOCK;
  let end = min(params.rows, first + BLOCK);
  var sum = vec4f();
  for (var row = first; row < end; row++) {
    if (keep[row] == 1u) { sum += x[row * params.stride4 + id.x]; }
  }
  let mean = sum / max(1.0, f32(counts[1u + id.y]));
  var squares = vec4f();
  for (var row = first; row < end; row++) {
    if (keep[row] == 1u) {
      let deviation = x[row * params.stride4 + id.x] - mean;
      squares = fma(deviation, deviation, squares);
    }
  }
  partial[2u * id.y * params.stride4 + id.x] = mean;
  partial[(2u * id.y + 1u) * params.stride4 + id.x] = squares;
}
