// Names of the update rules for the multipliers of the sparsity constraint; the arithmetic is in
// kernels/shared/expected_size.wgsl.

/**
 * How the multipliers λ1 and λ2 are updated. λ1 rises and falls, λ2 only rises.
 *
 * - "plain": by their gradients times the rate, so that they rest where the target is met.
 * - "adam": by about the rate at each step, however small the gap, as in Compresso's published code, where nothing else
 *   enforces the target.
 */
export const LAMBDA_RULES = ["plain", "adam"] as const satisfies readonly LambdaRule[];
/** Name of an update rule of λ. */
export type LambdaRule = "plain" | "adam";
