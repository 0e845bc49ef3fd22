// Every verb with the rights of its set in deno.json and no other, on the demo model; and what it says where one is missing.
import assert from "node:assert/strict";
import config from "../../deno.json" with { type: "json" };
import { PERMISSIONS } from "../../scripts/permissions.ts";
import { madeRecord } from "../report/made_run.ts";
import { assertNames } from "../refuses.ts";
import { cli, type CliResult, ROOT, TemporaryFolder } from "./helpers/cli.ts";

const SHORT = ["--steps", "2", "--prefinetune", "0", "--postfinetune", "0", "--batch", "1", "--seq", "16"];
const ROWS = ["--limit-rows", "40", "--no-prompt", "--calibration", "none", "--no-tuning"];
/** The command line with rights alone that are named, and a text on stdin. */
async function withRights(
  rights: readonly string[],
  args: readonly string[],
  { input = "" }: { readonly input?: string } = {},
): Promise<CliResult> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-prompt", ...rights, "cli/main.ts", ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const written = new Blob([input]).stream().pipeTo(child.stdin).catch(() => {});
  const { code, stdout, stderr } = await child.output();
  await written;
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

/** A verb with its own set. */
async function asItself(args: readonly string[], options: { readonly input?: string } = {}): Promise<string> {
  const { code, stdout, stderr } = await withRights([`-P=${args[0]}`], args, options);
  assert.equal(code, 0, `${args.join(" ")}\n${stderr}`);
  return stdout;
}

Deno.test("each verb has a set of rights, and none of them has all", async () => {
  const { stdout } = await cli(["--help"]);
  const verbs = Array.from(stdout.matchAll(/^ {2}([a-z]+)(?: [<[].*)? {2,}/gm), ([, verb = ""]) => verb);
  const sets: Readonly<Record<string, Readonly<Record<string, unknown>>>> = config.permissions;
  const known = verbs.filter((verb) => verb !== "help");
  assert.ok(known.length >= 14, stdout);
  assert.deepEqual(known.filter((verb) => !(verb in sets)), []);
  for (const [name, set] of Object.entries(sets)) {
    for (const kind of ["all", "ffi", "sys", "import"]) assert.ok(!(kind in set), `${name}: ${kind}`);
    for (const kind of ["env", "net", "run"]) assert.notEqual(set[kind], true, `${name}: all of ${kind}`);
  }
});

Deno.test("the sets of deno.json are those that scripts/permissions.ts writes", () => {
  assert.deepEqual(config.permissions, PERMISSIONS, "run: deno run -A scripts/permissions.ts");
});

Deno.test("a verb runs with its set, and scripts of schedules with /bin/sh", async () => {
  using folder = new TemporaryFolder();
  const schedule = Deno.build.os === "windows" ? "cubic" : "scripts/examples/cubic_with_plateaus.ts";
  const pruned = ["prune", "demo", "--sparsity", "0.2", ...SHORT, ...ROWS, "--schedule", schedule];
  await asItself([...pruned, "--out", folder.at("run")]);
  assert.ok(folder.has("run", "model.gguf"));
  const { points } = JSON.parse(
    await asItself(["schedule", "preview", "scripts/examples/early_stop.ts", "--steps", "5", "--json"]),
  );
  assert.ok(points.length > 0);
});

const EXPERIMENT = {
  name: "small",
  model: "demo",
  base: { sparsity: 0.2, steps: 2, prefinetune: 0, postfinetune: 0, batch: 1, seq: 16, prompt: false },
  grid: { rank: [2] },
};

Deno.test("each other verb runs with its set: those with the same set share a process", async () => {
  using folder = new TemporaryFolder();
  const text = folder.at("text.txt"), definition = folder.at("small.json"), run = folder.at("run");
  await Deno.writeTextFile(text, "Tom went to the city by train. ".repeat(20));
  await Deno.writeTextFile(definition, JSON.stringify(EXPERIMENT));
  await Deno.mkdir(run);
  await Deno.writeTextFile(`${run}/records.jsonl`, `${JSON.stringify(madeRecord(1))}\n`);
  const short = ["--steps", "0", "--method", "magnitude", "--batch", "1", "--seq", "16", "--limit-rows", "40"];
  const commands = [
    ["doctor"],
    ["inspect", "demo"],
    ["plan", "demo"],
    ["data", "inspect", "fixtures/demo_data/heldout.jsonl"],
    ["eval", "demo", "--text", text, "--window", "32", "--no-tuning"],
    ["generate", "demo", "--prompt", "Tom went", "--max-tokens", "4", "--no-tuning"],
    ["chat", "demo", "--no-tuning"],
    ["bench", "demo", "--prompt-tokens", "8", "--tokens", "2", "--batch", "2", "--repeats", "1", "--no-tuning"],
    ["schedule", "preview", "cubic", "--steps", "5"],
    ["tune", "demo", ...["--steps", "1", ...short.slice(4)], "--no-tuning", "--out", folder.at("tuned")],
    ["sweep", "demo", "--sparsities", "10%,20%", ...short, "--no-tuning", "--out", folder.at("sweep")],
    ["fit", "demo", "--file-size", "1800K", "--levers", "vocabulary", "--dry"],
    ["report", run, "--out", folder.at("report.html")],
    ["export", "demo", "--out", folder.at("exported")],
    ["experiment", definition, "--out", folder.at("all"), "--no-tuning"],
    ["completion", "bash"],
  ];
  // Those that are seen elsewhere: prune, serve and studio here, names on the Hub in the tests of the Hub.
  const verbs = new Set([...commands.map(([verb]) => verb), "prune", "serve", "studio", "push", "hub"]);
  assert.deepEqual([...verbs].sort(), Object.keys(PERMISSIONS).sort());
  const sets: Readonly<Record<string, unknown>> = PERMISSIONS;
  for (const [, group = []] of Map.groupBy(commands, ([verb = ""]) => JSON.stringify(sets[verb]))) {
    const args = [`-P=${group[0]?.[0]}`, "tests/cli/helpers/run_many.ts", JSON.stringify(group)];
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--no-prompt", ...args],
      ...{ cwd: ROOT, env: { NO_COLOR: "1" }, stdin: "null" },
    }).output();
    const said = new TextDecoder().decode(stdout);
    assert.ok(said.startsWith("["), new TextDecoder().decode(stderr));
    const ends: readonly { readonly code: number; readonly stderr: string }[] = JSON.parse(said);
    assert.equal(ends.length, group.length);
    for (const [index, { code, stderr }] of ends.entries()) {
      assert.equal(code, 0, `${group[index]?.join(" ")}\n${stderr}`);
    }
  }
  for (const names of [["sweep", "sweep.html"], ["report.html"], ["exported", "model.gguf"], ["all", "report.md"]]) {
    assert.ok(folder.has(...names), names.join("/"));
  }
});

