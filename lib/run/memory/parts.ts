// What each allocation of a run is for, by its label.
import type { MemoryUse } from "../../gpu/types.ts";

/** A part of a memory plan; `MEMORY_PARTS` says what each is. */
export type MemoryPart =
  | "base"
  | "kept"
  | "forward"
  | "backward"
  | "head"
  | "lora"
  | "masks"
  | "operands"
  | "attention"
  | "rest";

/** What GPU memory is for, in the order of the command line's table. */
export const MEMORY_PARTS: Readonly<Record<MemoryPart, string>> = {
  base: "frozen weights",
  kept: "kept by the forward pass for backward",
  forward: "scratch of one layer, forward",
  backward: "scratch of one layer, backward",
  head: "one chunk of the output head",
  lora: "LoRA, its gradients and Adam moments",
  masks: "masks, their learner and gradients",
  operands: "textures that products read",
  attention: "textures that attention reads",
  rest: "parameters of kernels, RoPE, records, calibration, reading back",
};

/** Labels of each part, as their owners give them. */
const LABELS: readonly (readonly [RegExp, MemoryPart])[] = [
  [/^(model\.|lm_head\.)/, "base"],
  [/^(lora .*|gradient sum)$/, "lora"],
  [/^x\d+$| of layer \d+$/, "kept"],
  [/^(h1|h2|q0|k0|q|k|v|o|om|y1|x1|gate|up|a|y2|x|rms1|rms2|lse|dropped)$/, "forward"],
  [/^(looked|embedded|normed|final|rms final|tokens|order|targets|loss)$/, "forward"],
  [/^(dx|dh|dq|dk|dv|dom|da|dfinal|delta|partial)$/, "backward"],
  [/^(head input|head gradient|logits)$/, "head"],
  [/^(mask \w+|last mask z|log alpha|constraint|units|KV groups|unit of slot)$/, "masks"],
  [/^(operand|matmul-[ab])$/, "operands"],
  [/^attention /, "attention"],
  [/^(params|rope|step state|metrics|sums|ring|read-back|timestamps|calibration \w+)$/, "rest"],
];

/** The part that a label belongs to; null for a label that no part knows, which counts as "rest". */
export function partOfLabel(label: string): MemoryPart | null {
  return LABELS.find(([pattern]) => pattern.test(label))?.[1] ?? null;
}

/** Bytes by part; they add up to those of all uses. */
export function bytesByPart(uses: readonly MemoryUse[]): Readonly<Record<MemoryPart, number>> {
  const parts = Object.keys(MEMORY_PARTS) as MemoryPart[];
  const bytes = Object.fromEntries(parts.map((part) => [part, 0])) as Record<MemoryPart, number>;
  for (const use of uses) bytes[partOfLabel(use.label) ?? "rest"] += use.bytes;
  return bytes;
}
