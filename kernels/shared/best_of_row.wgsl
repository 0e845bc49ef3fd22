// Prelude: the largest of a row's values over a workgroup of GROUP invocations, the lowest id among equals.
const NONE = 0xffffffffu;
var<workgroup> values: array<f32, GROUP>;
var<workgroup> ids: array<u32, GROUP>;
var<workgroup> broken: atomic<u32>;

/// Whether a value is neither NaN nor infinite. By its bits: compilers may assume that no value is NaN.
fn is_finite(value: f32) -> bool { return (bitcast<u32>(value) & 0x7f800000u) != 0x7f800000u; }

/// Leaves the largest value in values[0] and its id in ids[0]; broken is 1 where an invocation has `finite` false. An
/// invocation without a value has the id NONE.
fn best_of_group(best: f32, id: u32, finite: bool, lane: u32) {
  workgroupBarrier(); // some drivers zero workgroup memory late: see CONTRIBUTING.md
  if (!finite) { atomicStore(&broken, 1u); }
  values[lane] = best;
  ids[lane] = id;
  workgroupBarrier();
  for (var step = GROUP / 2u; step > 0u; step /= 2u) {
    if (lane < step) {
      let other = values[lane + step];
      let at = ids[lane + step];
      if (at != NONE && (ids[lane] == NONE || other > values[lane] || (other == values[lane] && at < ids[lane]))) {
        values[lane] = other;
        ids[lane] = at;
      }
    }
    workgroupBarrier();
  }
}
