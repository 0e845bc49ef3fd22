// The quick commands of docs/guide run as they are written there. scripts/check/guide.ts runs the slow ones too.
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import config from "../deno.json" with { type: "json" };
import { guideBlocks, guideFiles, guidePages, runGuide } from "../scripts/check/guide.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));

for (const page of guidePages().filter((name) => guideBlocks(name, { quick: true }).length > 0)) {
  Deno.test(`the quick commands of docs/guide/${page} run`, async () => {
    const { status, output } = await runGuide(page, { quick: true, typesAreChecked: true });
    assert.equal(status, 0, output);
  });
}

/** The programs that pages show, by paths that name their pages: files, and the programs of pages with tests of their own. */
function programs(): [path: string, text: string][] {
  return guidePages().flatMap((page) => {
    const files = guideFiles(page).filter(([path]) => path.endsWith(".ts"));
    const text = Deno.readTextFileSync(join(ROOT, "docs/guide", page));
    const mark = page === "library.md" ? "ts" : "ts program";
    const [, program] = new RegExp(`^\`\`\`${mark}\n([^]*?)^\`\`\`$`, "m").exec(text) ?? [];
    if (program !== undefined && ["library.md", "serve.md"].includes(page)) files.push(["program.ts", program]);
    return files.map(([path, code]): [string, string] => [`${page}/${path}`, code]);
  });
}

Deno.test("the programs of the guide type-check, those of all pages in one process", async () => {
  const folder = await Deno.makeTempDir({ prefix: "guide_" });
  try {
    const root = pathToFileURL(ROOT).href, names: string[] = [];
    for (const [path, text] of programs()) {
      await Deno.mkdir(dirname(join(folder, path)), { recursive: true });
      // Files in mine/ import the toolkit from the folder above.
      await Deno.writeTextFile(join(folder, path), text.replaceAll(/(from ")\.\.\/(?=mod\.ts"|lib\/)/g, `$1${root}`));
      names.push(path);
    }
    assert.deepEqual(names.filter((path) => path.endsWith("/program.ts")).sort(), [
      "experiments.md/mine/program.ts",
      "library.md/program.ts",
      "schedules.md/mine/program.ts",
      "serve.md/program.ts",
    ]);
    const imports = Object.fromEntries(
      Object.entries(config.exports).map(([name, path]) => [`compresso${name.slice(1)}`, new URL(path, root).href]),
    );
    await Deno.writeTextFile(join(folder, "deno.json"), JSON.stringify({ imports }));
    const { success, stderr } = await new Deno.Command(Deno.execPath(), { args: ["check", ...names], cwd: folder })
      .output();
    assert.ok(success, new TextDecoder().decode(stderr));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
