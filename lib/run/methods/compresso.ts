import type { LearnedMethod } from "./method.ts";

/** Compresso: masks with hard concrete noise learn with LoRA, under a constraint on the expected size. */
export const compresso: LearnedMethod = { name: "compresso", kind: "learned" };
