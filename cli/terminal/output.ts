// What reaches the terminal: results on stdout, everything else on stderr. Owns the two streams and the shape of an error; refuses to decide what is said.
import { stripVTControlCharacters } from "node:util";
import { CompressoError, spelled, type SpellOption } from "../../lib/core/errors.ts";
import type { RowPlace } from "../../lib/data/row.ts";
import { formatCount } from "../../lib/report/numbers.ts";
import { placesNamed } from "../../lib/data/encode_report.ts";

export { formatBytes, formatCount } from "../../lib/report/numbers.ts";

const encoder = new TextEncoder();

/** Writes a line of the result to stdout. */
export function print(line = ""): void {
  writeResult(`${line}\n`);
}

/** Writes one JSON document to stdout; numbers that are not finite become null. */
export function printJson(value: unknown): void {
  print(JSON.stringify(value, null, 2));
}

/** Writes a part of the result to stdout as it is. Throws `CompressoError("input")` where it is not taken, such as by a full disk. */
export function writeResult(text: string): void {
  try {
    writeAll(Deno.stdout, text);
  } catch (error) {
    if (!(error instanceof Error) || error instanceof Deno.errors.BrokenPipe) throw error;
    throw new CompressoError("input", {
      what: "cannot write the result to stdout",
      value: error.message,
      fix: "check the free space where it goes",
    }, { cause: error });
  }
}

/** Writes a line about the work, not its result, to stderr. */
export function note(line: string): void {
  writeError(`${line}\n`);
}

/** Writes text to stderr as it is. Where nobody reads it, or the disk is full, the work goes on without. */
export function writeError(text: string): void {
  try {
    writeAll(Deno.stderr, text);
  } catch { /* what is said there is not the result */ }
}

/** Whether a stream is a terminal whose cursor can be moved. */
export function isScreen(stream: { isTerminal(): boolean }): boolean {
  const { state } = Deno.permissions.querySync({ name: "env", variable: "TERM" });
  return stream.isTerminal() && !(state === "granted" && Deno.env.get("TERM") === "dumb");
}

/** A share as a percentage with one decimal. */
export function formatShare(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

/** An option as the command line has it: the last part of its path in kebab case. */
const asFlag: SpellOption = (path, value) => {
  const name = path.slice(path.lastIndexOf(".") + 1).replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  return value === undefined ? `--${name}` : `--${name} ${value}`;
};

/** Shows an error and returns the exit status. An error of the toolkit is shown by its parts; anything else is a defect and is shown with its stack. */
export function reportError(error: unknown): number {
  const known = asKnown(error);
  if (known) {
    const { what, rule, value, fix } = known.parts;
    const rows = [["expected", rule], ["got", value], ["fix", fix]].filter(([, text]) => text);
    const lines = [`compresso: ${what}`, ...rows.map(([name, text]) => `  ${`${name}:`.padEnd(10)}${text}`), ""];
    // Deno colours what it says of imports, on whatever it is shown.
    writeError(stripVTControlCharacters(spelled(lines.join("\n"), asFlag)));
    return known.exitStatus;
  }
  const text = error instanceof Error ? error.stack ?? error.message : String(error);
  note(`compresso: this should not happen, please report it\n${text}`);
  return 1;
}

function asKnown(error: unknown): CompressoError | null {
  if (error instanceof CompressoError) return error;
  if (error instanceof Deno.errors.NotCapable) {
    return new CompressoError("usage", {
      what: "Deno refuses an operation that the command needs",
      value: error.message.replace(/, run again.*$/, ""),
      fix: "run it with `deno run -A`",
    });
  }
  return null;
}

function writeAll(stream: { writeSync(bytes: Uint8Array): number }, text: string): void {
  const bytes = encoder.encode(text);
  for (let done = 0; done < bytes.length;) done += stream.writeSync(bytes.subarray(done));
}

/** Rows that something became of, and where the first few of them stand: "3 empty (row 1, 5, …)", or nothing where there are none. */
export function rowsNamed(what: string, { count, first }: {
  readonly count: number;
  readonly first: readonly RowPlace[];
}): string[] {
  return count === 0 ? [] : [`${formatCount(count)} ${what} ${placesNamed(first, count)}`];
}
