// A program: writes the scripts of the studio to standard output, as JSON of names and texts. `build.ts` starts it,
// so that whoever builds the studio needs no right to write files.
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { importsOf, PACK, packed } from "./parts.ts";

const SOURCE = fileURLToPath(new URL(".", import.meta.url));

const [page, worker] = await Promise.all([bundled("page/main.ts"), bundled("worker/main.ts")]);
const first = closureOf("main.js", worker);
const later = [...worker].filter(([name]) => !first.has(name));
console.log(JSON.stringify({
  "studio.js": page.get("main.js"),
  [PACK]: packed(new Map([...first].map((name) => [name, worker.get(name) ?? ""]))),
  ...Object.fromEntries(later),
}));

/** An entry and the parts that it imports only when they are needed, by their names. */
async function bundled(entry: string): Promise<ReadonlyMap<string, string>> {
  const out = await Deno.makeTempDir({ prefix: "compresso_studio_" });
  try {
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["bundle", "--quiet", "--minify", "--platform", "browser", "--code-splitting", "--outdir", out],
        join(SOURCE, entry),
      ],
      cwd: SOURCE,
      stdin: "null",
    }).output();
    if (code !== 0) throw new Error(`cannot bundle ${entry}: ${new TextDecoder().decode(stderr).trim()}`);
    const scripts = await Array.fromAsync(
      Deno.readDir(out),
      async ({ name }) => [name, smaller(await Deno.readTextFile(join(out, name)))] as const,
    );
    return new Map(scripts.toSorted(([a], [b]) => a < b ? -1 : 1));
  } finally {
    await Deno.remove(out, { recursive: true });
  }
}

/** A script, and those that must be there before it runs. */
function closureOf(name: string, scripts: ReadonlyMap<string, string>, found = new Set<string>()): Set<string> {
  if (found.has(name)) return found;
  found.add(name);
  for (const one of importsOf(scripts.get(name) ?? "")) closureOf(one, scripts, found);
  return found;
}

/**
 * A script without the comments of its kernels, and with `loadPart` in place of `import()`: a worker that was made from
 * a blob cannot resolve relative names.
 */
function smaller(script: string): string {
  // Comments of TypeScript are gone. What begins with // is in the texts of kernels and of the report's script; in those
  // of Python, // divides, and follows no sign of punctuation. After a quote or a brace the script may continue.
  const bare = script.replace(/^[ \t]*\/\/[^`\n]*\n/gm, "").replace(/([;{},])[ \t]+\/\/ [^`"'{}\n]*$/gm, "$1");
  return bare.replace(/\bimport\("\.\/([\w-]+\.js)"\)/g, 'loadPart("$1")');
}
