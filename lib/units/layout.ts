// The layouts in which a pruned model can be written.

/**
 * Layout of a written model: `compact` is the sliced model, with layers of different sizes; `padded` pads with zeros to
 * the widest layer; `uniform` is also the sliced model, after slicing with masks of `uniformMasks`.
 */
export type Layout = "compact" | "padded" | "uniform";

/** All layouts, in the order of the command-line help. */
export const LAYOUTS: readonly Layout[] = ["compact", "padded", "uniform"];
