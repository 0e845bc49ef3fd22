// Backward of masked SwiGLU, p = silu(gate) · up, a = p · z:
//   dgate = da · z · up · silu'(gate);  dup = da · z · silu(gate);
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
    let g = gate[at];
    let u = up[at];
    let d = da[at];
    let sigmoid = 1.0 / (1.0 + exp(-g));
    let silu = g * sigmoid;
    sum = fma(d, silu * u, sum);
    gate[at] = d * mask * u * sigmoid * (1.0 + g - silu);
    up[at] = d * mask * silu;
  }
  partial[id.y * params.stride4 + id.x] = sum;
}
