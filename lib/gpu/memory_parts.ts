// What GPU memory is for. A label that begins with a part, such as "lora: params", counts to it.

/** A part of a memory plan. */
export type MemoryPart = keyof typeof MEMORY_PARTS;

/** What each part is, in the order of the command line's table. */
export const MEMORY_PARTS = {
  base: "frozen weights",
  kept: "kept by the forward pass for backward",
  forward: "scratch of one layer, forward",
  backward: "scratch of one layer, backward",
  head: "one chunk of the output head",
  lora: "LoRA, its gradients and the optimizer's arrays",
  masks: "masks, their learner and gradients",
  operands: "textures that products read",
  attention: "textures that attention reads",
  rest: "parameters of kernels, RoPE, records, calibration, reading back",
} as const;

/** The part of a label: the part that it begins with, "base" for the name of a tensor, otherwise "rest". */
export function partOfLabel(label: string): MemoryPart {
  const [first = ""] = label.split(": ", 1);
  if (isPart(first)) return first;
  return /^(model|lm_head)\./.test(label) ? "base" : "rest";
}

function isPart(text: string): text is MemoryPart {
  return Object.hasOwn(MEMORY_PARTS, text);
}
