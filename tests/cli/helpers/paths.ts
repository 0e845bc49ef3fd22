// Paths relative to the helpers. Owns the conversion from URLs; refuses the rest of node:path.
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export { join };

/** Path of a URL relative to this folder. */
export function fromFileUrl(relative: string): string {
  return fileURLToPath(new URL(relative, import.meta.url));
}
