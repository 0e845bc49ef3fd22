// Runs the commands of docs/guide on the demo model: blocks marked "sh run" (quick) and "sh slow" of each page, in a temporary folder that holds the files which the page shows.
// deno run -A scripts/check/guide.ts [PAGE…] [--quick]
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../..");

/** Folders and files of the checkout that commands of the guide may name. */
const LINKED = [
  "cli",
  "deno.json",
  "deno.lock",
  "fixtures",
  "kernels",
  "lib",
  "mod.ts",
  "README.md",
  "scripts",
  "studio",
];

/** A page whose commands ran. */
export interface GuideRun {
  readonly page: string;
  /** Blocks that ran. */
  readonly blocks: number;
  /** Exit status of the page's commands, 0 when all ended well. */
  readonly status: number;
  /** What they printed, stderr included. */
  readonly output: string;
}

/** Names of all pages of the guide. */
export function guidePages(): string[] {
  return [...Deno.readDirSync(join(ROOT, "docs/guide"))].map(({ name }) => name).filter((name) => name.endsWith(".md"))
    .sort();
}

/** The blocks of a page that are marked to be run, in order; `quick` leaves out those marked slow. */
export function guideBlocks(page: string, options: { quick: boolean }): string[] {
  const text = Deno.readTextFileSync(join(ROOT, "docs/guide", page));
  return [...text.matchAll(/^```sh (run|slow)\n([\s\S]*?)^```$/gm)]
    .filter(([, mark]) => !options.quick || mark === "run").map(([, , block = ""]) => block);
}

/** The files that a page shows, by their paths: blocks such as "ts mine/plateau.ts". */
export function guideFiles(page: string): [path: string, text: string][] {
  const text = Deno.readTextFileSync(join(ROOT, "docs/guide", page));
  return [...text.matchAll(/^```(?:ts|json) (\S+)\n([\s\S]*?)^```$/gm)].map((
    [, path = "", block = ""],
  ) => [path, block]);
}

/**
 * Runs the marked blocks of a page with bash, where `compresso` is this checkout's program. With `typesAreChecked`,
 * `deno check` passes at once: each check reads the whole toolkit, and a test checks the files of all pages together.
 */
export async function runGuide(
  page: string,
  options: { readonly quick: boolean; readonly typesAreChecked?: boolean },
): Promise<GuideRun> {
  const blocks = guideBlocks(page, options);
  const folder = await Deno.makeTempDir({ prefix: "guide_" });
  try {
    for (const name of LINKED) await Deno.symlink(join(ROOT, name), join(folder, name));
    const launcher = `#!/bin/sh\nexec "${Deno.execPath()}" run -A "${join(ROOT, "cli/main.ts")}" "$@"\n`;
    await Deno.mkdir(join(folder, "bin"));
    await Deno.writeTextFile(join(folder, "bin/compresso"), launcher, { mode: 0o755 });
    if (options.typesAreChecked) {
      const deno = `#!/bin/sh\n[ "$1" = check ] || exec "${Deno.execPath()}" "$@"\n`;
      await Deno.writeTextFile(join(folder, "bin/deno"), deno, { mode: 0o755 });
    }
    for (const [path, text] of guideFiles(page)) {
      await Deno.mkdir(dirname(join(folder, path)), { recursive: true });
      await Deno.writeTextFile(join(folder, path), text);
    }
    const script = `set -euo pipefail\nexec 2>&1\nPATH="$PWD/bin:$PATH"\nset -x\n${
      blocks.map((block) => `(\n${block})`).join("\n")
    }`;
    const command = new Deno.Command("bash", { args: ["-c", script], cwd: folder, env: { NO_COLOR: "1" } });
    const { code, stdout } = await command.output();
    return { page, blocks: blocks.length, status: code, output: new TextDecoder().decode(stdout) };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) {
  const quick = Deno.args.includes("--quick");
  const named = Deno.args.filter((argument) => argument !== "--quick");
  for (const page of named.length > 0 ? named : guidePages()) {
    const { blocks, status, output } = await runGuide(page, { quick });
    console.log(`${status === 0 ? "ok" : "FAILED"}  ${page}: ${blocks} blocks`);
    if (status !== 0) {
      console.log(output);
      Deno.exitCode = 1;
    }
  }
}
