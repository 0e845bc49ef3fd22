// A cubic schedule that ends the stage when the loss rises too far above the best of the last 32 records.
//
//   compresso schedule preview scripts/examples/early_stop.ts
//   compresso prune demo --schedule scripts/examples/early_stop.ts --sparsity 0.5 --out runs/early_stop
import { cubic, defineSchedule } from "compresso/schedule";

/** Steps whose losses are averaged: one alone says little. */
const WINDOW = 8;
/** Rise over the best mean, in nats, that ends the stage. */
const TOO_FAR = 0.25;

export default defineSchedule({
  sparsity: cubic({ to: "target", warmup: 0.4 }),
  end: ({ records }) => {
    const losses = records.map(({ loss }) => loss);
    const means = losses.slice(WINDOW - 1).map((_, first) =>
      losses.slice(first, first + WINDOW).reduce((sum, loss) => sum + loss, 0) / WINDOW
    );
    const last = means.at(-1);
    return last !== undefined && last > Math.min(...means) + TOO_FAR;
  },
});
