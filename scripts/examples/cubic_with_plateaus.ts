// A schedule: three cubic ramps with a rest after each, so that LoRA can catch up before more is cut.
//
//   deno run -A cli/main.ts schedule preview scripts/examples/cubic_with_plateaus.ts
//   deno run -A cli/main.ts prune demo --schedule scripts/examples/cubic_with_plateaus.ts --sparsity 0.3 \
//     --noise 0.3 --out runs/plateaus
import { cubic, defineSchedule, linear } from "../../lib/schedule/mod.ts";

/** Where each ramp begins and where it ends, as shares of the stage; the rest up to the next is a plateau. */
const RAMPS = [[0, 0.25], [0.35, 0.55], [0.65, 0.8]] as const;

export default defineSchedule({
  sparsity: ({ progress, sparsity }) =>
    RAMPS.reduce((reached, [begin, end], index) => {
      if (progress < begin) return reached;
      const ramp = cubic({ from: reached, to: sparsity * (index + 1) / RAMPS.length });
      return ramp({ progress: Math.min(1, (progress - begin) / (end - begin)), sparsity });
    }, 0),
  // Less noise as fewer steps are left to repair what it breaks.
  rates: { noise: linear({ from: 0.3, to: 0.05 }) },
});
