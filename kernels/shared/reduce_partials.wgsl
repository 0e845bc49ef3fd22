// Sums partials of mask gradients: dz[u] (+)= Σ over blocks k of g_k and squares[u] (+)= Σ over k of g_k², where
//   g_k = Σ over the columns c of unit u of partial[k, c].
// Shapes: partial [blocks, stride]; dz, squares [units]; unit u owns columns u·groupWidth … (u + 1)·groupWidth − 1.
// Grid: x units. dz, squares (+=) if params.accumulate is 1, otherwise (=).
struct Params { blocks: u32, stride: u32, units: u32, groupWidth: u32, accumulate: u32 }
@group(0) @binding(0) var<storage, read> partial: array<f32>;
@group(0) @binding(1) var<storage, read_write> dz: array<f32>;
@group(0) @binding(2) var<storage, read_write> squares: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.units) { return; }
  var sum = 0.0;
  var square = 0.0;
  if (params.accumulate == 1u) {
    sum = dz[id.x];
    square = squares[id.x];
  }
  let first = id.x * params.groupWidth;
  for (var k = 0u; k < params.blocks; k++) {
    var gradient = 0.0;
    for (var c = 0u; c < params.groupWidth; c++) { gradient += partial[k * params.stride + first + c]; }
    sum += gradient;
    square = fma(gradient, gradient, square);
  }
  dz[id.x] = sum;
  squares[id.x] = square;
}
