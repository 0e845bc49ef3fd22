// Prelude: the sums and maxima over a workgroup for all kernels, in a fixed order. Needs a constant GROUP, the
// workgroup size, a power of two.

var<workgroup> shared_values: array<f32, GROUP>;

fn group_sum(value: f32, lane: u32) -> f32 {
  workgroupBarrier();
  shared_values[lane] = value;
  workgroupBarrier();
  for (var step = GROUP / 2u; step > 0u; step /= 2u) {
    if (lane < step) { shared_values[lane] += shared_values[lane + step]; }
    workgroupBarrier();
  }
  return workgroupUniformLoad(&shared_values[0]);
}

fn group_max(value: f32, lane: u32) -> f32 {
  workgroupBarrier();
  shared_values[lane] = value;
  workgroupBarrier();
  for (var step = GROUP / 2u; step > 0u; step /= 2u) {
    if (lane < step) { shared_values[lane] = max(shared_values[lane], shared_values[lane + step]); }
    workgroupBarrier();
  }
  return workgroupUniformLoad(&shared_values[0]);
}
