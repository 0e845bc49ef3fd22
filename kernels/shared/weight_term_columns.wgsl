// Column sums of |W ∘ dW|: sums[c] (=|+=) Σ over rows m of the chunk of |W[first + m, c] · gradient[m, c]|.
// Shapes: W [rows, stride]; gradient [chunk, stride], rows first … first + chunk − 1 of dL/dW; sums [stride]. Padding
// columns of W are zero.
// Grid: x columns / 4. weight_access.ts generates `load_weight4`, from binding 3. (+=) if params.accumulate is 1,
// otherwise (=).
struct Params { first: u32, stride4: u32, rows: u32, accumulate: u32 }
@group(0) @binding(0) var<storage, read> gradient: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> sums: array<vec4f>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  var sum = vec4f();
  if (params.accumulate == 1u) { sum = sums[id.x]; }
  for (var row = 0u; row < params.rows; row++) {
    sum += abs(load_weight4(params.first + row, id.x, params.stride4) * gradient[row * params.stride4 + id.x]);
  }
  sums[id.x] = sum;
}
