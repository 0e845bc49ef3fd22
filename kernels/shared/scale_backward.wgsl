// Backward of y = v ∘ z by column groups: dv = dy ∘ z;
//   partial[k, c] = Σ over the k-th block of rows of dy · v  (for dz).
// Shapes: dy, v, dv [rows, stride]; z [width / groupWidth]; partial [blocks, stride].
// Grid: x columns / 4, y blocks of BLOCK rows. Writes (=) dv and partial; dv may be the buffer of v.
struct Params { rows: u32, stride4: u32, width: u32, groupWidth: u32 }
@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read> z: array<f32>;
@group(0) @binding(2) var<storage, read_write> v: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> partial: array<vec4f>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  let mask = mask_of(id.x);
  var sum = vec4f();
  let end = min(params.rows, (id.y + 1u) * BLOCK);
  for (var row = id.y * BLOCK; row < end; row++) {
    let at = row * params.stride4 + id.x;
    let d = dy[at];
    sum = fma(d, v[at], sum);
    v[at] = d * mask;
  }
  partial[id.y * params.stride4 + id.x] = sum;
}
