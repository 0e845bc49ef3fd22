// The table of docs/guide/permissions.md: each command runs with exactly the rights of its row, without any variable, and fails without one of them.
import assert from "node:assert/strict";
import { join } from "./helpers/paths.ts";
import { copyDemo, ROOT, TemporaryFolder } from "./helpers/cli.ts";

/** What keeps a command short, by its beginning. */
const SHORT: readonly (readonly [beginning: string, more: readonly string[]])[] = [
  ["schedule", ["--steps", "4"]],
  ["generate", ["--max-tokens", "3", "--no-tuning"]],
  ["chat", ["--style", "plain", "--max-tokens", "3", "--no-tuning"]],
  ["bench", ["--prompt-tokens", "4", "--tokens", "2", "--batch", "2", "--repeats", "1", "--no-tuning"]],
  ["data generate", ["--count", "1", "--tokens", "4"]],
  ["eval", ["--window", "32", "--no-tuning"]],
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
  ["experiment", ["--no-tuning"]],
  ["serve", ["--no-tuning"]],
];

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
    DATA: data,
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

/** Runs a command with rights. A server is stopped when it serves, which counts as 0. */
async function run(
  command: string,
  rights: readonly string[],
  places: Readonly<Record<string, string>>,
): Promise<Ended> {
  const kinds = new Map<string, string[]>();
  for (const right of rights) {
    const [flag = "", value = ""] = right.split("=");
    kinds.set(flag, [...kinds.get(flag) ?? [], filled(value, places)]);
  }
  const flags = [...kinds].map(([flag, values]) => `${flag}=${values.join(",")}`);
  const more = SHORT.filter(([beginning]) => command.startsWith(beginning)).flatMap(([, words]) => words);
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-prompt", ...flags, "cli/main.ts", ...filled(command, places).split(" "), ...more],
    cwd: ROOT,
    clearEnv: true,
    env: Deno.build.os === "windows" ? {} : { HOME: Deno.env.get("HOME") ?? "/", PATH: Deno.env.get("PATH") ?? "" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const stderr = new Response(child.stderr).text();
  let isServing = false;
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    if (!text.includes("serving ")) continue;
    isServing = true;
    child.kill("SIGTERM");
  }
  const { code } = await child.status;
  return { code: isServing && code === 130 ? 0 : code, stderr: await stderr };
}

Deno.test("each command of the table runs with the rights of its row, and names one that is missing", {
  ignore: Deno.build.os === "windows", // there is no SIGTERM
}, async (t) => {
  const table = await rows();
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "cli/main.ts", "--help"],
    cwd: ROOT,
  }).output();
  const verbs = [...new TextDecoder().decode(stdout).matchAll(/^ {2}([a-z]+)(?: [<[].*)? {2,}/gm)].map(([, verb]) =>
    verb
  );
  const missing = verbs.filter((verb) => !["help", "push"].includes(verb ?? "")) // `push` is a page's of its own
    .filter((verb) => !table.some(({ command }) => command.split(" ")[0] === verb));
  assert.deepEqual(missing, []);
  for (const { command, rights } of table) {
    await t.step(command, async () => {
      using folder = new TemporaryFolder();
      const known = await places(folder);
      for (const without of rights) {
        const { code, stderr } = await run(command, rights.filter((right) => right !== without), known);
        assert.notEqual(code, 0, `${command} runs without ${without}`);
        assert.match(stderr, /--allow-(?:read|write|net|run)/, `${command} without ${without}: ${stderr}`);
      }
      const { code, stderr } = await run(command, rights, known);
      assert.equal(code, 0, stderr);
    });
  }
});
