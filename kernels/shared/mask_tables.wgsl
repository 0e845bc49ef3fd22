// Prelude: units, KV groups and layers of the masks, as packed by lib/masks/tables.ts. Needs `tables: array<vec4u>`:
//   units  [units]      (bits of c, first slot, slots | held << 15 | bound << 16, KV group or NONE);
//                       bound = 3·layer + (0 heads, 1 FFN, 2 gate), 3·layers for hidden dims
//   groups [groups]     (first unit, count, bits of c, layer) of each KV group whose K and V are kept while a head is
//   layers [5 · layers] attention (first unit, count, first group, groups),
//                       (bits of fixed c, of all c, of the minimum c, gate or NONE);
//                       FFN likewise, without gate; slots (first head, heads, first column, columns)
// c are parameters per hidden dim. Held units do not move.
const NONE = 0xffffffffu;
const HELD = 0x8000u;
const SLOTS = 0x7fffu;

fn cost_of(unit: u32) -> f32 { return bitcast<f32>(tables[unit].x); }
fn is_held(unit: u32) -> bool { return (tables[unit].z & HELD) != 0u; }
fn bound_of(unit: u32) -> u32 { return tables[unit].z >> 16u; }
