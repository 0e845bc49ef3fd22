// Every verb with the rights of its set in deno.json and no other, on the demo model; and what it says where one is missing.
import assert from "node:assert/strict";
import config from "../../deno.json" with { type: "json" };
import { PERMISSIONS } from "../../scripts/permissions.ts";
import { type CliResult, ROOT, TemporaryFolder } from "./helpers/cli.ts";

const SHORT = ["--steps", "2", "--prefinetune", "0", "--postfinetune", "0", "--batch", "1", "--seq", "32"];
const ROWS = ["--limit-rows", "200"];
const EXPERIMENT = {
  name: "small",
  model: "demo",
  base: { sparsity: 0.2, steps: 2, prefinetune: 0, postfinetune: 0, batch: 1, seq: 32, prompt: false },
  grid: { rank: [2] },
};

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
  const { stdout } = await withRights([], ["--help"]);
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

Deno.test("verbs that write nothing run with the right to read", async () => {
  using folder = new TemporaryFolder();
  const text = folder.at("text.txt");
  await Deno.writeTextFile(text, "Tom went to the city by train. ".repeat(20));
  assert.match(await asItself(["doctor"]), /^adapter/m);
  assert.match(await asItself(["inspect", "demo"]), /979,008/);
  assert.match(await asItself(["plan", "demo"]), /^stages/m);
  assert.match(await asItself(["data", "inspect", "fixtures/demo_data/heldout.jsonl"]), /^rows/m);
  assert.match(await asItself(["schedule", "preview", "cubic", "--steps", "5"]), /^ends/m);
  assert.match(await asItself(["schedule", "preview", "scripts/examples/early_stop.ts", "--steps", "5"]), /^ends/m);
  assert.match(await asItself(["eval", "demo", "--text", text, "--window", "32", "--no-tuning"]), /perplexity/);
  assert.ok((await asItself(["generate", "demo", "--prompt", "Tom went", "--max-tokens", "4", "--no-tuning"])) !== "");
  const chat = ["chat", "demo", "--style", "plain", "--max-tokens", "4", "--no-tuning"];
  assert.ok((await asItself(chat, { input: "Where is Tom?\n" })) !== "");
  const bench = ["bench", "demo", "--prompt-tokens", "8", "--tokens", "2", "--batch", "2", "--repeats", "1"];
  assert.match(await asItself([...bench, "--no-tuning"]), /demo/);
});

Deno.test("verbs that write files run with the rights to read and write, and scripts of schedules with /bin/sh", async () => {
  using folder = new TemporaryFolder();
  const run = folder.at("run"), definition = folder.at("small.json");
  const schedule = Deno.build.os === "windows" ? "cubic" : "scripts/examples/cubic_with_plateaus.ts";
  const pruned = ["prune", "demo", "--sparsity", "0.2", ...SHORT, ...ROWS, "--schedule", schedule, "--out", run];
  await asItself([...pruned, "--no-tuning"]);
  assert.ok(folder.has("run", "model.gguf"));
  const swept = ["sweep", "demo", "--sparsities", "10%,20%", ...SHORT.slice(0, 4), ...SHORT.slice(-4), ...ROWS];
  await asItself([...swept, "--out", folder.at("sweep"), "--no-tuning"]);
  assert.ok(folder.has("sweep", "sweep.html"));
  await asItself(["report", run, "--out", folder.at("report.html")]);
  await asItself(["export", `${run}/model`, "--out", folder.at("exported")]);
  assert.ok(folder.has("report.html") && folder.has("exported", "model.gguf"));
  await Deno.writeTextFile(definition, JSON.stringify(EXPERIMENT));
  await asItself(["experiment", definition, "--out", folder.at("all"), "--no-tuning"]);
  assert.ok(folder.has("all", "report.md"), Array.from(Deno.readDirSync(folder.at("all")), ({ name }) => name).join());
});

Deno.test({
  name: "serve listens on this machine with its set",
  ignore: Deno.build.os === "windows", // there is no SIGTERM
  fn: async () => {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--no-prompt", "-P=serve", "cli/main.ts", "serve", "demo", "--port", "0", "--no-tuning"],
      cwd: ROOT,
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    let said = "", url: string | undefined;
    const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done && url === undefined; part = await reader.read()) {
      said += part.value;
      [url] = /http:\/\/127\.0\.0\.1:\d+/.exec(said) ?? [];
      if (url !== undefined) break;
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
      [[], ["inspect", "demo"], /add --allow-read=\S+ to/],
      [[read], ["serve", "demo", "--host", "0.0.0.0"], /add --allow-env=COMPRESSO_API_KEY to/],
      [[read], ["serve", "demo", "--port", "18765"], /add --allow-net=127\.0\.0\.1:18765 to/],
      [[read], ["export", "demo", "--out", folder.at("exported")], /add --allow-write=\S+ to/],
    ] as const
  ) {
    const { code, stderr } = await withRights(rights, args);
    assert.ok(code === 2 || code === 3, stderr);
    assert.match(stderr, flag);
  }
  if (Deno.build.os === "windows") return;
  const { code, stderr } = await withRights([read], ["schedule", "preview", "scripts/examples/early_stop.ts"]);
  assert.equal(code, 2, stderr);
  assert.match(stderr, /add --allow-run=\S+deno\S* to .*--trust/);
});
