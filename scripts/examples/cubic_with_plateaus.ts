// A schedule of three cubic ramps with a plateau after each, so that LoRA can recover before more is cut.
//
//   compresso schedule preview scripts/examples/cubic_with_plateaus.ts
//   compresso prune demo --schedule scripts/examples/cubic_with_plateaus.ts --sparsity 0.3 \
//     --noise 0.3 --out runs/plateaus
import { cubic, defineSchedule, linear } from "compresso/schedule";

/** Begin and end of each ramp, as shares of the stage; between ramps lie plateaus. */
const RAMPS = [[0, 0.25], [0.35, 0.55], [0.65, 0.8]] as const;

export default defineSchedule({
  sparsity: ({ progress, sparsity }) =>
    RAMPS.reduce((reached, [begin, end], index) => {
      if (progress < begin) return reached;
      const ramp = cubic({ from: reached, to: sparsity * (index + 1) / RAMPS.length });
      return ramp({ progress: Math.min(1, (progress - begin) / (end - begin)), sparsity });
    }, 0),
  // Less noise towards the end, where few steps are left to recover.
  rates: { noise: linear({ from: 0.3, to: 0.05 }) },
});
