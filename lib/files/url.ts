// Paths of file URLs.
import { fileURLToPath } from "node:url";

/** Path of a `file:` URL, as the system writes it. */
export function pathOf(url: URL): string {
  return fileURLToPath(url);
}
