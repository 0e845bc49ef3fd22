// Prelude of optimizers: a gradient after clipping to a global norm, g · min(1, clip / (‖g‖ + 1e-6)).
// Needs state and metrics, whose entry GRAD_SQUARES is ‖g‖².
fn clipped(gradient: f32) -> f32 {
  if (state.clipNorm <= 0.0) { return gradient; }
  return gradient * min(1.0, state.clipNorm / (sqrt(metrics[GRAD_SQUARES]) + 1e-6));
}
