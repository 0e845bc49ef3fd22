// Copies u = B·X of tokens, from row params.first on, to the cache of a convolution, a row each: position[0] + m of one sequence, or
// with params.own = 1 position[m] of the sequence of row m. Writes nothing past the capacity.
// Shapes: as in short_conv_decode.wgsl. Grid: x stride / 64, y and z rows. Writes (=) cache.
struct Params { rows: u32, width: u32, stride: u32, stride3: u32, capacity: u32, perRow: u32, own: u32, first: u32 }
@group(0) @binding(0) var<storage, read> bcx: array<f32>;
@group(0) @binding(1) var<storage, read> position: array<u32>;
@group(0) @binding(2) var<storage, read> pages: array<u32>;
@group(0) @binding(3) var<storage, read_write> cache: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(num_workgroups) grid: vec3u,
) {
  let row = params.first + id.y + id.z * grid.y;
  if (id.x >= params.width || row >= params.rows) { return; }
  let isOwn = params.own == 1u;
  let at = select(position[0] + row, position[row], isOwn);
  if (at >= params.capacity) { return; }
  let page = pages[select(0u, row * params.perRow, isOwn) + at / CACHE_KEYS];
  let place = row * params.stride3 + id.x;
  cache[(page * CACHE_KEYS + at % CACHE_KEYS) * params.stride + id.x] = bcx[place] * bcx[place + 2u * params.width];
}
