// Prints the package.json of the npm package: Deno as its dependency, the toolkit's packages bundled, at the versions of deno.lock.
import config from "../../deno.json" with { type: "json" };

/** The Deno that the toolkit is tested with, and later ones of its major version. */
const DENO = "^2.9.6";
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
console.log(JSON.stringify(
  {
    name: "compresso",
    version: config.version,
    description: "Structural pruning of large language models on WebGPU",
    license: config.license,
    type: "module",
    bin: { compresso: "bin/compresso.cjs" },
    engines: { node: ">=18" },
    dependencies: { ...dependencies, deno: DENO },
    bundledDependencies: names,
  },
  null,
  2,
));
