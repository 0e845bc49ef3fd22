// Gated short convolution of tokens after cached ones: y[m, c] = C[m, c] · Σ_d w[L − 1 − d, c] · u[p(m) − d, c] over d = 0 … L − 1,
// where u = B·X, p(m) is the position of row m, and u is 0 before position 0. Rows are consecutive tokens of one sequence from
// position[0] on, or with params.own = 1 the next tokens of separate sequences, at position[m]. The cache holds u of all earlier
// tokens, not of these rows.
// Shapes: bcx [rows, stride3], the columns B, C and X, `width` each; w [L, stride]; cache [pages, CACHE_KEYS, stride]; pages [rows or 1, perRow];
// y [rows, stride], 0 in the columns from `width`. Grid: x stride / 64, y and z rows. Writes (=) y.
struct Params { rows: u32, width: u32, stride: u32, stride3: u32, length: u32, capacity: u32, perRow: u32, own: u32 }
@group(0) @binding(0) var<storage, read> bcx: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> position: array<u32>;
@group(0) @binding(3) var<storage, read> pages: array<u32>;
@group(0) @binding(4) var<storage, read> cache: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(num_workgroups) grid: vec3u,
) {
  let row = id.y + id.z * grid.y;
  if (id.x >= params.stride || row >= params.rows) { return; }
  var sum = 0.0;
  if (id.x < params.width) {
    let isOwn = params.own == 1u;
    let at = select(position[0] + row, position[row], isOwn);
    let here = select(row + 1u, 1u, isOwn);
    let table = select(0u, row * params.perRow, isOwn);
    for (var d = 0u; d < min(at + 1u, params.length); d++) {
      var u = 0.0;
      if (d < here) {
        let place = (row - d) * params.stride3 + id.x;
        u = bcx[place] * bcx[place + 2u * params.width];
      } else {
        let page = pages[table + min(at - d, params.capacity - 1u) / CACHE_KEYS];
        u = cache[(page * CACHE_KEYS + (at - d) % CACHE_KEYS) * params.stride + id.x];
      }
      sum = fma(w[(params.length - 1u - d) * params.stride + id.x], u, sum);
    }
    sum *= bcx[row * params.stride3 + params.width + id.x];
  }
  y[row * params.stride + id.x] = sum;
}
