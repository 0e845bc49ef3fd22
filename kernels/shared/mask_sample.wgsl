// Samples the masks of all units: draws[u] = (z, slope, p, 0), slope = dz/d(log α), 0 if z is clamped, p = P(z > 0).
// See the prelude.
// Shapes: logAlpha, draws [units]. Grid: x units. Writes (=). Random numbers are drawn by (seed, step, stream 1, unit).
struct Params { units: u32 }
@group(0) @binding(0) var<storage, read> logAlpha: array<f32>;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read_write> draws: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  let unit = id.x;
  if (unit >= params.units) { return; }
  let u = clamp(uniform_random(state.seed, state.step, 1u, unit), 1e-6, 1.0 - 1e-6);
  let s = sigmoid((state.noise * (log(u) - log(1.0 - u)) + logAlpha[unit]) / state.temperature);
  let stretched = s * (ZETA - GAMMA) + GAMMA;
  let slope = select(0.0, s * (1.0 - s) * (ZETA - GAMMA) / state.temperature, stretched > 0.0 && stretched < 1.0);
  draws[unit] = vec4f(clamp(stretched, 0.0, 1.0), slope, alive(logAlpha[unit]), 0.0);
}
