// Inverted dropout: y[m, c] = x[m, c] · keep / (1 − rate), with the rate of the step. keep is drawn from (seed, step,
// stream, element), so that backward draws the same values.
// Shapes: x, y [rows, stride]. Grid: x columns / 4, y rows. y (+=) if params.accumulate is 1, otherwise (=).
struct Params { rows: u32, stride4: u32, stream: u32, accumulate: u32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

// Element of the whole step, so that micro-batches drop what one batch of all their rows would.
fn draw(element: u32) -> f32 { return uniform_random(state.seed, state.step, params.stream, element); }

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  let at = id.y * params.stride4 + id.x;
  // No store to kept[i]: the HLSL compiler of Direct3D refuses to write a vector by an index that it does not know.
  let drawn = 4u * (at + state.firstRow * params.stride4);
  let u = vec4f(draw(drawn), draw(drawn + 1u), draw(drawn + 2u), draw(drawn + 3u));
  let kept = select(vec4f(), vec4f(1.0 / (1.0 - state.dropout)), u >= vec4f(state.dropout));
  let value = x[at] * kept;
  if (params.accumulate == 1u) { y[at] += value; } else { y[at] = value; }
}
