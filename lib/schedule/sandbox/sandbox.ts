// The sandbox of an isolated schedule script. Owns Deno's command line, environment and start; refuses the exchange with it.
//
// The process has no permissions, nothing of the user's environment, no modules but data: URLs, and a heap limit. Code goes in over stdin, so
// that the script is loaded by a computed import, which Deno checks for permissions, unlike the imports of a main module.
import { builtinModules } from "node:module";
import { join } from "node:path";
import { CompressoError } from "../../core/errors.ts";
import runnerText from "./runner.ts" with { type: "text" };

/** What a sandbox is made for. */
export interface SandboxOptions {
  /** As messages name the script. */
  readonly name: string;
  /** JavaScript heap, MiB. */
  readonly heapMiB: number;
  /** Processor time in all, seconds, rounded up to whole ones. */
  readonly processorSeconds: number;
  /** Names that an import of the toolkit gives. */
  readonly kitNames: readonly string[];
  /** Specifiers that mean the toolkit. */
  readonly toolkitImports: readonly string[];
}

/** Characters of a command line: Windows takes 32 KiB in all, Linux 128 KiB in an argument. */
const MOST_CHARACTERS = Deno.build.os === "windows" ? 32_000 : 131_000;

/**
 * Starts the process with all three streams piped. Throws `CompressoError`: "usage" in a program made by `deno compile`, where the program would
 * start itself with its own permissions, and "input" where names of the toolkit are too long for a command line.
 */
export function spawnSandbox(
  options: SandboxOptions,
  { isStandalone = Deno.build.standalone }: { readonly isStandalone?: boolean } = {},
): Deno.ChildProcess {
  if (isStandalone) {
    throw new CompressoError("usage", {
      what: `cannot isolate the schedule ${options.name}`,
      rule: "an isolated script runs in a process of Deno itself, which has no rights there",
      value: "a program made by `deno compile`",
      fix:
        "run the program by `deno run`, or trust the script as your own code: --trust, or trustSchedule in a program",
    });
  }
  const spawn = (program: string, args: readonly string[]): Deno.ChildProcess =>
    new Deno.Command(program, {
      args: [...args],
      clearEnv: true,
      env: sandboxEnvironment(),
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
  const deno = Deno.execPath(), args = sandboxArgs(options);
  checkLength(args, options);
  if (Deno.build.os === "windows") return spawn(deno, args);
  try {
    // A shell sets what Deno cannot: no core dump of a full heap, and an end even where this process has died.
    const limits = `ulimit -c 0; ulimit -S -t ${Math.ceil(options.processorSeconds)}; exec "$0" "$@"`;
    return spawn("/bin/sh", ["-c", limits, deno, ...args]);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return spawn(deno, args);
    throw error;
  }
}

/** Whether this process may start one without asking anybody. */
export async function maySpawnSandbox(): Promise<boolean> {
  const commands = Deno.build.os === "windows" ? [Deno.execPath()] : ["/bin/sh", Deno.execPath()];
  const states = await Promise.all(commands.map((command) => Deno.permissions.query({ name: "run", command })));
  return states.every(({ state }) => state === "granted");
}

function checkLength(args: readonly string[], { name, toolkitImports }: SandboxOptions): void {
  const length = args.join(" ").length;
  if (length <= MOST_CHARACTERS) return;
  throw new CompressoError("input", {
    what: `cannot read the schedule ${name}`,
    rule: `the names by which it calls mod.ts fit into a command line of ${MOST_CHARACTERS} characters`,
    value: `${toolkitImports.length} such names, which make it ${length} long`,
    fix: "give all its imports of it one short name",
  });
}

/** Text as a URL. */
export function dataUrl(text: string, kind: "json" | "javascript" | "typescript"): string {
  return `data:application/${kind};base64,${new TextEncoder().encode(text).toBase64()}`;
}

/**
 * Nothing of the user's but what Windows starts programs with. Deno keeps what it makes of every TypeScript module, also of those that a script writes
 * as it runs: below a file there can be no folder for it.
 */
function sandboxEnvironment(): Record<string, string> {
  const env: Record<string, string> = {
    NO_COLOR: "1",
    DENO_NO_UPDATE_CHECK: "1",
    DENO_NO_PACKAGE_JSON: "1",
    DENO_DIR: join(Deno.execPath(), "none"),
  };
  for (const variable of Deno.build.os === "windows" ? ["SystemRoot", "TEMP"] : []) {
    const { state } = Deno.permissions.querySync({ name: "env", variable });
    const value = state === "granted" ? Deno.env.get(variable) : undefined;
    if (value !== undefined) env[variable] = value;
  }
  return env;
}

/** Arguments of `deno` for a process without permissions, and with a heap limit. */
export function sandboxArgs(
  { heapMiB, kitNames, toolkitImports }: Omit<SandboxOptions, "name">,
): string[] {
  const toolkit = dataUrl(
    `const kit = globalThis[Symbol.for("compresso.kit")];\n` +
      kitNames.map((name) => `export const ${name} = kit.${name};`).join("\n"),
    "javascript",
  );
  const modules = builtinModules.map((name) => [name.startsWith("node:") ? name : `node:${name}`, null]);
  const imports = Object.fromEntries([
    ...["file:///", "http://", "https://"].map((prefix) => [prefix, null]),
    ...modules,
    ...toolkitImports.map((specifier) => [specifier, toolkit]),
  ]);
  return [
    "run",
    "--quiet",
    "--no-prompt",
    "--no-remote",
    "--no-npm",
    "--cached-only",
    "--no-config",
    "--no-lock",
    "--no-code-cache",
    `--v8-flags=--max-heap-size=${heapMiB},--wasm-max-mem-pages=0,--disallow-code-generation-from-strings`,
    "--import-map",
    dataUrl(JSON.stringify({ imports }), "json"),
    dataUrl(runnerText, "typescript"),
  ];
}
