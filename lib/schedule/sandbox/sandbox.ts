// Starts the process of an isolated schedule script: Deno's command line, its environment and its limits.
//
// The process has no permissions, an empty environment, no modules but data: URLs, and a heap limit. Code goes in over stdin, so that the script is
// loaded by a computed import, which Deno checks for permissions, unlike the imports of a main module.
//
// This process needs permission to start Deno. With permission to start /bin/sh too, a shell sets limits that Deno
// cannot: no core dump of a full heap, a limit of processor time, and a limit of memory that applies within a step.
import { builtinModules } from "node:module";
import { join } from "node:path";
import { option, refuse } from "../../core/errors.ts";
import runnerText from "./runner.ts" with { type: "text" };

/** What a sandbox is made for. */
export interface SandboxOptions {
  /** Name of the script in messages. */
  readonly name: string;
  /** JavaScript heap, MiB. */
  readonly heapMiB: number;
  /** Total processor time, whole seconds, rounded up. */
  readonly processorSeconds: number;
  /** Names that an import of the toolkit gives. */
  readonly kitNames: readonly string[];
  /** Specifiers that mean the toolkit. */
  readonly toolkitImports: readonly string[];
}

/** Characters of a command line: Windows takes 32 KiB in all, Linux 128 KiB in an argument. */
const MOST_CHARACTERS = Deno.build.os === "windows" ? 32_000 : 131_000;

/** The shell that sets limits of the process. */
const SHELL = "/bin/sh";
/** Writable memory in addition to the heap, MiB: a bare Deno process already reserves some 700. */
const RESERVED_MIB = 2048;

/**
 * Starts the process with all three streams piped.
 *
 * @throws CompressoError("usage") if this process may not start Deno, and in a program made by `deno compile`, which would start itself with its own
 * permissions
 * @throws CompressoError("input") if names of the toolkit are too long for a command line
 */
export function spawnSandbox(
  options: SandboxOptions,
  { isStandalone = Deno.build.standalone }: { readonly isStandalone?: boolean } = {},
): Deno.ChildProcess {
  const { name, heapMiB, processorSeconds } = options;
  if (isStandalone) {
    refuse("usage", `cannot isolate the schedule ${name}`, {
      rule: "an isolated script runs in a process of Deno, without permissions",
      value: "a program made by `deno compile`",
      fix: `run the program with \`deno run\`, or run the script as your own code: ${option("trustSchedule")}`,
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
  if (Deno.build.os !== "windows" && mayStart(SHELL)) {
    const limits = [`-c 0`, `-S -t ${Math.ceil(processorSeconds)}`, `-S -d ${1024 * (heapMiB + RESERVED_MIB)}`];
    const script = `${limits.map((limit) => `ulimit ${limit} 2>/dev/null; `).join("")}exec "$0" "$@"`;
    try {
      return spawn(SHELL, ["-c", script, deno, ...args]);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  try {
    return spawn(deno, args);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotCapable)) throw error;
    refuse("usage", `cannot isolate the schedule ${name}`, {
      rule: "an isolated script runs in a separate process, which needs permission to start Deno",
      value: `no right to run ${deno}`,
      fix: `add --allow-run=${deno} to \`deno run\`, or run the script as your own code: ${option("trustSchedule")}`,
      cause: error,
    });
  }
}

/** Whether this process may start Deno without asking. */
export function maySpawnSandbox(): boolean {
  return mayStart(Deno.execPath());
}

function mayStart(command: string): boolean {
  return Deno.permissions.querySync({ name: "run", command }).state === "granted";
}

function checkLength(args: readonly string[], { name, toolkitImports }: SandboxOptions): void {
  const length = args.join(" ").length;
  if (length <= MOST_CHARACTERS) return;
  refuse("input", `cannot read the schedule ${name}`, {
    rule: `the names by which it calls the toolkit fit into a command line of ${MOST_CHARACTERS} characters`,
    value: `${toolkitImports.length} such names, which make it ${length} long`,
    fix: "give all its imports of it one short name",
  });
}

/** Text as a URL. */
export function dataUrl(text: string, kind: "json" | "javascript" | "typescript"): string {
  return `data:application/${kind};base64,${new TextEncoder().encode(text).toBase64()}`;
}

/**
 * An environment without the user's variables, except the variables that Windows needs to start programs. Deno caches
 * compiled modules, including modules that a running script writes. To prevent that, DENO_DIR is a path below a file,
 * where no folder can be created.
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
