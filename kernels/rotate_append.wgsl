// RoPE of the query and key of one token, and the token's row of a cache: q = RoPE(q), kCache[at] = RoPE(k), vCache[at]
// = v, at = position[0]. qkv holds q, k and v, with k from 4·k4 and v from 4·v4. A head has 4·vectors columns, of which
// 2·half rotate in pairs (i, i + half), and the others stay.
// Shapes: table [positions, half] of (cos, sin); kCache, vCache [capacity, 4·stride4], whose padding is not written.
// Grid: x = ((heads + kvHeads)·half + 4·kvHeads·vectors) / 64. Changes q; writes (=) one row of the caches, nothing
// past their end.
struct Params {
  heads: u32, kvHeads: u32, vectors: u32, half: u32,
  k4: u32, v4: u32, stride4: u32, capacity: u32, positions: u32,
}
@group(0) @binding(0) var<storage, read> table: array<vec2f>;
@group(0) @binding(1) var<storage, read> position: array<u32>;
@group(0) @binding(2) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(3) var<storage, read_write> kCache: array<f32>;
@group(0) @binding(4) var<storage, read_write> vCache: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  let at = position[0];
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
    let start = select(low, 4u * params.k4 + low, isKey);
    let a = qkv[start];
    let b = qkv[start + params.half];
    let x = a * turn.x - b * turn.y;
    let y = b * turn.x + a * turn.y;
    if (!isKey) {
      qkv[start] = x;
      qkv[start + params.half] = y;
    } else if (at < params.capacity) {
      kCache[at * 4u * params.stride4 + low] = x;
      kCache[at * 4u * params.stride4 + low + params.half] = y;
    }
    return;
  }
  let c = id.x - pairs - kPairs;
  if (c < params.kvHeads * width && at < params.capacity) {
    if (c % width >= 2u * params.half) {
      kCache[at * 4u * params.stride4 + c] = qkv[4u * params.k4 + c];
    }
    vCache[at * 4u * params.stride4 + c] = qkv[4u * params.v4 + c];
  }
}
