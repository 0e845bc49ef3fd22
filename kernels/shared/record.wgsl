// Appends the values of a step to a ring buffer that the host reads from time to time: ring[step mod slots] = (metrics,
// constraint).
// Shapes: metrics [8]; constraint [8]; ring [slots, 16]. Grid: one workgroup of 16. Writes (=).
struct Params { slots: u32 }
@group(0) @binding(0) var<storage, read> metrics: array<f32>;
@group(0) @binding(1) var<storage, read> constraint: array<f32>;
@group(0) @binding(2) var<storage, read> state: StepState;
@group(0) @binding(3) var<storage, read_write> ring: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(16) fn main(@builtin(local_invocation_index) lane: u32) {
  let slot = state.step % params.slots;
  var value = metrics[lane % 8u];
  if (lane >= 8u) { value = constraint[lane - 8u]; }
  ring[16u * slot + lane] = value;
}