Deno.test({
  name: "serve listens on this machine with its set",
  ignore: Deno.build.os === "windows", // there is no SIGTERM
  fn: async () => {
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--quiet",
        "--no-prompt",
        "-P=serve",
        "cli/main.ts",
        "serve",
        "demo",
        "--port",
        "0",
        "--no-tuning",
        "--json",
      ],
      cwd: ROOT,
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    let said = "", url: string | undefined;
    const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done && url === undefined; part = await reader.read()) {
      said += part.value;
      if (!said.endsWith("\n")) continue;
      url = new URL(JSON.parse(said).url).origin;
      break;
    }
    const response = await fetch(`${url}/health`);
    await response.body?.cancel();
    child.kill("SIGTERM");
    await reader.cancel();
    await child.status;
    assert.equal(response.status, 200, said);
  },
});

Deno.test("a refusal names the right to add", async () => {
  using folder = new TemporaryFolder();
  const read = "--allow-read";
  for (
    const [rights, args, flag] of [
      [[], ["inspect", "demo"], [`--allow-read=${ROOT}fixtures/demo`]],
      [[read], ["serve", "demo", "--host", "0.0.0.0"], ["--allow-env=COMPRESSO_API_KEY"]],
      [[read], ["serve", "demo", "--port", "18765"], ["--allow-net=127.0.0.1:18765"]],
      [[read], ["export", "demo", "--out", folder.at("exported")], [`--allow-write=${folder.path}`]],
    ] as const
  ) {
    const { code, stderr } = await withRights(rights, [...args, "--json"]);
    assert.ok(code === 2 || code === 3, stderr);
    assertNames(JSON.parse(stderr.trimEnd().split("\n").at(-1) ?? "").error.fix, flag);
  }
  if (Deno.build.os === "windows") return;
  const preview = ["schedule", "preview", "scripts/examples/early_stop.ts", "--json"];
  const { code, stderr } = await withRights([read], preview);
  assert.equal(code, 2, stderr);
  assertNames(JSON.parse(stderr).error.fix, [`--allow-run=${Deno.execPath()}`, "--trust"]);
});
