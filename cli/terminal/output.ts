// Writes to the terminal: results to stdout, everything else to stderr. Shows errors.
import { stripVTControlCharacters } from "node:util";
import { CompressoError, spelled, type SpellOption } from "../../lib/core/errors.ts";
import type { RowPlace } from "../../lib/data/row.ts";
import { formatCount } from "../../lib/report/numbers.ts";
import { placesNamed } from "../../lib/data/encode_report.ts";
import { styleOf } from "./style.ts";

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

/** A share as a percentage with one decimal. */
export function formatShare(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

/** An option as the command line has it: the last part of its path in kebab case. */
const asFlag: SpellOption = (path, value) => {
  const last = path === "trustSchedule" ? "trust" : path.slice(path.lastIndexOf(".") + 1);
  const name = last.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  return value === undefined ? `--${name}` : `--${name} ${value}`;
};

/**
 * Shows an error and returns the exit status. An error of the toolkit is shown by its parts; anything else is a defect and is shown with its stack.
 * `help` is the command that shows the help of the verb, for wrong options without a fix of their own.
 */
export function reportError(error: unknown, { help }: { readonly help?: string } = {}): number {
  const known = asKnown(error);
  if (known) {
    const { what, rule, value, fix = known.code === "usage" && help ? `see ${help}` : undefined } = known.parts;
    const rows = [["expected", rule], ["got", value], ["fix", fix]].filter(([, text]) => text);
    const { red, bold } = styleOf(Deno.stderr);
    // Deno colours its own messages on imports, wherever they are shown.
    const plain = (text: string): string => stripVTControlCharacters(spelled(text, asFlag));
    const lines = rows.map(([name, text = ""]) => `  ${bold(`${name}:`.padEnd(10))}${plain(text)}`);
    writeError([`${red("compresso:")} ${plain(what)}`, ...lines, ""].join("\n"));
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
      what: "Deno does not permit an operation that the command needs",
      value: error.message.replace(/, run again.*$/, ""),
      fix: `add ${rightIn(error.message)} to \`deno run\`, or -A for all rights`,
    });
  }
  return null;
}

/** The flag that gives the right which Deno names: `Requires net access to "127.0.0.1:8000"` is `--allow-net=127.0.0.1:8000`. */
function rightIn(message: string): string {
  const [, kind = "all", target] = /Requires (\w+) access(?: to "([^"]*)")?/.exec(message) ?? [];
  if (kind === "all") return "--allow-all";
  return target === undefined || target.startsWith("<")
    ? `--allow-${kind}`
    : `--allow-${kind}=${/[^\w@%+:,./-]/.test(target) ? `'${target}'` : target}`;
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
