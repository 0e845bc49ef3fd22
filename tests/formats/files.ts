// Where the tests of lib/io find and put files.
import { fileURLToPath } from "node:url";

/** Path of a committed file under fixtures/. */
export function fixture(name: string): string {
  return fileURLToPath(new URL(`../../fixtures/${name}`, import.meta.url));
}

/** Path of a file of ../shared beside the repository, or null with a printed message where it is not there. */
export function sharedFile(name: string): string | null {
  const path = fileURLToPath(new URL(`../../../shared/${name}`, import.meta.url));
  try {
    Deno.statSync(path);
    return path;
  } catch {
    console.log(`skipped: ../shared/${name} is not here`);
    return null;
  }
}

/** Runs `body` with a new folder that is removed afterwards. */
export async function inTemporaryFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "compresso-test-" });
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
