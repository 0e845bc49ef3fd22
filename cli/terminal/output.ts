// Writes to the terminal: results to stdout, everything else to stderr.
import { refuse } from "../../lib/core/errors.ts";
import type { RowPlace } from "../../lib/data/row.ts";
import { formatCount } from "../../lib/report/numbers.ts";
import { placesNamed } from "../../lib/data/encode_report.ts";

export { formatBytes, formatCount } from "../../lib/report/numbers.ts";

const encoder = new TextEncoder();

/** Writes a line of the result to stdout. */
export function print(line = ""): void {
  writeResult(`${line}\n`);
}

/** Writes a text of a model to stdout. A terminal gets its control characters, but for line breaks and tabs, as marks. */
export function writeModelText(text: string): void {
  // deno-lint-ignore no-control-regex
  const shown = text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
  writeResult(Deno.stdout.isTerminal() ? shown : text);
}

/** Writes one JSON document to stdout; numbers that are not finite become null. */
export function printJson(value: unknown): void {
  print(JSON.stringify(value, null, 2));
}

/** Writes a part of the result to stdout unchanged. Throws `CompressoError("input")` if that fails, for example because a disk is full. */
export function writeResult(text: string): void {
  if (isSilent) return;
  try {
    writeAll(Deno.stdout, text);
  } catch (error) {
    if (!(error instanceof Error) || error instanceof Deno.errors.BrokenPipe) throw error;
    refuse("input", "cannot write the result to stdout", {
      rule: "stdout takes all of it",
      value: error.message,
      fix: "check the free space where it goes",
      cause: error,
    });
  }
}

/** How much is printed in addition to results and errors. */
export type Verbosity = "quiet" | "normal" | "verbose";

let chosen: Verbosity = "normal";
/** Whether results are not printed; see {@link silence}. */
let isSilent = false;

/** Lets this process print errors alone: another one prints the results of both. */
export function silence(): void {
  [chosen, isSilent] = ["quiet", true];
}

/** Sets how much this process says: --quiet and --verbose. */
export function setVerbosity(verbosity: Verbosity): void {
  chosen = verbosity;
}

/** Whether another process prints the results of this one. */
export function isSilenced(): boolean {
  return isSilent;
}

/** How much this process says. */
export function verbosity(): Verbosity {
  return chosen;
}

/** Writes a line about the work, not its result, to stderr; not with --quiet. */
export function note(line: string): void {
  if (chosen !== "quiet") writeError(`${line}\n`);
}

/** Writes text to stderr as it is. If nobody reads it, or the disk is full, the text is dropped. */
export function writeError(text: string): void {
  try {
    writeAll(Deno.stderr, text);
  } catch { /* what is said there is not the result */ }
}

/** A share as a percentage with one decimal. */
export function formatShare(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

function writeAll(stream: { writeSync(bytes: Uint8Array): number }, text: string): void {
  const bytes = encoder.encode(text);
  for (let done = 0; done < bytes.length;) done += stream.writeSync(bytes.subarray(done));
}

/** A count of rows with the places of the first few: "3 empty (row 1, 5, …)". Nothing if there are no such rows. */
export function rowsNamed(what: string, { count, first }: {
  readonly count: number;
  readonly first: readonly RowPlace[];
}): string[] {
  return count === 0 ? [] : [`${formatCount(count)} ${what} ${placesNamed(first, count)}`];
}
