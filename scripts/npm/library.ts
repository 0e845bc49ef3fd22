// Builds the library of the npm package: js/ in a folder, with the files of lib/, kernels/ and mod.ts as JavaScript, and their types.
// Needs Deno alone: deno run --allow-read --allow-write --allow-run scripts/npm/library.ts FOLDER
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import config from "../../deno.json" with { type: "json" };

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
/** Files that are imported as texts or JSON, which Node.js does not do. Each becomes a module. */
const RAW = /^(import \w+ from ")([^"]+)(" )?with \{ type: "(text|json)" \};$/gm;
/** The file that gives `Deno`. */
const SHIM = "deno.js";
/** Node.js 24 and older lack functions of JavaScript, and some their syntax: the entries of Node.js look before they load it. */
const CHECK = `if (typeof Uint8Array.fromBase64 !== "function") {
  throw new Error(\`compresso: the library needs Node.js 25 or later, or Deno; this is Node.js \${process.versions.node}\`);
}
`;

/** The entries of the package: of deno.json, without the command line. */
const entries = Object.entries(config.exports).filter(([name]) => name !== "./cli")
  .map(([name, path]) => ({ name, path: path.replace(/^\.\/(.*)\.ts$/, "$1") }));

async function* sources(folder: string): AsyncGenerator<string> {
  for await (const { name, isDirectory } of Deno.readDir(join(ROOT, folder))) {
    const path = join(folder, name);
    if (isDirectory) yield* sources(path);
    else if (name.endsWith(".ts")) yield path;
  }
}

async function write(path: string, text: string): Promise<void> {
  await Deno.mkdir(dirname(path), { recursive: true });
  await Deno.writeTextFile(path, text);
}

/** Copies the sources; each raw import becomes that of a module. Returns the modules with their values. */
async function copySources(stage: string, paths: readonly string[]): Promise<ReadonlyMap<string, unknown>> {
  const raw = new Map<string, unknown>();
  for (const path of paths) {
    const text = await Deno.readTextFile(join(ROOT, path)), imported: [string, string][] = [];
    const code = text.replace(RAW, (_, before: string, file: string, _quote: string, type: string) => {
      imported.push([join(dirname(path), file), type]);
      return `${before}${file}.ts";`;
    });
    for (const [file, type] of imported) {
      const content = await Deno.readTextFile(join(ROOT, file));
      // A manifest is imported for the version, and the toolkit's other fields concern Deno.
      const value: unknown = type === "text" ? content : { version: (JSON.parse(content) as typeof config).version };
      raw.set(file, value);
      await write(
        join(stage, `${file}.ts`),
        `const value: ${
          type === "text" ? "string" : "{ readonly version: string }"
        } = JSON.parse("");\nexport default value;\n`,
      );
    }
    await write(join(stage, path), code);
  }
  return raw;
}

/** JavaScript and declarations of the sources. */
async function transpile(stage: string, out: string, paths: readonly string[]): Promise<void> {
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["transpile", "--quiet", "--declaration", "--outdir", out, ...paths],
    cwd: stage,
    env: { NO_COLOR: "1" },
  }).output();
  if (code !== 0) throw new Error(new TextDecoder().decode(stderr));
}

/** Names files of JavaScript and packages as Node.js does, and takes `Deno` from the shim. */
function forNode(text: string, path: string): string {
  const named = text.replace(/^\/\/\/ <amd-module .*\n/gm, "").replace(/"(\.{1,2}\/[^"\n]*)\.ts"/g, '"$1.js"')
    .replace(/"npm:((?:@[^/"]+\/)?[^@"]+)@[^/"]+([^"]*)"/g, '"$1$2"')
    .replace("`../../fixtures/", "`../../../fixtures/");
  if (path.endsWith(".d.ts") || !/\bDeno\./.test(named)) return named;
  return `import { Deno } from "${relative(dirname(path), SHIM).replace(/^(?!\.)/, "./")}"; ${named}`;
}

/** The entries for Node.js, which name what the entries export. */
async function writeNodeEntries(js: string): Promise<void> {
  await write(join(js, "node", "check.js"), CHECK);
  for (const { path } of entries) {
    const names = Object.keys(await import(`../../${path}.ts`)), own = join("node", `${path}.js`);
    const at = (file: string): string => relative(dirname(own), file).replace(/^(?!\.)/, "./");
    const load = `const { ${names.join(", ")} } = await import("${at(`${path}.js`)}");`;
    await write(join(js, own), `import "${at("node/check.js")}";\n${load}\nexport { ${names.join(", ")} };\n`);
  }
}

const [folder = ""] = Deno.args, js = join(folder, "js"), stage = await Deno.makeTempDir();
try {
  const paths = ["mod.ts", ...await Array.fromAsync(sources("lib")), ...await Array.fromAsync(sources("kernels"))];
  const raw = await copySources(stage, paths);
  await Deno.copyFile(join(ROOT, "deno.lock"), join(stage, "deno.lock"));
  // Declarations are written only if every type is right, and Deno's own of Node.js contradict each other.
  const compilerOptions = { ...config.compilerOptions, skipLibCheck: true };
  await write(join(stage, "deno.json"), JSON.stringify({ ...config, compilerOptions }));
  const modules = [...paths, ...Array.from(raw.keys(), (file) => `${file}.ts`)];
  await transpile(stage, js, modules);
  for (const path of modules.flatMap((path) => [path.replace(/ts$/, "js"), path.replace(/ts$/, "d.ts")])) {
    await Deno.writeTextFile(join(js, path), forNode(await Deno.readTextFile(join(js, path)), path));
  }
  const shim = await Deno.readTextFile(join(ROOT, "scripts", "npm", SHIM));
  await write(join(js, SHIM), shim.replace("../../lib/core/errors.ts", "./lib/core/errors.js"));
  await writeNodeEntries(js);
  for (const [file, value] of raw) await write(join(js, `${file}.js`), `export default ${JSON.stringify(value)};\n`);
} finally {
  await Deno.remove(stage, { recursive: true });
}
