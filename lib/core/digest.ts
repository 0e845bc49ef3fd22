// A short hash of texts and arrays.
import { createHash } from "node:crypto";

/** A short hash. */
export function digestOf(parts: Iterable<string | Uint8Array | Uint32Array | Int32Array>): string {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("hex").slice(0, 16);
}
