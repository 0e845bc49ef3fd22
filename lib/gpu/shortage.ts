// Kinds of memory shortage on a device, and the advice for each.

import { option } from "../core/errors.ts";
/** How memory ran out; see {@link Device.shortageOf}. */
export type MemoryShortage = "limit" | "adapter" | "lost";

const LESS = `a smaller batch, sequence or ${option("baseDtype")}`;
const FIXES: Readonly<Record<MemoryShortage, string>> = {
  limit: `raise ${option("memoryLimit")}, or use ${LESS}`,
  adapter: `its memory is full: use ${LESS}, or another adapter`,
  lost: `its driver was reset, often because memory ran out: try again with ${LESS}`,
};

/** Advice for an operation that the GPU refused, for lack of memory or for another reason. */
export function fixOf(shortage: MemoryShortage | null): string {
  return shortage === null ? "run `compresso doctor`, and report this with its output" : FIXES[shortage];
}
