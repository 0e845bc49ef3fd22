// The table of docs/guide/permissions.md: each command runs with exactly the rights of its row, without any variable, and fails without one of them.
import assert from "node:assert/strict";
import config from "../../deno.json" with { type: "json" };
import { join } from "./helpers/paths.ts";
import { writeExperts } from "../run/helpers/experts.ts";
import { HAS_PYTHON } from "../python.ts";
import { cli, copyDemo, ROOT, TemporaryFolder } from "./helpers/cli.ts";

/** What keeps a command short, by its beginning. */
const SHORT: readonly (readonly [beginning: string, more: readonly string[]])[] = [
  ["schedule", ["--steps", "4"]],
  ["inspect MOE", ["--seq", "16", "--limit-rows", "10"]],
  ["generate", ["--max-tokens", "3", "--no-tuning"]],
  ["chat", ["--style", "plain", "--max-tokens", "3", "--no-tuning"]],
  ["bench", ["--prompt-tokens", "4", "--tokens", "2", "--batch", "2", "--repeats", "1", "--no-tuning"]],
  ["data generate", ["--count", "1", "--tokens", "4"]],
  ["eval MODEL --tasks", ["--max-tokens", "2", "--no-tuning"]],
  ["eval", ["--window", "32", "--no-tuning"]],
  [
    "prune MODEL --data DATA --out DIR --dashboard",
    [
      ...["--sparsity", "0.2", "--method", "magnitude", "--steps", "0", "--batch", "1", "--seq", "16", "--no-prompt"],
      ...["--limit-rows", "40", "--no-tuning"],
    ],
  ],
  [
    "prune",
    [
      ...["--sparsity", "0.2", "--steps", "1", "--prefinetune", "0", "--postfinetune", "0", "--batch", "1", "--seq"],
      ...["16", "--no-prompt", "--calibration", "none", "--limit-rows", "40", "--no-tuning"],
    ],
  ],
  [
    "sweep",
    [
      ...["--sparsities", "20%", "--method", "magnitude", "--steps", "0", "--batch", "1", "--seq", "16"],
      ...["--no-prompt", "--limit-rows", "40", "--no-tuning"],
    ],
  ],
  ["tune", ["--steps", "1", "--batch", "1", "--seq", "16", "--limit-rows", "40", "--no-tuning"]],
  ["fit", ["--file-size", "1800K", "--levers", "vocabulary", "--windows", "1"]],
  ["experiment", ["--no-tuning"]],
  ["serve", ["--no-tuning", "--json"]],
  ["studio", ["--json"]],
];

/** Commands that serve until they are stopped. */
const SERVING = /^(serve|studio)\b/;

/** A right as a flag of Deno. */
interface Row {
  readonly command: string;
  readonly rights: readonly string[];
}

/** The rows of the table, a right each path: paths of one kind are joined to one flag where the command is run. */
async function rows(): Promise<Row[]> {
  const page = await Deno.readTextFile(join(ROOT, "docs/guide/permissions.md"));
  const lines = page.split("\n").filter((line) => /^\| `/.test(line) && !/`--allow-read` *\|/.test(line));
  return lines.map((line) => {
    const [command = "", read = "", write = "", others = ""] = line.split("|").slice(1).map((cell) =>
      cell.trim().replaceAll("`", "")
    );
    const paths = (flag: string, cell: string): string[] =>
      cell.split(",").map((path) => path.trim()).filter((path) => path !== "").map((path) => `${flag}=${path}`);
    return {
      command,
      rights: [...paths("--allow-read", read), ...paths("--allow-write", write), ...others.split(" ")],
    };
  }).map(({ command, rights }) => ({ command, rights: rights.filter((right) => right !== "") }));
}

