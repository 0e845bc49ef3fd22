// Paths as file URLs, and back.
import { resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

/** Path of a `file:` URL, as the system writes it. */
export function pathOf(url: URL): string {
  return fileURLToPath(url);
}

/** `file:` URL of a path, which may be relative to the working directory. */
export function urlOf(path: string): URL {
  return pathToFileURL(resolve(path));
}
