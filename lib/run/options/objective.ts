// The option `objective`: its default, and what it refuses.
import { refuse } from "../../core/errors.ts";
import { comparesWithDense, CROSS_ENTROPY, lossesOf, type Objective } from "../../nn/train/objective.ts";
import { compensates, nameOfMethod } from "../methods/all.ts";
import type { ResolvedOptions } from "./options.ts";

/**
 * The losses with a weight: those given, and cross-entropy unless its weight is given.
 *
 * @throws CompressoError("usage") if there is none.
 */
export function resolveObjective(given: Objective = {}): Objective {
  const weights = { ...given, crossEntropy: given.crossEntropy ?? CROSS_ENTROPY.crossEntropy },
    losses = lossesOf(weights);
  if (losses.length === 0) {
    refuse("usage", "cannot train without a loss", {
      rule: "at least one loss has a weight above 0",
      value: JSON.stringify(given),
      option: "objective",
    });
  }
  return Object.fromEntries(losses.map((name) => [name, weights[name]]));
}

/** Refuses a comparison with weights that the method changes. Throws `CompressoError("usage")`. */
export function checkObjective({ objective, method }: Pick<ResolvedOptions, "objective" | "method">): void {
  if (!comparesWithDense(objective) || !compensates(method)) return;
  refuse("usage", "cannot distil from the model before pruning", {
    rule: "the method leaves its weights as they are; this one adds a compensation",
    value: `method ${nameOfMethod(method)}`,
    option: "objective.distillation",
  });
}
