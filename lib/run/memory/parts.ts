// Bytes of a memory plan by what they are for.
import { MEMORY_PARTS, type MemoryPart, partOfLabel } from "../../gpu/memory_parts.ts";
import type { MemoryUse } from "../../gpu/types.ts";

/** Bytes by part; they add up to those of all uses. */
export function bytesByPart(uses: readonly MemoryUse[]): Readonly<Record<MemoryPart, number>> {
  const parts = Object.keys(MEMORY_PARTS) as MemoryPart[];
  const bytes = Object.fromEntries(parts.map((part) => [part, 0])) as Record<MemoryPart, number>;
  for (const use of uses) bytes[partOfLabel(use.label)] += use.bytes;
  return bytes;
}
