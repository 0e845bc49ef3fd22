// Inverted dropout: y[m, c] = x[m, c] · keep / (1 − rate); keep is drawn from (seed, step, stream, element), so that backward draws the same.
// Shapes: x, y [rows, stride]. Grid: x columns / 4, y rows. y (+=) where params.accumulate is 1, else (=).
struct Params { rows: u32, stride4: u32, stream: u32, accumulate: u32, rate: f32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  let at = id.y * params.stride4 + id.x;
  var kept = vec4f();
  for (var i = 0u; i < 4u; i++) {
    let u = uniform_random(state.seed, state.step, params.stream, 4u * at + i);
    kept[i] = select(0.0, 1.0 / (1.0 - params.rate), u >= params.rate);
  }
  let value = x[at] * kept;
  if (params.accumulate == 1u) { y[at] += value; } else { y[at] = value; }
}
