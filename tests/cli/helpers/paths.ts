// Converts URLs relative to the helpers to paths.
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export { join };

/** Path of a URL relative to this folder. */
export function fromFileUrl(relative: string): string {
  return fileURLToPath(new URL(relative, import.meta.url));
}
