// How the worker tells the page what it does, and what failed.
import { CompressoError, spellPath } from "../../lib/core/errors.ts";
import type { Failure, Place, Reply } from "../messages.ts";

/** Sends a message to the page. */
export function tell(reply: Reply): void {
  // Of a worker it is the page that hears it.
  (globalThis as unknown as { postMessage(reply: Reply): void }).postMessage(reply);
}

/** Says what failed; nothing of work that the user has stopped. */
export function tellFailure(at: Place, error: unknown): void {
  tell({ kind: "failed", at, failure: failureOf(at, error) });
}

/** Names of the page's fields, by the options that they set. */
const FIELDS: Readonly<Record<string, string>> = {
  sparsity: "Share to cut",
  steps: "Steps",
  batch: "Sequences a step",
  seq: "Tokens a sequence",
  baseDtype: "Weights on the GPU",
};

/** An option as the page names it. */
export function spellField(path: string, value?: string): string {
  const field = FIELDS[path];
  return field === undefined ? spellPath(path, value) : `“${field}”${value === undefined ? "" : ` ${value}`}`;
}

/** What helps where the GPU fails; the library's own advice is for terminals. */
function gpuFix(at: Place): string {
  return at === "begin"
    ? "open the page in a browser with WebGPU, such as Chrome or Edge, and let it use the GPU"
    : "start the run again; fewer tokens a sequence, fewer sequences a step and smaller weights need less memory";
}

/** A failure in the words of the page. */
export function failureOf(at: Place, error: unknown): Failure {
  if (!(error instanceof CompressoError)) {
    const message = error instanceof Error ? error.message : String(error);
    return { code: "unknown", what: message, details: [] };
  }
  const { what, rule, value, fix: advice } = error.partsAs(spellField), isOfGpu = error.code === "gpu";
  const fix = isOfGpu ? gpuFix(at) : advice;
  const details = [rule && `Expected: ${rule}.`, value && `Got: ${value}.`, fix && `What to do: ${fix}.`];
  return { code: error.code, what, details: details.flatMap((part) => part || []) };
}
