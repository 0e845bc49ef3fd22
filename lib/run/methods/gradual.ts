import type { GradualMethod } from "./method.ts";

/** Gradual saliency: every third step, the units with the lowest running mean of squared mask gradients are cut. */
export const gradual: GradualMethod = { name: "gradual", kind: "gradual" };
