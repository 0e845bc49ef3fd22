// A schedule of LoRA's learning rate in all three stages: it rises in the first, is constant in the second, and rises and falls to 0 in the last. The
// sparsity follows the run's own schedule.
//
//   compresso schedule preview scripts/examples/learning_rate.ts
//   compresso prune MODEL --data DATA --sparsity 0.3 --schedule scripts/examples/learning_rate.ts --out runs/rate
//
// With a one-shot method only the last of the three may be set: all of its steps are that stage.
import { constant, cosine, type CurveInput, defineSchedule, linear } from "compresso/schedule";

const PEAK = 1e-3, WARM = 0.1;

const up = linear({ to: PEAK });
const down = cosine({ from: PEAK, to: 0 });
const upAndDown = (input: CurveInput): number =>
  input.progress < WARM
    ? up({ ...input, progress: input.progress / WARM })
    : down({ ...input, progress: (input.progress - WARM) / (1 - WARM) });

export default defineSchedule({
  finetune: { lora: up },
  rates: { lora: constant(PEAK) },
  postfinetune: { lora: upAndDown },
});
