// A plain experiment on the demo, which tests change.
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import type { ExperimentDefinition, ExperimentOverrides, ResolvedExperiment } from "../../lib/experiment/types.ts";

/** One cell. */
export const PLAIN: ExperimentDefinition = {
  name: "plain",
  model: "demo",
  base: { sparsity: 0.2, steps: 4, prompt: false, seq: 48 },
  grid: { seed: [1] },
};

/** The plain experiment with another part. */
export function resolved(
  change: Partial<ExperimentDefinition>,
  overrides: ExperimentOverrides = {},
): ResolvedExperiment {
  return resolveExperiment(defineExperiment({ ...PLAIN, ...change }), overrides);
}
