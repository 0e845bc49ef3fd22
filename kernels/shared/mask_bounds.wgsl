// Bounds of the shift that mask_project adds to log α, by part of a layer. For a part with a goal, both bounds are the
// shift that meets the goal, found by bisection.
//   goals [3 · layers]: share to cut of the parameters of a layer, of its attention, of its FFN; < 0 for none. The goal
// of the layer takes precedence.
// Otherwise the lower bound is the shift at which the expected size of the part equals its minimum, and there is no
// upper bound. Fewer single heads than the minimum may then remain if they are expected in more KV groups than the hard
// masks leave them.
// Like the goal of the whole, a goal is approached by the share `tracking`. Without tracking λ controls the whole; a
// goal has no λ and is met exactly. Hidden dims are not counted.
// Shapes: logAlpha [units]; bounds [3 · layers + 1] of (lower, upper), at 3·layer + (0 heads, 1 FFN, 2 gate), the last
// for hidden dims.
// Every call of a function that sums is compiled separately, so each is called in one place, in loops; parts is 2, which
// compilers do not know and so cannot unroll.
// Grid: one workgroup per layer, and one for hidden dims and the number of gates. Writes (=).
struct Params { units: u32, hiddenFirst: u32, layerFirst: u32, groupCount: u32, layers: u32, leastHidden: f32, leastGates: f32, parts: u32 }
@group(0) @binding(0) var<storage, read> logAlpha: array<f32>;
@group(0) @binding(1) var<storage, read> tables: array<vec4u>;
@group(0) @binding(2) var<storage, read> state: StepState;
@group(0) @binding(3) var<storage, read> goals: array<f32>;
@group(0) @binding(4) var<storage, read_write> bounds: array<vec2f>;
@group(0) @binding(5) var<uniform> params: Params;

const FREE = 1000.0;
const HALVINGS = 32u; // of [-250, 250]: 1e-7 is left
const ATTENTION = 0u;
const FFN = 1u;
const WHOLE = 2u;

fn moved(unit: u32, shift: f32) -> f32 { return logAlpha[unit] + select(shift, 0.0, is_held(unit)); }
fn follows(unit: u32, shift: f32) -> bool { return !is_held(unit); }

/// Expected parameters per hidden dim of a part.
fn part_size(row: u32, shift: f32, lane: u32) -> f32 {
  let part = tables[row];
  var r = 0.0;
  for (var i = lane; i < part.y; i += GROUP) { r = fma(cost_of(part.x + i), alive(moved(part.x + i, shift)), r); }
  for (var g = lane; g < part.w; g += GROUP) {
    let group = tables[params.units + part.z + g];
    var dead = 1.0;
    for (var i = 0u; i < group.y; i++) { dead *= 1.0 - alive(moved(group.x + i, shift)); }
    r += bitcast<f32>(group.z) * (1.0 - dead);
  }
  return group_sum(r, lane) + bitcast<f32>(tables[row + 1u].x);
}

/// Expected number of units that live.
fn alive_count(first: u32, count: u32, shift: f32, lane: u32) -> f32 {
  var n = 0.0;
  for (var i = lane; i < count; i += GROUP) { n += alive(moved(first + i, shift)); }
  return group_sum(n, lane);
}

/// Expected share cut of attention, FFN or both with the gate; a part does not go below its lower bound.
fn share_cut(first: u32, which: u32, shift: f32, low: vec2f, lane: u32) -> f32 {
  var kept = 0.0;
  var all = 0.0;
  for (var part = 0u; part < params.parts; part++) {
    if (which == 1u - part) { continue; }
    kept += part_size(first + 2u * part, max(shift, select(low.x, low.y, part == 1u)), lane);
    all += bitcast<f32>(tables[first + 2u * part + 1u].y);
  }
  let gate = tables[first + 1u].w;
  if (which == WHOLE && gate != NONE) { kept *= alive(moved(gate, shift)); }
  return 1.0 - kept / max(all, 1.0);
}