/** Makes what the names of the table stand for. */
async function places(folder: TemporaryFolder): Promise<Readonly<Record<string, string>>> {
  const model = folder.at("model"), data = folder.at("data.jsonl"), run = folder.at("run");
  await copyDemo(model);
  const source = await Deno.readTextFile(join(ROOT, "fixtures/demo_data/heldout.jsonl"));
  await Deno.writeTextFile(data, source.split("\n").slice(0, 40).join("\n"));
  await Deno.copyFile(join(ROOT, "scripts/examples/early_stop.ts"), folder.at("schedule.ts"));
  const base = { sparsity: 0.2, steps: 1, prefinetune: 0, postfinetune: 0, batch: 1, seq: 16, prompt: false };
  const experiment = { name: "small", model, data, base, grid: { rank: [2] } };
  await Deno.writeTextFile(folder.at("experiment.json"), JSON.stringify(experiment));
  await Deno.mkdir(run);
  const record = { stage: "prune", step: 1, steps: 1, loss: 1, target: 0.1, expected: 0.1, lambda1: 0, lambda2: 0 };
  const more = { gradNorm: 1, learningRate: 1, tokens: 1, labelTokens: 1, tokensPerSecond: 1, gpuBytes: 1 };
  const line = JSON.stringify({ ...record, ...more, plannedGpuBytes: 1, layers: null, alarms: [] });
  await Deno.writeTextFile(join(run, "records.jsonl"), `${line}\n`);
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const paths = {
    PORT: `${listener.addr.port}`,
    MODEL: model,
    MOE: (await writeExperts(folder.path)).gguf,
    DATA: data,
    CODE: join(ROOT, "fixtures/tasks/humaneval.test.jsonl"),
    FILE: folder.at("experiment.json"),
    SCRIPT: folder.at("schedule.ts"),
  };
  return {
    ...paths,
    RUN: run,
    DIR: folder.at("new"),
    PROGRAM: ROOT.replace(/\/$/, ""),
    OUT: folder.at("kept.jsonl"),
    DENO: Deno.execPath(),
  };
}

function filled(text: string, places: Readonly<Record<string, string>>): string {
  return text.replace("8000", "PORT").replace(/[A-Z]{3,}/g, (name) => places[name] ?? name);
}

interface Ended {
  readonly code: number;
  readonly stderr: string;
}

/** The words of a command of the table. */
function wordsOf(command: string, places: Readonly<Record<string, string>>): string[] {
  const [, more = []] = SHORT.find(([beginning]) => command.startsWith(beginning)) ?? [];
  return [...filled(command, places).split(" "), ...more];
}

