// Prelude: the sums and maxima of two values at once over a workgroup, each with the bits of group_sum and group_max.
// Needs a constant GROUP, the workgroup size, a power of two. Every place that calls them costs a CPU's driver about a
// tenth of a second when it first compiles the kernel.

var<workgroup> shared_pairs: array<vec2f, GROUP>;

fn pair_sum(value: vec2f, lane: u32) -> vec2f {
  workgroupBarrier();
  shared_pairs[lane] = value;
  workgroupBarrier();
  for (var step = GROUP / 2u; step > 0u; step /= 2u) {
    if (lane < step) { shared_pairs[lane] += shared_pairs[lane + step]; }
    workgroupBarrier();
  }
  return workgroupUniformLoad(&shared_pairs[0]);
}

fn pair_max(value: vec2f, lane: u32) -> vec2f {
  workgroupBarrier();
  shared_pairs[lane] = value;
  workgroupBarrier();
  for (var step = GROUP / 2u; step > 0u; step /= 2u) {
    if (lane < step) { shared_pairs[lane] = max(shared_pairs[lane], shared_pairs[lane + step]); }
    workgroupBarrier();
  }
  return workgroupUniformLoad(&shared_pairs[0]);
}
