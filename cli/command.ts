// How every verb is declared: name, help with examples, and what wrong use is answered with.
import { Command } from "./packages.ts";
import { basename, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { textBelow, VerbHelp } from "./terminal/help.ts";
import { writeError, writeResult } from "./terminal/output.ts";
import { hasColors, textColumns } from "./terminal/style.ts";

/** Text of a verb's help. */
export interface VerbText {
  /** One sentence, shown in the list of verbs too. */
  readonly description: string;
  /** Commands to copy, without the program. */
  readonly examples: readonly string[];
  /** Paragraphs below the examples, with empty lines between; they are wrapped, but for lines that are indented by four or more. */
  readonly notes?: string;
}

/** What is given as a model, in the help of verbs. */
export const MODEL_TEXT = "a Hugging Face folder, a .gguf file, hf:owner/name[:file], or demo";

/** Whether this is the npm package, run by its link in the user's cache folder: see scripts/npm. */
const IS_FROM_NPM = /\/compresso\/npm\/[^/]+\/cli\/command\.ts$/.test(import.meta.url);

/** How an installed program is called; what examples show. */
const PROGRAM = "compresso";

let words: readonly string[] = [];

/** Keeps the words that the program was called with. */
export function setWords(called: readonly string[]): void {
  words = called;
}

/** The words that the program was called with. */
export function calledWords(): readonly string[] {
  return words;
}

/** The program as the user can call it here: its launcher, or its path from the current folder, where that is shorter, or its address. */
export function programAsRun(main = new URL(Deno.mainModule)): string {
  if (IS_FROM_NPM || isLauncher() || hasLauncher(main)) return PROGRAM;
  if (main.protocol !== "file:") return `deno run -A ${shellWord(main.href)}`;
  const path = fileURLToPath(main), near = relative(Deno.cwd(), path);
  return `deno run -A ${shellWord(near.length < path.length ? near : path)}`;
}

/** Whether the launcher of `deno install` was run: shells put the path of the command that they start into the variable `_`. */
function isLauncher(): boolean {
  const { state } = Deno.permissions.querySync({ name: "env", variable: "_" });
  return state === "granted" && basename(Deno.env.get("_") ?? "") === PROGRAM;
}

/**
 * Whether a folder of PATH has the launcher that `deno install` wrote for this program. Programs that start others, such
 * as timeout, setsid, nohup, systemd and Slurm, leave another `_`.
 */
function hasLauncher({ href }: URL): boolean {
  if (Deno.permissions.querySync({ name: "env", variable: "PATH" }).state !== "granted") return false;
  const isWindows = Deno.build.os === "windows", name = isWindows ? `${PROGRAM}.cmd` : PROGRAM;
  return (Deno.env.get("PATH") ?? "").split(isWindows ? ";" : ":").some((folder) => {
    const path = join(folder, name);
    if (folder === "" || Deno.permissions.querySync({ name: "read", path }).state !== "granted") return false;
    try {
      return Deno.statSync(path).size < MOST_LAUNCHER && Deno.readTextFileSync(path).includes(href);
    } catch {
      return false;
    }
  });
}

/** Bytes of a launcher at most; it is a script of a few lines. */
const MOST_LAUNCHER = 8192;

/** A word as a shell takes it. */
export function shellWord(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** A command that throws instead of ending the process, and writes help to stdout and complaints to stderr. */
export function verb(name: string, { description, examples, notes }: VerbText): Command {
  return quiet(new Command(name))
    .description(description)
    .addHelpText("after", () => textBelow({ program: PROGRAM, examples, notes }));
}

/** Prepares a command: see {@link verb}. */
export function quiet(command: Command): Command {
  command.createHelp = () => new VerbHelp();
  return command
    .helpOption("-h, --help", "show this help")
    .exitOverride()
    .showSuggestionAfterError()
    .configureOutput({
      // Not by Node's streams, which know no broken pipe and throw at a full disk later.
      writeOut: writeResult,
      writeErr: writeError,
      getOutHelpWidth: textColumns,
      getErrHelpWidth: textColumns,
      getOutHasColors: () => hasColors(Deno.stdout),
      getErrHasColors: () => hasColors(Deno.stderr),
      // The program shows errors itself.
      outputError: () => {},
    });
}
