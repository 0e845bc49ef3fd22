// A fresh clone prunes a model from the Hub, is interrupted five times on its way, and ends with the bits of a run that never was.
import assert from "node:assert/strict";
import { assertFinished, cli, type CliResult, ROOT, TemporaryFolder } from "../cli/helpers/cli.ts";
import { join } from "../cli/helpers/paths.ts";
import { assertNames } from "../refuses.ts";
import { TOKEN } from "./fake_hub.ts";
import { demoFiles, HubRig } from "./helpers.ts";

const OPTIONS = [
  ...["--sparsity", "0.3", "--steps", "8", "--prefinetune", "2", "--postfinetune", "2", "--batch", "2", "--seq", "64"],
  ...["--no-prompt", "--limit-rows", "200", "--calibration", "none", "--checkpoint-every", "2", "--no-tuning"],
];
const ROWS = join(ROOT, "fixtures", "demo_data", "train.jsonl");

/** What a clone holds: the tracked files of the program. */
async function clone(folder: string): Promise<void> {
  const args = ["ls-files", "-z", "cli", "kernels", "lib", "studio", "mod.ts", "deno.json", "deno.lock"];
  const { stdout } = await new Deno.Command("git", { args, cwd: ROOT }).output();
  for (const path of new TextDecoder().decode(stdout).split("\0").filter((path) => path !== "")) {
    await Deno.mkdir(join(folder, path, ".."), { recursive: true });
    await Deno.copyFile(join(ROOT, path), join(folder, path));
  }
}

/** Records of a run so far. */
async function linesOf(out: string): Promise<number> {
  return (await Deno.readTextFile(join(out, "records.jsonl")).catch(() => "")).split("\n").length - 1;
}

/** Runs `prune`, and sends a signal as soon as `when` holds; without, waits for its end. */
async function stopped(
  args: readonly string[],
  { cwd = ROOT, signal, when = () => false }: {
    readonly cwd?: string;
    readonly signal?: Deno.Signal | undefined;
    readonly when?: (() => boolean | Promise<boolean>) | undefined;
  },
): Promise<CliResult> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "cli/main.ts", "prune", ...args],
    cwd,
    env: { NO_COLOR: "1", HF_TOKEN: TOKEN },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  let isOver = false;
  const result = child.output().finally(() => isOver = true);
  while (signal && !isOver && !(await when())) await new Promise((resolve) => setTimeout(resolve, 10));
  if (signal && !isOver) child.kill(signal);
  const wasOver = isOver, { code, stdout, stderr } = await result, said = new TextDecoder().decode(stderr);
  if (signal && wasOver) assert.fail(`it ended before ${signal}: ${said}`);
  return { code, stdout: new TextDecoder().decode(stdout), stderr: said };
}

