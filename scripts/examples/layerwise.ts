// A schedule with a target for each layer: the first and last layers lose least, and heads of a layer that is ahead of its target wait.
//
//   compresso schedule preview scripts/examples/layerwise.ts
//   compresso prune demo --schedule scripts/examples/layerwise.ts --sparsity 0.3 --out runs/layerwise
import { cubic, defineSchedule } from "compresso/schedule";

const whole = cubic({ to: "target", warmup: 0.4 });
/** Share cut beyond a layer's target at which its heads wait. */
const AHEAD = 0.1;

/** Weights of the layers, 1 on average: low at both ends, high in the middle. */
function weights(count: number): number[] {
  const raw = Array.from({ length: count }, (_, layer) => Math.sin(Math.PI * (layer + 0.5) / count) ** 0.5);
  const mean = raw.reduce((sum, weight) => sum + weight, 0) / count;
  return raw.map((weight) => weight / mean);
}

export default defineSchedule({
  sparsity: whole,
  layers: (input) => weights(input.layers.length).map((weight) => Math.min(0.95, whole(input) * weight)),
  freeze: (input) =>
    weights(input.layers.length).flatMap((weight, layer) => {
      const cut = input.layers[layer]?.heads ?? 0;
      return cut > whole(input) * weight + AHEAD ? [{ layer, kind: "heads" as const }] : [];
    }),
});