/// The shift at which the share is `goal`.
fn goal_shift(first: u32, which: u32, goal: f32, low: vec2f, lane: u32) -> f32 {
  var below = -250.0;
  var above = 250.0;
  var shift = 0.0;
  var wanted = 0.0;
  for (var i = 0u; i <= HALVINGS; i++) { // first the present share
    let share = share_cut(first, which, shift, select(low, vec2f(-FREE), i == 0u), lane);
    if (i == 0u) {
      wanted = share + select(1.0, state.tracking, state.tracking > 0.0) * (goal - share);
    } else if (share > wanted) { below = shift; } else { above = shift; }
    if (i < HALVINGS) { shift = 0.5 * (below + above); }
  }
  // Parts of a layer move as one, which keeps the order of their units.
  var edges = vec2f(-1e30, 1e30);
  for (var part = 0u; part < params.parts; part++) {
    if (which == 1u - part) { continue; }
    let own = extremes(shift, tables[first + 2u * part].x, tables[first + 2u * part].y, lane);
    edges = vec2f(max(edges.x, own.x), min(edges.y, own.y));
  }
  return short_of_saturation(shift, edges);
}

/// The lowest shift at which the part is as large as what must stay of it.
fn least_shift(row: u32, lane: u32) -> f32 {
  let least = bitcast<f32>(tables[row + 1u].z);
  if (least <= 0.0 || tables[row].y == 0u) { return -FREE; }
  var below = -250.0;
  var above = 250.0;
  for (var i = 0u; i < HALVINGS; i++) {
    let shift = 0.5 * (below + above);
    if (part_size(row, shift, lane) < least) { below = shift; } else { above = shift; }
  }
  return short_of_saturation(above, extremes(above, tables[row].x, tables[row].y, lane));
}

/// The lowest shift at which so many of the units live.
fn least_count_shift(first: u32, count: u32, least: f32, lane: u32) -> f32 {
  if (least <= 0.0 || count == 0u) { return -FREE; }
  var below = -250.0;
  var above = 250.0;
  for (var i = 0u; i < HALVINGS; i++) {
    let shift = 0.5 * (below + above);
    if (alive_count(first, count, shift, lane) < least) { below = shift; } else { above = shift; }
  }
  return short_of_saturation(above, extremes(above, first, count, lane));
}

@compute @workgroup_size(GROUP) fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let layer = group.x;
  if (layer == params.layers) {
    var least = vec2f();
    for (var kind = 0u; kind < params.parts; kind++) { // hidden dims, gates
      let start = select(params.hiddenFirst, params.layerFirst, kind == 1u);
      let end = select(params.layerFirst, params.units, kind == 1u);
      let wanted = select(params.leastHidden, params.leastGates, kind == 1u);
      let own = least_count_shift(start, end - start, wanted, lane);
      least = select(vec2f(own, least.y), vec2f(least.x, own), kind == 1u);
    }
    for (var l = lane; l < params.layers; l += GROUP) {
      if (goals[3u * l] < 0.0) { bounds[3u * l + 2u] = vec2f(least.y, FREE); }
    }
    if (lane == 0u) { bounds[3u * layer] = vec2f(least.x, FREE); }
    return;
  }
  let first = params.units + params.groupCount + 5u * layer;
  var low = vec2f();
  for (var part = 0u; part < params.parts; part++) {
    let own = least_shift(first + 2u * part, lane);
    low = select(vec2f(own, low.y), vec2f(low.x, own), part == 1u);
  }
  var attention = vec2f(low.x, FREE);
  var ffn = vec2f(low.y, FREE);
  var gate = vec2f(0.0);
  let whole = goals[3u * layer];
  for (var part = 0u; part < params.parts; part++) {
    let which = select(part, WHOLE, whole >= 0.0);
    let goal = select(goals[3u * layer + 1u + part], whole, whole >= 0.0);
    if (goal < 0.0 || (which == WHOLE && part == 1u)) { continue; }
    let shift = goal_shift(first, which, goal, low, lane);
    if (which != FFN) { attention = vec2f(max(shift, low.x)); }
    if (which != ATTENTION) { ffn = vec2f(max(shift, low.y)); }
    if (which == WHOLE) {
      let own = tables[first + 1u].w;
      gate = vec2f(short_of_saturation(shift, extremes(shift, own, select(1u, 0u, own == NONE), lane)));
    }
  }
  if (lane != 0u) { return; }
  bounds[3u * layer] = attention;
  bounds[3u * layer + 1u] = ffn;
  if (whole >= 0.0) { bounds[3u * layer + 2u] = gate; }
}
