// RoPE of the query and key of the token of each row, and its key of the cache: q = RoPE(q), kCache[at] = RoPE(k),
// vCache[at] = v, at = position[row]. qkv holds q of all rows, k from 4·k4 and v from 4·v4. A head has 4·vectors columns;
// the first 2·half rotate in pairs (i, i + half), and the others stay.
// Shapes: q [rows, 4·qStride4], k, v [rows, 4·stride4]; table [positions, half] of (cos, sin); kCache, vCache [pages,
// CACHE_KEYS, 4·stride4], whose padding is not written; pages [rows, perRow].
// Grid: x = ((heads + kvHeads)·half + 4·kvHeads·vectors) / 64, y = rows. Changes q; writes (=) one key of the caches,
// nothing past the capacity.
struct Params {
  heads: u32, kvHeads: u32, vectors: u32, half: u32, qStride4: u32,
  k4: u32, v4: u32, stride4: u32, capacity: u32, positions: u32, perRow: u32,
}
@group(0) @binding(0) var<storage, read> table: array<vec2f>;
@group(0) @binding(1) var<storage, read> position: array<u32>;
@group(0) @binding(2) var<storage, read> pages: array<u32>;
@group(0) @binding(3) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(4) var<storage, read_write> kCache: array<f32>;
@group(0) @binding(5) var<storage, read_write> vCache: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.y;
  let at = position[row];
  let page = pages[row * params.perRow + min(at / CACHE_KEYS, params.perRow - 1u)];
  let cached = 4u * params.stride4 * (page * CACHE_KEYS + at % CACHE_KEYS);
  let width = 4u * params.vectors;
  let pairs = params.heads * params.half;
  let kPairs = params.kvHeads * params.half;
  if (id.x < pairs + kPairs) {
    // One pair of a query or a key: both are read before either is written.
    let isKey = id.x >= pairs;
    let index = select(id.x, id.x - pairs, isKey);
    let i = index % params.half;
    let turn = table[min(at, params.positions - 1u) * params.half + i];
    let low = index / params.half * width + i;
    let start = low + 4u * select(row * params.qStride4, params.k4 + row * params.stride4, isKey);
    let a = qkv[start];
    let b = qkv[start + params.half];
    let x = a * turn.x - b * turn.y;
    let y = b * turn.x + a * turn.y;
    if (!isKey) {
      qkv[start] = x;
      qkv[start + params.half] = y;
    } else if (at < params.capacity) {
      kCache[cached + low] = x;
      kCache[cached + low + params.half] = y;
    }
    return;
  }
  let c = id.x - pairs - kPairs;
  if (c < params.kvHeads * width && at < params.capacity) {
    if (c % width >= 2u * params.half) {
      kCache[cached + c] = qkv[4u * (params.k4 + row * params.stride4) + c];
    }
    vCache[cached + c] = qkv[4u * (params.v4 + row * params.stride4) + c];
  }
}
