// Activation of an FFN without gate, with its mask: a[m, j] = f(up[m, j]) · z[j]; f is `activated`.
// Shapes: up, a [rows, stride]; z [stride]. Grid: x columns / 4, y rows. Writes (=) a.
struct Params { rows: u32, stride4: u32 }
@group(0) @binding(0) var<storage, read> up: array<vec4f>;
@group(0) @binding(1) var<storage, read> z: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> a: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  let at = id.y * params.stride4 + id.x;
  a[at] = activated(up[at]) * z[id.x];
}
