// Prints the package.json of the npm package: Deno as its dependency, the toolkit's packages bundled, at the versions of deno.lock, and the entries
// of the library that scripts/npm/library.ts builds.
import config from "../../deno.json" with { type: "json" };

/** The Deno that the toolkit is tested with, and later ones of its major version. */
const DENO = "^2.9.6";
/** What the library takes of Deno in Node.js. */
const SHIM = { "@deno/shim-deno": "0.19.2" };
/** Packages that only types come from. */
const TYPES = /^@(?:types|webgpu)\//;

/** Versions by specifier, `npm:zod@4`, in deno.lock. */
async function lockedVersions(): Promise<Readonly<Record<string, string>>> {
  const text = await Deno.readTextFile(new URL("../../deno.lock", import.meta.url));
  const { specifiers } = JSON.parse(text) as { readonly specifiers: Readonly<Record<string, string>> };
  return Object.fromEntries(
    Object.entries(specifiers).map(([specifier, version]) => [
      specifier.replace(/^npm:(.+)@[^@]*$/, "$1"),
      version.replace(/_.*/, ""),
    ]),
  );
}

const locked = await lockedVersions();
const names = Object.entries(config.imports).filter(([, path]) => path.startsWith("npm:")).map(([name]) => name)
  .filter((name) => !TYPES.test(name));
const dependencies = Object.fromEntries(names.map((name) => {
  const version = locked[name];
  if (version === undefined) throw new Error(`${name} is not in deno.lock`);
  return [name, version];
}));
const entries = Object.entries(config.exports).filter(([name]) => name !== "./cli").map(([name, source]) => {
  const path = source.replace(/^\.\/(.*)\.ts$/, "$1"), js = `./js/${path}.js`;
  return [name, { types: `./js/${path}.d.ts`, deno: js, node: `./js/node/${path}.js`, default: js }];
});
console.log(JSON.stringify(
  {
    name: "compresso",
    version: config.version,
    description: "Structural pruning of large language models on WebGPU",
    license: config.license,
    type: "module",
    bin: { compresso: "bin/compresso.cjs" },
    exports: { ...Object.fromEntries(entries), "./package.json": "./package.json" },
    engines: { node: ">=18" },
    dependencies: { ...dependencies, ...SHIM, deno: DENO },
    bundledDependencies: [...names, ...Object.keys(SHIM)],
  },
  null,
  2,
));
