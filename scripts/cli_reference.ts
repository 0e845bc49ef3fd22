// Writes docs/reference/cli.md: the whole help of every verb, as the program prints it.
// deno run -A scripts/cli_reference.ts
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");

/** Where the reference lies. */
export const CLI_REFERENCE = join(ROOT, "docs/reference/cli.md");

/** What the program prints for arguments. */
export type PrintedBy = (args: readonly string[]) => Promise<string>;

const ofProcess: PrintedBy = async (words) => {
  const args = ["run", "-A", "cli/main.ts", ...words], env = { NO_COLOR: "1" };
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args, cwd: ROOT, env }).output();
  if (code !== 0) throw new Error(`compresso ${words.join(" ")}: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
};

/** The whole help of every verb by its words. The program comes first, without words; the verbs of a verb follow it. */
export async function allHelp(printed = ofProcess, words: readonly string[] = []): Promise<Map<string, string>> {
  const text = (await printed([...words, "--help=all"])).trimEnd();
  const found = new Map([[words.join(" "), text]]);
  const [, list = ""] = /^Commands:\n((?: .*\n?)+)/m.exec(`${text}\n`) ?? [];
  const verbs = [...list.matchAll(/^ {2}(\w+)/gm)].map(([, name = ""]) => name).filter((name) => name !== "help");
  for (const name of verbs) for (const entry of await allHelp(printed, [...words, name])) found.set(...entry);
  return found;
}

/** The text of docs/reference/cli.md. */
export function cliReference(help: ReadonlyMap<string, string>): string {
  const list = [...help.keys()].filter((words) => words !== "")
    .map((words) => `- [${words}](#compresso-${words.replaceAll(" ", "-")})`);
  const sections = [...help].map(([words, text]) => `## ${`compresso ${words}`.trim()}\n\n\`\`\`\n${text}\n\`\`\`\n`);
  return [
    "# Command line\n",
    "The help of every verb (`compresso VERB --help=all`), written by `scripts/cli_reference.ts`. Statuses:",
    "[exit statuses](exit_codes.md). Rights: [permissions](../guide/permissions.md).\n",
    `${list.join("\n")}\n`,
    ...sections,
  ].join("\n");
}

if (import.meta.main) await Deno.writeTextFile(CLI_REFERENCE, await cliReference(await allHelp()));
