// Prelude: the values that change from step to step. The host writes them before each replay.
struct StepState {
  seed: u32,
  step: u32,            // steps done in this run, 0-based: the counter of random numbers and the ring slot
  lossScale: f32,       // 1 / number of label tokens
  goal: f32,            // target sparsity of the step
  loraRate: f32,        // learning rates
  maskRate: f32,
  lambdaRate: f32,
  noise: f32,           // scale of the hard-concrete noise, 1 = Louizos et al.
  temperature: f32,     // β of hard concrete
  loraCorrection1: f32, // 1 − β1^t and 1 − β2^t of Adam, t = updates of that group
  loraCorrection2: f32,
  maskCorrection1: f32,
  maskCorrection2: f32,
  clipNorm: f32,        // largest global norm of the LoRA gradients; 0 = no clipping
  weightDecay: f32,
  tracking: f32,        // share of the gap between expected sparsity and target that the projection closes, 0 = none
  limit: f32,           // log α is clamped to ± this after each update
  lambdaAdam: f32,      // 1: λ moves by Adam, with the masks' corrections; 0: by its gradient times its rate
  dropout: f32,         // share of the elements before LoRA's A that are dropped, below 1
  firstRow: u32,        // tokens of the step in its micro-batches before this one: dropout draws by the row in the step
}
