// Names of the rules by which the multipliers of the sparsity constraint move; the arithmetic is in kernels/expected_size.wgsl.

/**
 * How λ1 rises and falls, and λ2 rises: "plain", by their gradients times the rate, so that they rest where the target is held; or "adam", by about the rate at
 * each step however small the gap, as in Compresso's published code, where nothing else holds the target.
 */
export const LAMBDA_RULES = ["plain", "adam"] as const satisfies readonly LambdaRule[];
/** Name of a rule of λ. */
export type LambdaRule = "plain" | "adam";
