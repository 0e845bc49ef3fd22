// How every verb is declared: name, help with an example, wording of wrong use. Owns the dependency on commander's set-up; refuses what verbs do.
import { Command } from "./packages.ts";
import { relative } from "node:path";
import { fileURLToPath } from "node:url";
import { writeError, writeResult } from "./terminal/output.ts";

/** Help of a verb. */
export interface VerbHelp {
  /** One sentence, shown in the list of verbs too. */
  readonly description: string;
  /** Commands to copy, without the program. */
  readonly examples: readonly string[];
}

/** How the program is called from a clone; what examples and hints show. */
export const PROGRAM = "deno run -A cli/main.ts";

/** The program as it was called now: its path from the current folder, where that is shorter, or its address. */
export function programAsRun(): string {
  const main = new URL(Deno.mainModule);
  if (main.protocol !== "file:") return `deno run -A ${shellWord(main.href)}`;
  const path = fileURLToPath(main), near = relative(Deno.cwd(), path);
  return `deno run -A ${shellWord(near.length < path.length ? near : path)}`;
}

/** A word as a shell takes it. */
export function shellWord(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** A command that throws instead of leaving the process, and writes help to stdout and complaints to stderr. */
export function verb(name: string, { description, examples }: VerbHelp): Command {
  return quiet(new Command(name)).description(description).addHelpText("after", exampleText(examples));
}

/** Gives a command the house's manners: see {@link verb}. */
export function quiet(command: Command): Command {
  return command
    .exitOverride()
    .showSuggestionAfterError()
    .configureHelp({ helpWidth: 110, showGlobalOptions: false })
    .configureOutput({
      // Not by Node's streams, which know no broken pipe and throw at a full disk later.
      writeOut: writeResult,
      writeErr: writeError,
      outputError: (text) => writeError(withMend(text.replace(/^error: /, "compresso: "))),
    });
}

/** Where no likely name is told, what is there is told by the help. */
function withMend(text: string): string {
  return /Did you mean|help/.test(text) ? text : `${text.trimEnd()}\n  fix: see --help\n`;
}

function exampleText(examples: readonly string[]): string {
  const word = examples.length === 1 ? "Example" : "Examples";
  return `\n${word}:\n${examples.map((example) => `  ${PROGRAM} ${example}`).join("\n")}`;
}
