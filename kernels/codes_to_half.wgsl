// Values of block-quantised rows as f16, to nearest even: d·(q − zero), or d·q + m with params.hasMin = 1. Integers
// round, since a conversion to f16 in WGSL may round either way; products of d and q are exact in f32.
// Shapes: codes [rows, words] u32, four codes in each, the first lowest; scales [rows, groups] of (d, m), a group of
// 2^shift pairs of words; halves [rows, pitch] of eight values. No value is 65,520 or more.
// Grid: x words / 2 / 64, y rows. Writes (=) words / 2 of the pitch.
struct Params { rows: u32, words: u32, groups: u32, shift: u32, zero: i32, hasMin: u32, pitch: u32 }
@group(0) @binding(0) var<storage, read> codes: array<u32>;
@group(0) @binding(1) var<storage, read> scales: array<vec2f>;
@group(0) @binding(2) var<storage, read_write> halves: array<vec4u>;
@group(0) @binding(3) var<uniform> params: Params;

fn half(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  let normal = (size + 0xfffu + (size >> 13u & 1u) - 0x38000000u) >> 13u;
  let subnormal = bitcast<u32>(bitcast<f32>(size) + 0.5) - 0x3f000000u; // one unit of 0.5 is 2^-24, that of such f16
  return bits >> 16u & 0x8000u | select(subnormal, normal, size >= 0x38800000u);
}

fn value(q: u32, scale: vec2f) -> u32 {
  let product = scale.x * f32(i32(q & 255u) - params.zero);
  return half(select(product, product + scale.y, params.hasMin == 1u));
}

fn two(word: u32, scale: vec2f) -> u32 {
  return value(word, scale) | value(word >> 8u, scale) << 16u;
}

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (2u * id.x >= params.words || id.y >= params.rows) { return; }
  let at = id.y * params.words + 2u * id.x;
  let scale = scales[id.y * params.groups + (id.x >> params.shift)];
  halves[id.y * params.pitch + id.x] = vec4u(
    two(codes[at], scale), two(codes[at] >> 16u, scale),
    two(codes[at + 1u], scale), two(codes[at + 1u] >> 16u, scale),
  );
}
