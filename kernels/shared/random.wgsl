// Prelude: counter-based random numbers (PCG output function chained over the four words; Jarzynski & Olano 2020).
fn pcg(value: u32) -> u32 {
  let state = value * 747796405u + 2891336453u;
  let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
  return (word >> 22u) ^ word;
}

/// Uniform in (0, 1), 24 bits, never 0 or 1: the largest of them would round to 1 in f32.
fn uniform_random(seed: u32, step: u32, stream: u32, counter: u32) -> f32 {
  let bits = pcg(counter ^ pcg(stream ^ pcg(step ^ pcg(seed))));
  return min((f32(bits >> 8u) + 0.5) / 16777216.0, 0.99999994);
}
