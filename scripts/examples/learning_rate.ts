// A schedule of LoRA's learning rate in all three stages: up in the first, held in the second, and in the last up again and down to nothing. What is
// pruned, and when, stays the run's own.
//
//   compresso schedule preview scripts/examples/learning_rate.ts
//   compresso prune MODEL --data DATA --sparsity 0.3 --schedule scripts/examples/learning_rate.ts --out runs/rate
//
// Beside a one-shot method only the last of the three may be set, as all of its steps are that stage.
import { constant, cosine, type CurveInput, defineSchedule, linear } from "../../lib/schedule/mod.ts";

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