Deno.test({
  name: "a fresh clone's prune of a model on the Hub, interrupted five times, ends with the same bits",
  ignore: Deno.build.os === "windows", // there are no such signals
  fn: async () => {
    await using rig = new HubRig();
    using folder = new TemporaryFolder();
    const { hub } = rig, files = demoFiles(), weights = files["model.safetensors"]?.length ?? 0;
    hub.add("models/maker/demo", files, { access: "private" });
    hub.add("datasets/maker/rows", { "train.jsonl": await Deno.readFile(ROWS) });
    await clone(folder.at("clone"));
    const out = folder.at("run"),
      stored = (): number =>
        hub.seen.filter(({ host, method }) => host === "store" && method === "GET").reduce(
          (sum, { sent }) => sum + sent,
          0,
        );
    const lines = (): Promise<number> => linesOf(out);

    const run = (signal?: Deno.Signal, when?: () => boolean | Promise<boolean>): Promise<CliResult> =>
      stopped([...["hf:maker/demo", "--data", "hf:maker/rows"], ...OPTIONS, "--out", out, "--resume=auto"], {
        cwd: folder.at("clone"),
        signal,
        when,
      });

    const slow = { times: 1, slow: 2 }, large = /signature/;
    hub.faults.push({ path: large, ...slow });
    await run("SIGKILL", () => stored() > weights / 5);
    // The connection breaks too, before it is killed.
    hub.faults.push({ path: large, times: 1, dropAfter: weights >> 3 }, { path: large, ...slow });
    await run("SIGKILL", () => stored() > weights / 2);
    hub.faults.push({ path: /train\.jsonl/, ...slow });
    await run("SIGTERM", () => (hub.fetched("train.jsonl").at(-1)?.sent ?? 0) > 20_000);
    const fetched = stored();
    assert.ok(fetched >= weights && fetched < 1.3 * weights, `${fetched} of ${weights}`);
    assertNames((await run("SIGINT", async () => await lines() >= 3)).stderr, "Ctrl-C");
    await run("SIGKILL", async () => await lines() >= 7);
    const { code, stderr } = await run();
    assert.equal(code, 0, stderr);
    assert.equal(stored(), fetched);

    // The reference never met the Hub.
    const plain = await cli(["prune", "demo", "--data", ROWS, ...OPTIONS, "--out", folder.at("plain")]);
    assert.equal(plain.code, 0, plain.stderr);
    for (const name of ["model/model.safetensors", "model.gguf"]) {
      const [ours, theirs] = await Promise.all([out, folder.at("plain")].map((one) => Deno.readFile(join(one, name))));
      const at = ours?.findIndex((byte, index) => byte !== theirs?.[index]);
      assert.deepEqual([ours?.length, at], [theirs?.length, -1], name);
    }
    const { origin, resumedAfter } = JSON.parse(await Deno.readTextFile(join(out, "run.json")));
    assert.ok(resumedAfter >= 3, `${resumedAfter}`);
    const model = `hf:maker/demo@${hub.commit("models/maker/demo")}`;
    const data = `hf:maker/rows@${hub.commit("datasets/maker/rows")}:train.jsonl`;
    assert.deepEqual(origin.map(({ role, name, source }: Record<string, string>) => ({ role, name, source })), [
      { role: "model", name: "maker/demo", source: model },
      { role: "data", name: "maker/rows", source: data },
    ]);
    assert.match(await Deno.readTextFile(join(out, "model", "README.md")), /^base_model:\n- maker\/demo$/m);

    // What it became goes back to the Hub, and answers from there as it does here.
    Deno.env.set("HF_TOKEN", TOKEN);
    const pushed = await cli(["push", out, "hf:me/smaller", "--json"]);
    assert.equal(pushed.code, 0, pushed.stderr);
    assert.ok(JSON.parse(pushed.stdout).files.includes("README.md"), pushed.stdout);
    const asked = ["--prompt", "Tom went", "--max-tokens", "8", "--no-tuning"];
    const [there, here] = await Promise.all(
      ["hf:me/smaller", join(out, "model")].map((model) => cli(["generate", model, ...asked])),
    );
    assert.equal(there?.code, 0, there?.stderr);
    assert.equal(there?.stdout, here?.stdout);
  },
});

Deno.test({
  name: "a run is resumed with the revision that it began with, though the branch has moved",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    await using rig = new HubRig();
    using folder = new TemporaryFolder();
    const { hub } = rig, files = demoFiles(), out = folder.at("run");
    hub.add("models/maker/moving", files);
    const before = hub.commit("models/maker/moving"),
      args = ["hf:maker/moving", "--data", ROWS, ...OPTIONS, "--out", out];
    const { stderr } = await stopped(args, { signal: "SIGINT", when: async () => await linesOf(out) >= 3 });
    assertNames(stderr, [`prune hf:maker/moving@${before}`, "--resume"]);
    const config = JSON.parse(new TextDecoder().decode(files["config.json"]));
    hub.add("models/maker/moving", { ...files, "config.json": JSON.stringify({ ...config, rope_theta: 20000 }) });
    assert.notEqual(hub.commit("models/maker/moving"), before);
    const again = await cli(["prune", ...args, "--resume"]);
    assert.equal(again.code, 0, again.stderr);
    await assertFinished(["prune", ...args, "--resume"], out);
    const { origin: [model], resumedAfter } = JSON.parse(await Deno.readTextFile(join(out, "run.json")));
    assert.equal(model.source, `hf:maker/moving@${before}`);
    assert.ok(resumedAfter >= 3, `${resumedAfter}`);
  },
});