/** Starts a program of the repository with rights and without any variable. */
function start(
  [program, ...words]: readonly [string, ...string[]],
  rights: readonly string[],
  places: Readonly<Record<string, string>>,
): Deno.ChildProcess {
  const kinds = new Map<string, string[]>();
  for (const right of rights) {
    const [flag = "", value = ""] = right.split("=");
    kinds.set(flag, [...kinds.get(flag) ?? [], filled(value, places)]);
  }
  const flags = [...kinds].map(([flag, values]) => `${flag}=${values.join(",")}`);
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-prompt", ...flags, program, ...words],
    cwd: ROOT,
    clearEnv: true,
    env: Deno.build.os === "windows" ? {} : { HOME: Deno.env.get("HOME") ?? "/", PATH: Deno.env.get("PATH") ?? "" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

/** Runs a server with rights and stops it when it serves. */
async function serve(
  command: string,
  rights: readonly string[],
  places: Readonly<Record<string, string>>,
): Promise<Ended> {
  const child = start(["cli/main.ts", ...wordsOf(command, places)], rights, places);
  const stderr = new Response(child.stderr).text();
  let isServing = false;
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    if (JSON.parse(text).url === undefined) continue;
    isServing = true;
    child.kill("SIGTERM");
  }
  const { code } = await child.status;
  return { code: isServing && code === 130 ? 0 : code, stderr: await stderr };
}

/** Runs commands in one process with the same rights. */
async function runAll(
  commands: readonly string[],
  rights: readonly string[],
  places: Readonly<Record<string, string>>,
): Promise<readonly Ended[]> {
  const words = JSON.stringify(commands.map((command) => wordsOf(command, places)));
  const { stdout, stderr } = await start(["tests/cli/helpers/run_many.ts", words], rights, places).output();
  const text = new TextDecoder().decode(stdout);
  assert.ok(text.startsWith("["), new TextDecoder().decode(stderr));
  return JSON.parse(text);
}

/** Rows as one text. */
function keyOf(rights: readonly string[]): string {
  return [...rights].sort().join(" ");
}

Deno.test("each command of the table runs with the rights of its row, and names one that is missing", {
  ignore: Deno.build.os === "windows", // there is no SIGTERM
}, async (t) => {
  const table = (await rows()).filter(({ command }) => HAS_PYTHON || !command.includes("--run-code"));
  const { stdout } = await cli(["--help"]);
  const verbs = [...stdout.matchAll(/^ {2}([a-z]+)(?: [<[].*)? {2,}/gm)].map(([, verb]) => verb);
  const missing = verbs.filter((verb) => !["help", "push"].includes(verb ?? "")) // `push` is a page's of its own
    .filter((verb) => !table.some(({ command }) => command.split(" ")[0] === verb));
  assert.deepEqual(missing, []);
  using folder = new TemporaryFolder();
  const known = await places(folder);
  // Commands that are refused, or write nothing, share a process where they have the same rights.
  const shared = new Map<string, { readonly command: string; readonly without: string | null }[]>();
  const alone: Row[] = [];
  for (const { command, rights } of table) {
    const add = (given: readonly string[], without: string | null): void => {
      shared.set(keyOf(given), [...shared.get(keyOf(given)) ?? [], { command, without }]);
    };
    for (const without of rights) add(rights.filter((right) => right !== without), without);
    const isAlone = SERVING.test(command) || rights.some((right) => right.startsWith("--allow-write"));
    if (isAlone) alone.push({ command, rights });
    else add(rights, null);
  }
  for (const [rights, runs] of shared) {
    await t.step(`with ${rights === "" ? "no right" : rights}`, async () => {
      const ends = await runAll(runs.map(({ command }) => command), rights.split(" ").filter(Boolean), known);
      for (const [index, { command, without }] of runs.entries()) {
        const { code, stderr } = ends[index] ?? { code: -1, stderr: "" };
        if (without === null) assert.equal(code, 0, `${command}: ${stderr}`);
        else {
          assert.notEqual(code, 0, `${command} runs without ${without}`);
          assert.match(stderr, /--allow-(?:read|write|net|run)/, `${command} without ${without}: ${stderr}`);
        }
      }
    });
  }
  for (const { command, rights } of alone) {
    await t.step(command, async () => {
      for (const path of [known.DIR, known.OUT]) await Deno.remove(path ?? "", { recursive: true }).catch(() => {});
      const [end] = SERVING.test(command)
        ? [await serve(command, rights, known)]
        : await runAll([command], rights, known);
      assert.equal(end?.code, 0, end?.stderr);
    });
  }
});

/** Rows with a file to write or programs to run, for which the page adds a right to the set of the verb. */
const ADDED = ["data generate", "eval MODEL --text DATA --out", "eval MODEL --tasks humaneval=CODE --run-code"];

Deno.test("the set of each verb in deno.json has the rights of its rows", async () => {
  const sets: Readonly<Record<string, Readonly<Record<string, boolean | readonly string[]>>>> = config.permissions;
  for (const { command, rights } of await rows()) {
    const [verb = ""] = command.split(" "), set = sets[verb] ?? {};
    if (verb.startsWith("-") || ADDED.some((beginning) => command.startsWith(beginning))) continue;
    for (const right of rights) {
      const [, kind = "", value = ""] = /^--allow-(\w+)=(.*)$/.exec(right) ?? [], has = set[kind];
      const names = [value === "DENO" ? "deno" : value.replace(/:\d+$/, ""), value];
      assert.ok(has === true || Array.isArray(has) && names.some((name) => has.includes(name)), `${verb}: ${right}`);
    }
  }
});
