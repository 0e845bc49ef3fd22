// Verbs with the rights of their sets in deno.json and no other, and what they say where one is missing. That the sets have what each verb needs is
// in rights_test.ts.
import assert from "node:assert/strict";
import config from "../../deno.json" with { type: "json" };
import { PERMISSIONS } from "../../scripts/permissions.ts";
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
