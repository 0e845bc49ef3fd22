// Gated activation with its mask: a[m, j] = f(gate[m, j]) · up[m, j] · z[j]; f is `activated` (SwiGLU with silu).
// Shapes: gate, up, a [rows, stride]; z [stride]. Grid: x columns / 4, y rows. Writes (=) a.
struct Params { rows: u32, stride4: u32 }
@group(0) @binding(0) var<storage, read> gate: array<vec4f>;
@group(0) @binding(1) var<storage, read> up: array<vec4f>;
@group(0) @binding(2) var<storage, read> z: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> a: array<vec4f>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  let at = id.y * params.stride4 + id.x;
  a[at] = activated(gate[at]) * up[at] * z[id.x];
}
