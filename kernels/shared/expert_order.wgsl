// Sorts pairs (token, choice) by expert, each expert's range padded to whole tiles, in the order of the tokens.
// counts[e] = pairs of expert e; slots[s] = pair in slot s, or NONE; slot_of[pair] = its slot; tiles[t] = expert of the
// slots t·tile … (t + 1)·tile − 1, or NONE for tiles beyond the last.
// Shapes: choice, slot_of [pairs]; counts, starts [experts]; slots [tiles · tile]; tiles [tiles]. Grid: one workgroup.
// Writes (=).
struct Params { pairs: u32, experts: u32, tile: u32, tiles: u32 }
@group(0) @binding(0) var<storage, read> choice: array<u32>;
@group(0) @binding(1) var<storage, read_write> counts: array<u32>;
@group(0) @binding(2) var<storage, read_write> starts: array<u32>;
@group(0) @binding(3) var<storage, read_write> slots: array<u32>;
@group(0) @binding(4) var<storage, read_write> slot_of: array<u32>;
@group(0) @binding(5) var<storage, read_write> tiles: array<u32>;
@group(0) @binding(6) var<uniform> p: Params;

const NONE = 0xffffffffu;
const LANES = 64u;

@compute @workgroup_size(64) fn main(@builtin(local_invocation_id) id: vec3u) {
  for (var e = id.x; e < p.experts; e += LANES) {
    var count = 0u;
    for (var pair = 0u; pair < p.pairs; pair++) { count += select(0u, 1u, choice[pair] == e); }
    counts[e] = count;
  }
  storageBarrier();
  if (id.x == 0u) {
    var next = 0u;
    for (var e = 0u; e < p.experts; e++) {
      starts[e] = next * p.tile;
      let end = next + (counts[e] + p.tile - 1u) / p.tile;
      for (; next < end; next++) { tiles[next] = e; }
    }
    for (; next < p.tiles; next++) { tiles[next] = NONE; }
  }
  storageBarrier();
  for (var e = id.x; e < p.experts; e += LANES) {
    var slot = starts[e];
    for (var pair = 0u; pair < p.pairs; pair++) {
      if (choice[pair] != e) { continue; }
      slots[slot] = pair;
      slot_of[pair] = slot;
      slot++;
    }
    for (; slot % p.tile != 0u; slot++) { slots[slot] = NONE; }
  }
}
