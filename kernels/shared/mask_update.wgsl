// One descent step on log α by Adam, with
//   gradient = slope · z_layer · Σ over the unit's slots of dz  +  force · dŝ/d(log α);
//   dŝ/d(log α) = −p'·p_layer·H·(c + c_kv·Π_others(1 − p)) / total for heads and FFN columns,
//   −p'·(R + square·H) / total for hidden dims, and
//   −p'·H·(expected parameters of the layer) / total for gates, whose sum over slots comes from mask_gates.wgsl.
// The step also adds drift · log(S' / S), so that log α follows the saliency that it started from. S is a running mean
// of the Σ over the unit's slots of squares, plus the unit's prior, and forgets the share 1 − memory at each step. The
// square of a gate is that of its whole gradient. S = 0 means no saliency.
// Shapes: logAlpha, draws (z, slope, p, 0) [units]; moments (m, v) [units], then S [units], then priors [units], then
// drift, memory; dz [slots], then squares [slots]; tables as in mask_tables.wgsl. Held units do not change, including
// their moments.
// Grid: x units. Updates logAlpha and moments in place; log α is clamped to ±state.limit.
const LEAST = 1e-30; // of a saliency
struct Params { units: u32, hiddenFirst: u32, layerFirst: u32, groupCount: u32, slots: u32, total: f32, square: f32 }
@group(0) @binding(0) var<storage, read> dz: array<f32>;
@group(0) @binding(1) var<storage, read> draws: array<vec4f>;
@group(0) @binding(2) var<storage, read> tables: array<vec4u>;
@group(0) @binding(3) var<storage, read> constraint: array<f32>;
@group(0) @binding(4) var<storage, read> state: StepState;
@group(0) @binding(5) var<storage, read_write> logAlpha: array<f32>;
@group(0) @binding(6) var<storage, read_write> moments: array<f32>;
@group(0) @binding(7) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  let unit = id.x;
  if (unit >= params.units || is_held(unit)) { return; }
  let info = tables[unit];
  let draw = draws[unit];
  var gradient = 0.0; // dz of the unit, then of its log α
  var squared = 0.0;
  var kept = constraint[0] + params.square * constraint[1];
  if (unit >= params.layerFirst) {
    let layer = layer_terms(bound_of(unit) / 3u);
    squared = layer.x * layer.x;
    gradient = layer.x * draw.y;
    kept = constraint[1] * layer.y;
  } else {
    for (var i = 0u; i < (info.z & SLOTS); i++) {
      gradient += dz[info.y + i];
      squared += dz[params.slots + info.y + i];
    }
    gradient *= draw.y;
    if (unit < params.hiddenFirst) {
      var perDim = bitcast<f32>(info.x);
      if (info.w != NONE) {
        let group = tables[params.units + info.w];
        var others = bitcast<f32>(group.z);
        for (var i = 0u; i < group.y; i++) {
          if (group.x + i != unit) { others *= 1.0 - draws[group.x + i].z; }
        }
        perDim += others;
      }
      let gate = gate_draw(bound_of(unit) / 3u);
      gradient *= gate.x;
      kept = constraint[1] * perDim * gate.z;
    }
  }
  gradient -= constraint[5] * alive_slope(draw.z) * kept / params.total;
  let first = B1 * moments[2u * unit] + (1.0 - B1) * gradient;
  let second = B2 * moments[2u * unit + 1u] + (1.0 - B2) * gradient * gradient;
  moments[2u * unit] = first;
  moments[2u * unit + 1u] = second;
  let step = first / state.maskCorrection1 / (sqrt(second / state.maskCorrection2) + 1e-8);
  let tail = 4u * params.units;
  let past = moments[2u * params.units + unit];
  var follow = 0.0;
  if (past > 0.0) {
    let now = squared + moments[3u * params.units + unit];
    let saliency = max(LEAST, mix(now, past, moments[tail + 1u]));
    follow = moments[tail] * log(saliency / past);
    moments[2u * params.units + unit] = saliency;
  }
  logAlpha[unit] = clamp(logAlpha[unit] - state.maskRate * step + follow, -state.limit, state.limit);
}
