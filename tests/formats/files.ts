// Where the tests of lib/io find and put files.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { CompressoError, type ErrorCode } from "../../lib/core/errors.ts";

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

/** Asserts that a promise ends with a CompressoError of this code whose message fits. */
export async function rejectsWith(promise: Promise<unknown>, code: ErrorCode, message: RegExp): Promise<void> {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof CompressoError, `not a CompressoError: ${error}`);
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  });
}

/** Asserts that an error of the toolkit says all of these. */
export function refuses(work: () => unknown, code: ErrorCode, ...said: readonly RegExp[]): void {
  assert.throws(work, (error) => {
    assert.ok(error instanceof CompressoError, String(error));
    assert.equal(error.code, code);
    for (const pattern of said) assert.match(error.message, pattern);
    return true;
  });
}
