// Backward of the masked activation of an FFN without gate, a = f(up) · z:
//   dup = da · z · f'(up);  partial[k, j] = Σ over the k-th block of rows of da · f(up)  (for dz).
// Shapes: up, da [rows, stride]; z [stride]; partial [blocks, stride]. Written in place: up := dup.
// Grid: x columns / 4, y blocks of BLOCK rows. All writes (=).
struct Params { rows: u32, stride4: u32 }
@group(0) @binding(0) var<storage, read> da: array<vec4f>;
@group(0) @binding(1) var<storage, read> z: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> up: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> partial: array<vec4f>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  var sum = vec4f();
  let mask = z[id.x];
  let end = min(params.rows, (id.y + 1u) * BLOCK);
  for (var row = id.y * BLOCK; row < end; row++) {
    let at = row * params.stride4 + id.x;
    let d = da[at];
    let f = activated_slope(up[at]);
    sum = fma(d, f.value, sum);
    up[at] = d * mask * f.first * f.second;
  }
  partial[id.y * params.stride4 + id.x] = sum;
}
