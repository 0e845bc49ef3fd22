// Ends a decoding step with a token that is drawn, or after penalties the most likely one. In integers, so that every
// device draws what lib/generate/sampling.ts draws, where the definitions are. For each row r, tokens[r] = t,
// picks[r, position[r]] = t, seen[r, t] += 1, then position[r] += 1. If a logit is NaN or infinite, picks gets 0xffffffff
// and tokens 0.
// Shapes: logits, weights (scratch) [rows, stride]; tokens, position [rows] u32; picks [rows, capacity]; settings [rows,
// 8]; table [2048], see `weightTable`; seen [rows, vocab]: how often a token was chosen, and bit 31 if the prompt has it.
// Grid: one workgroup per row. Writes (=). Needs preludes best_of_row.wgsl and random.wgsl.
struct Params { vocab: u32, capacity: u32, stride: u32, stream: u32 }
struct Settings {
  inverse: f32,    // log2(e) / temperature; 0 takes the most likely token
  penalty: f32,    // of repetition, for negative logits
  reciprocal: f32, // for positive ones
  topK: u32,       // 0 for all
  topP: u32,       // in 1 / 2^25
  seed: u32,
  frequency: i32,  // penalty for each time that a token was chosen, in 1 / 2^16
  presence: i32,   // penalty of tokens that were chosen
}
// The most times that count, so that the product fits an i32, and the largest penalty, which an f32 holds.
const MOST_TIMES = 16383u;
const MOST_PENALTY = 16777216;
@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> settings: array<Settings>;
@group(0) @binding(2) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(4) var<storage, read_write> picks: array<u32>;
@group(0) @binding(5) var<storage, read_write> position: array<u32>;
@group(0) @binding(6) var<storage, read_write> weights: array<u32>;
@group(0) @binding(7) var<storage, read_write> seen: array<u32>;
@group(0) @binding(8) var<uniform> params: Params;
var<workgroup> sums: array<vec2u, GROUP>;
var<workgroup> chosen: u32;

// Integers of 64 bits: x the low word, y the high one.
fn add64(a: vec2u, b: vec2u) -> vec2u {
  let low = a.x + b.x;
  return vec2u(low, a.y + b.y + select(0u, 1u, low < a.x));
}
fn sub64(a: vec2u, b: vec2u) -> vec2u { return vec2u(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x)); }
fn less64(a: vec2u, b: vec2u) -> bool { return a.y < b.y || (a.y == b.y && a.x < b.x); }
fn mul64(a: u32, b: u32) -> vec2u {
  let low = (a & 0xffffu) * (b & 0xffffu);
  let one = (a >> 16u) * (b & 0xffffu);
  let two = (a & 0xffffu) * (b >> 16u);
  let middle = (low >> 16u) + (one & 0xffffu) + (two & 0xffffu);
  return vec2u((low & 0xffffu) | (middle << 16u), (a >> 16u) * (b >> 16u) + (one >> 16u) + (two >> 16u) + (middle >> 16u));
}
// ⌊a·k / 2^25⌋ for k up to 2^25 and a below 2^50.
fn scale64(a: vec2u, k: u32) -> vec2u {
  let low = mul64(a.x, k);
  let high = mul64(a.y, k);
  let word1 = low.y + high.x;
  let word2 = high.y + select(0u, 1u, word1 < low.y);
  return vec2u((low.x >> 25u) | (word1 << 7u), (word1 >> 25u) | (word2 << 7u));
}

// A number whose order is that of floats.
fn key_of(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  return bits ^ select(0x80000000u, 0xffffffffu, bits >= 0x80000000u);
}
fn value_of(key: u32) -> f32 { return bitcast<f32>(key ^ select(0xffffffffu, 0x80000000u, key >= 0x80000000u)); }

// ⌊2^30 · 2^−y⌋ nearly, y = (top − score)·inverse: by two tables of ten bits of y's fraction each.
fn weight_of(distance: f32, inverse: f32) -> u32 {
  let y = distance * inverse;
  if (!(y < 30.0)) { return 0u; }
  let fixed = u32(y * 1048576.0);
  let coarse = table[(fixed >> 10u) & 1023u];
  let fine = table[1024u + (fixed & 1023u)];
  let part = (coarse >> 16u) * fine + (((coarse & 0xffffu) * fine) >> 16u);
  return (coarse - (part >> 10u)) >> (fixed >> 20u);
}

fn penalized(logit: f32, count: u32, own: Settings) -> f32 {
  if (count == 0u) { return logit; }
  // By its key and back: no compiler may fuse the product with the difference below, which would round otherwise.
  let repeated = value_of(key_of(logit * select(own.reciprocal, own.penalty, logit < 0.0)));
  let times = i32(min(count & 0x7fffffffu, MOST_TIMES));
  let sum = own.frequency * times + own.presence * min(times, 1);
  return repeated - f32(clamp(sum, -MOST_PENALTY, MOST_PENALTY)) / 65536.0;
}

