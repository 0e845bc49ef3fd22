// Runs test files side by side, each in its own process, and prints a summary. A crash counts as a failure.
//
// `deno test --parallel` runs files in threads of one process. Vulkan's loader cannot stand that: a device made in one
// thread while another thread destroys one ends the process (https://github.com/KhronosGroup/Vulkan-Loader/issues/2018).
import { existsSync, readdirSync, statSync } from "node:fs";
import process from "node:process";
import config from "../deno.json" with { type: "json" };

/** Folders and files that take long, such as those that train whole models: they begin first, so that no long file is left for the end. */
const LONG = [
  ...["tests/run/", "tests/experiment/", "tests/cli/", "tests/guide_test.ts", "tests/docs_test.ts", "tests/fuzz/"],
  ...["tests/hub/", "tests/nn/", "tests/masks/", "tests/generate/", "tests/schedule/"],
];
/** Files that are named as the slowest. */
const SLOWEST = 20;
const COUNTS = ["passed", "failed", "ignored", "filtered out"] as const;

type Counts = Record<typeof COUNTS[number], number>;

/** Test files among paths, each once: a folder gives all of its own, those that take long first. */
function filesOf(paths: readonly string[]): string[] {
  const files = paths.flatMap((path) =>
    statSync(path).isDirectory()
      ? readdirSync(path, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith("_test.ts"))
        .map((name) => `${path.replace(/\/+$/, "")}/${name}`)
      : [path]
  );
  const rank = (file: string): number => {
    const index = LONG.findIndex((folder) => file.startsWith(folder));
    return index < 0 ? LONG.length : index;
  };
  return [...new Set(files)].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
}

/** The counts of the line that closes a run of `deno test`, or null where it has none: "ok | 3 passed | 0 failed (2s)". */
function countsOf(output: string): Counts | null {
  const line = output.match(/^(?:ok|FAILED) \| \d+ passed.*$/gm)?.at(-1);
  if (line === undefined) return null;
  const count = (name: string): number => Number(line.match(new RegExp(`(\\d+) ${name}`))?.[1] ?? 0);
  return {
    passed: count("passed"),
    failed: count("failed"),
    ignored: count("ignored"),
    "filtered out": count("filtered"),
  };
}

/** Ends with a message, before anything is run. */
function refuse(what: string): never {
  console.error(`cannot ${what}`);
  process.exit(2);
}

const words = process.argv.slice(2).filter((word) => word.startsWith("-"));
/** Types are checked once, before all files, or not at all where --no-check says that they have been. */
const isChecked = words.includes("--no-check"), options = words.filter((word) => word !== "--no-check");
/** As the task `test` has it; a task for each file would start Deno twice. */
const [, ...testing] = config.tasks.test.command.split(" ");
const paths = process.argv.slice(2).filter((word) => !word.startsWith("-"));
const missing = paths.find((path) => !existsSync(path));
if (missing !== undefined) {
  refuse(`run the tests of '${missing}': there is no such file or folder (options with a value want '=')`);
}
const jobs = Number(process.env.DENO_JOBS ?? 2 * navigator.hardwareConcurrency);
if (!Number.isInteger(jobs) || jobs < 1) {
  refuse(`run so many files at once: DENO_JOBS is a whole number from 1 on, now '${process.env.DENO_JOBS}'`);
}
const files = filesOf(paths.length > 0 ? paths : ["tests"]);
const total: Counts = { passed: 0, failed: 0, ignored: 0, "filtered out": 0 };
const bad: string[] = [];
const begun = performance.now();

/** Runs one file in a process of its own, and prints what it wrote when it has ended. */
async function runOnce(file: string): Promise<{ readonly code: number; readonly counts: Counts | null }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...testing, "--no-check", ...options, file],
    // Files already share the cores: llvmpipe without threads of its own takes less CPU time for the same bits.
    env: { LP_NUM_THREADS: "0", ...process.env, NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder(), output = decoder.decode(stdout);
  const said = output + decoder.decode(stderr);
  process.stdout.write(said.endsWith("\n") ? said : `${said}\n`);
  return { code, counts: countsOf(output) };
}

/** Seconds that each file took. */
const seconds = new Map<string, number>();

/** Runs one file and adds up. A process that a signal ends after its tests have passed has a second try: see docs/evidence/reliability.md. */
async function run(file: string): Promise<void> {
  const start = performance.now();
  let { code, counts } = await runOnce(file);
  seconds.set(file, (performance.now() - start) / 1000);
  if (code > 128 && counts?.failed === 0) {
    console.log(`${file}: its process ended with status ${code} after its tests had passed, and is run once more`);
    ({ code, counts } = await runOnce(file));
  }
  for (const name of COUNTS) total[name] += counts?.[name] ?? 0;
  if (code === 0 && counts !== null) return;
  // A file that cannot be loaded or whose process was ended has no count of its own, and counts as one test.
  if (counts === null || counts.failed === 0) total.failed++;
  bad.push(counts === null ? `${file}: its process ended with status ${code} before its tests did` : file);
}

if (!isChecked) {
  const checked = await new Deno.Command(Deno.execPath(), { args: ["check", ...files] }).spawn().status;
  if (!checked.success) process.exit(checked.code);
}
const queue = files.values();
await Promise.all(Array.from({ length: jobs }, async () => {
  for (const file of queue) await run(file);
}));
const whole = Math.round((performance.now() - begun) / 1000);
const slowest = [...seconds].sort(([, a], [, b]) => b - a).slice(0, SLOWEST).filter(([, time]) => time >= 1);
if (slowest.length > 0) console.log("\nSlowest files, in seconds beside others:");
for (const [file, time] of slowest) console.log(`${time.toFixed(0).padStart(6)}  ${file}`);
if (bad.length > 0) console.log(`\nFailed:\n${bad.sort().map((line) => `  ${line}\n`).join("")}`);
console.log(
  `\n${bad.length > 0 ? "FAILED" : "ok"} | ` +
    COUNTS.filter((name) => total[name] > 0 || name === "passed" || name === "failed")
      .map((name) => `${total[name]} ${name}`).join(" | ") +
    ` (${files.length} files, ${Math.floor(whole / 60)}m${whole % 60}s)`,
);
process.exit(bad.length > 0 ? 1 : 0);
