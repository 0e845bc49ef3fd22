// The program of docs/guide/library.md runs as it is written there, but for fewer steps, with the import map of the page. tests/guide_test.ts checks its types.
import assert from "node:assert/strict";
import { join } from "node:path";
import config from "../../deno.json" with { type: "json" };
import { ROOT } from "./checkout.ts";

const text = await Deno.readTextFile(join(ROOT, "docs/guide/library.md"));

/** The first block of a language. */
function blockOf(language: string): string {
  const [, code = ""] = new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``).exec(text) ?? [];
  return code;
}

Deno.test("the import map of the guide names every entry", () => {
  const { imports } = JSON.parse(blockOf("json")) as { readonly imports: Readonly<Record<string, string>> };
  const entries = Object.entries(config.exports).filter(([name]) => name !== "./cli")
    .map(([name, path]) => [`compresso${name.slice(1)}`, path.replace("./", "./compresso/")]);
  assert.deepEqual(Object.entries(imports), entries);
  const sections = Array.from(text.matchAll(/^\*\*(compresso[^*]*)\*\*/gm), ([, name]) => name);
  assert.deepEqual(sections, Object.keys(imports), "a paragraph for each entry");
});

Deno.test("the program of the guide runs on the demo model with the right to read alone", async () => {
  const program = blockOf("ts");
  const lines = program.trim().split("\n").length;
  assert.ok(lines <= 16, `${lines} lines`);
  const short = program.replace("steps: 80, batch: 8, seq: 240", "steps: 4, batch: 2, seq: 64")
    .replace("limit: 50", "limit: 5");
  assert.notEqual(short, program);
  const folder = await Deno.makeTempDir({ prefix: "compresso_guide_" });
  try {
    await Deno.symlink(ROOT, join(folder, "compresso"));
    await Deno.writeTextFile(join(folder, "deno.json"), blockOf("json"));
    await Deno.writeTextFile(join(folder, "program.ts"), short);
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", "--allow-read", "program.ts"],
      cwd: folder,
      env: { NO_COLOR: "1" },
    }).output();
    assert.equal(code, 0, new TextDecoder().decode(stderr));
    assert.match(new TextDecoder().decode(stdout), /before: 979008/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
