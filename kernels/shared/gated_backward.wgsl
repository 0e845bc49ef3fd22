// Backward of a masked gated activation, p = f(gate) · up, a = p · z:
//   dgate = da · z · up · f'(gate);  dup = da · z · f(gate);
//   partial[k, j] = Σ over the k-th block of rows of da · p  (for dz).
// Shapes: gate, up, da [rows, stride]; z [stride]; partial [blocks, stride].
// Written in place: gate := dgate, up := dup.
// Grid: x columns / 4, y blocks of BLOCK rows. All writes (=).
struct Params { rows: u32, stride4: u32 }
@group(0) @binding(0) var<storage, read> da: array<vec4f>;
@group(0) @binding(1) var<storage, read> z: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> gate: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> up: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> partial: array<vec4f>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  var sum = vec4f();
  let mask = z[id.x];
  let end = min(params.rows, (id.y + 1u) * BLOCK);
  for (var row = id.y * BLOCK; row < end; row++) {
    let at = row * params.stride4 + id.x;
    let u = up[at];
    let d = da[at];
    let f = activated_slope(gate[at]);
    sum = fma(d, f.value * u, sum);
    gate[at] = d * mask * u * f.first * f.second;
    up[at] = d * mask * f.value;
  }
  partial[id.y * params.stride4 + id.x] = sum;
}
