// The layouts in which a pruned model can be written.

/**
 * How a pruned model is written: `compact` as it was sliced, layers differ; `padded` with zeros to the widest layer;
 * `uniform` as it is too, after masks of `uniformMasks` were sliced.
 */
export type Layout = "compact" | "padded" | "uniform";

/** All layouts, in the order of the command line's help. */
export const LAYOUTS: readonly Layout[] = ["compact", "padded", "uniform"];
