// Shows an error on stderr, as text or as JSON, and tells the exit status.
import { stripVTControlCharacters } from "node:util";
import { CompressoError, type ErrorParts, refusal } from "../../lib/core/errors.ts";
import { oneLine } from "../../lib/core/text.ts";
import { HUB_VARIABLES } from "../../lib/hub/settings.ts";
import { CommanderError } from "../packages.ts";
import { flagOf, spellFlag } from "../options/spelling.ts";
import { writeError } from "./output.ts";
import { styleOf } from "./style.ts";

/** How an error is shown. */
export interface ErrorView {
  /** The command that shows the help of the verb, for wrong options without a fix of their own. */
  readonly help?: string;
  /** One JSON object in one line, `{"error": {…}}`, in place of text. Default false. */
  readonly asJson?: boolean;
}

/** An error as JSON; parts that it does not have are null. */
export interface ErrorJson {
  /** Code of a `CompressoError`, or "internal" for a defect of the program. */
  readonly code: string;
  readonly what: string;
  readonly expected: string | null;
  readonly got: string | null;
  readonly fix: string | null;
  /** The option at fault, such as "--lora-rate". */
  readonly option: string | null;
  readonly exitStatus: number;
}

/** Shows an error and returns the exit status. An error of the toolkit is shown by its parts; anything else is a defect and is shown with its stack. */
export function reportError(error: unknown, { help, asJson = false }: ErrorView = {}): number {
  const known = asKnown(error);
  if (known === null) return reportDefect(error, { asJson });
  const { code, exitStatus } = known, { what, rule, value, fix, option: path } = partsOf(known);
  const way = fix ?? (code === "usage" && help !== undefined ? `see ${help}` : undefined);
  if (asJson) {
    writeJson({
      code,
      what,
      expected: rule ?? null,
      got: value ?? null,
      fix: way ?? null,
      option: path === undefined ? null : flagOf(path),
      exitStatus,
    });
    return exitStatus;
  }
  const { red, bold } = styleOf(Deno.stderr);
  const rows = [["expected", rule], ["got", value], ["fix", way]].filter(([, text]) => text);
  const lines = rows.map(([name, text]) => `  ${bold(`${name}:`.padEnd(10))}${text}`);
  writeError([`${red("compresso:")} ${what}`, ...lines, ""].join("\n"));
  return exitStatus;
}

/** Options are named by their flags. Deno colours its own messages on imports, wherever they are shown. */
function partsOf(error: CompressoError): ErrorParts {
  const plain = (text: string): string => oneLine(stripVTControlCharacters(text));
  const parts = Object.entries(error.partsAs(spellFlag)).map(([name, text]) => [name, plain(text)]);
  return { what: "", ...Object.fromEntries(parts) };
}

function reportDefect(error: unknown, { asJson }: { readonly asJson: boolean }): number {
  const what = "this should not happen, please report it";
  const text = error instanceof Error ? error.stack ?? error.message : String(error);
  if (asJson) {
    writeJson({ code: "internal", what, expected: null, got: text, fix: null, option: null, exitStatus: 1 });
  } else writeError(`compresso: ${what}\n${text}\n`);
  return 1;
}

function writeJson(error: ErrorJson): void {
  writeError(`${JSON.stringify({ error })}\n`);
}

function asKnown(error: unknown): CompressoError | null {
  if (error instanceof CompressoError) return withRight(error);
  if (error instanceof CommanderError) return asUsage(error);
  if (error instanceof Deno.errors.NotCapable) {
    return refusal("usage", "cannot run the command", {
      rule: "Deno permits each of its operations",
      value: error.message.replace(/, run again.*$/, ""),
      fix: rightToAdd(error),
      cause: error,
    });
  }
  return null;
}

/** The error of a path that Deno does not permit to be read or written, with the missing right as its fix. */
function withRight(error: CompressoError): CompressoError {
  const { cause } = error;
  if (error.code !== "input" || !(cause instanceof Deno.errors.NotCapable)) return error;
  return error.with({ fix: rightToAdd(cause) });
}

function rightToAdd({ message }: Error): string {
  return `add ${rightIn(message)} to \`deno run\`, or -A for all permissions`;
}

/** The flag that gives the right which Deno names: `Requires net access to "127.0.0.1:8000"` is `--allow-net=127.0.0.1:8000`. */
function rightIn(message: string): string {
  const [, kind = "all", target] = /Requires (\w+) access(?: to "([^"]*)")?/.exec(message) ?? [];
  if (kind === "all") return "--allow-all";
  const isOfHub = kind === "env" && HUB_VARIABLES.some((name) => name === target && name.startsWith("HF_"));
  if (isOfHub) return `--allow-env=${HUB_VARIABLES.join(",")}`; // all at once, as each would be asked for next
  return target === undefined || target.startsWith("<")
    ? `--allow-${kind}`
    : `--allow-${kind}=${/[^\w@%+:,./-]/.test(target) ? `'${target}'` : target}`;
}

/** Commander prints its suggestion on a separate line, in parentheses. */
function asUsage({ message }: CommanderError): CompressoError {
  const [what = "", ...others] = message.replace(/^error: /, "").split("\n");
  const suggestion = /^\((Did you mean .*\?)\)$/.exec(others.join(" "))?.[1];
  const fix = suggestion && suggestion.charAt(0).toLowerCase() + suggestion.slice(1);
  return new CompressoError("usage", { what, fix });
}