fn group_sum64(value: vec2u, lane: u32) -> vec2u {
  workgroupBarrier();
  sums[lane] = value;
  workgroupBarrier();
  for (var step = GROUP / 2u; step > 0u; step /= 2u) {
    if (lane < step) { sums[lane] = add64(sums[lane], sums[lane + step]); }
    workgroupBarrier();
  }
  return workgroupUniformLoad(&sums[0]);
}

// Sum of the weights from `least` on, or their number.
fn mass_from(least: u32, counted: bool, base: u32, lane: u32) -> vec2u {
  var sum = vec2u();
  for (var c = lane; c < params.vocab; c += GROUP) {
    let weight = weights[base + c];
    if (weight >= least) { sum = add64(sum, vec2u(select(weight, 1u, counted), 0u)); }
  }
  return group_sum64(sum, lane);
}

// The largest number from which the mass reaches what is needed.
fn threshold(needed: vec2u, counted: bool, base: u32, lane: u32) -> u32 {
  var least = 0u;
  for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
    if (!less64(mass_from(least | bit, counted, base, lane), needed)) { least |= bit; }
  }
  return least;
}

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  let own = settings[row];
  let base = row * params.stride;
  let isPenalized = own.penalty != 1.0 || own.frequency != 0 || own.presence != 0;
  var best = -3.4e38;
  var id = NONE;
  var finite = true;
  for (var c = lane; c < params.vocab; c += GROUP) {
    var value = logits[base + c];
    finite = finite && is_finite(value);
    if (isPenalized) { value = penalized(value, seen[row * params.vocab + c], own); }
    weights[base + c] = key_of(value);
    if (id == NONE || value > best) {
      best = value;
      id = c;
    }
  }
  best_of_group(best, id, finite, lane);
  let top = workgroupUniformLoad(&values[0]);
  if (lane == 0u) { chosen = ids[0]; }
  if (own.inverse > 0.0) {
    var least = 0u;
    if (own.topK > 0u && own.topK < params.vocab) { least = threshold(vec2u(own.topK, 0u), true, base, lane); }
    workgroupBarrier();
    for (var c = lane; c < params.vocab; c += GROUP) {
      let key = weights[base + c];
      var weight = 0u;
      if (key >= least) { weight = weight_of(top - value_of(key), own.inverse); }
      weights[base + c] = weight;
    }
    var kept = mass_from(1u, false, base, lane);
    // Of the weights equal to the least, `ties` are kept: those of the lowest ids.
    var lowest = 1u;
    var ties = NONE;
    if (own.topP < 33554432u) {
      var needed = scale64(kept, own.topP);
      if (needed.x == 0u && needed.y == 0u) { needed.x = 1u; }
      lowest = threshold(needed, false, base, lane);
      let above = mass_from(lowest + 1u, false, base, lane);
      let rest = sub64(needed, above);
      var few = 0u; // too few ties
      for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
        if (few + bit <= params.vocab && few + bit > few && less64(mul64(few + bit, lowest), rest)) { few += bit; }
      }
      ties = few + 1u;
      kept = add64(above, mul64(ties, lowest));
    }
    let bits = pcg((position[row] + 1u) ^ pcg(params.stream ^ pcg(own.seed)));
    let drawn = scale64(kept, 2u * (bits >> 8u) + 1u);
    // Each invocation owns consecutive ids: first the sums of all, then a walk over those of one of them.
    let each = (params.vocab + GROUP - 1u) / GROUP;
    let first = min(lane * each, params.vocab);
    let end = min(first + each, params.vocab);
    var sum = vec2u();
    var equal = 0u;
    for (var c = first; c < end; c++) {
      let weight = weights[base + c];
      if (weight == lowest) { equal++; } else if (weight > lowest) { sum = add64(sum, vec2u(weight, 0u)); }
    }
    workgroupBarrier();
    sums[lane] = sum;
    ids[lane] = equal;
    workgroupBarrier();
    if (lane == 0u) {
      var before = vec2u();
      var left = ties;
      for (var i = 0u; i < GROUP; i++) {
        let taken = min(ids[i], left);
        let after = add64(before, add64(sums[i], mul64(taken, lowest)));
        if (less64(drawn, after)) {
          for (var c = i * each; c < min((i + 1u) * each, params.vocab); c++) {
            let weight = weights[base + c];
            if (weight < lowest || (weight == lowest && left == 0u)) { continue; }
            if (weight == lowest) { left--; }
            before = add64(before, vec2u(weight, 0u));
            if (less64(drawn, before)) {
              chosen = c;
              break;
            }
          }
          break;
        }
        before = after;
        left -= taken;
      }
    }
  }
  if (lane != 0u) { return; }
  let at = position[row];
  let isBroken = atomicLoad(&broken) == 1u;
  let token = select(chosen, 0u, isBroken);
  tokens[row] = token;
  if (at < params.capacity) { picks[row * params.capacity + at] = select(chosen, NONE, isBroken); }
  position[row] = at + 1u;
  if (isPenalized) { seen[row * params.vocab + token] += 1u; }
}
