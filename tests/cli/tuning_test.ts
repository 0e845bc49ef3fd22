// Tuned kernels as a user meets them: doctor tells of the table, and no state of it changes what a verb says.
import assert from "node:assert/strict";
import { dirname } from "node:path";
import { createProgress } from "../../cli/terminal/progress.ts";
import { tuneFor } from "../../cli/tuning.ts";
import { tuningOf } from "../../lib/gpu/tuning.ts";
import { loadModel, openDevice } from "../../mod.ts";
import { assertNames } from "../refuses.ts";
import { cli, refused, TemporaryFolder } from "./helpers/cli.ts";

/** Deno's own cache, which must stay where it is when the environment of a command is changed. */
async function denoFolder(): Promise<string> {
  const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["info", "--json"] }).output();
  return JSON.parse(new TextDecoder().decode(stdout)).denoDir;
}

Deno.test("doctor tells that nothing is tuned, and that a broken table is ignored", async () => {
  using folder = new TemporaryFolder();
  const env = {
    XDG_CACHE_HOME: folder.path,
    HOME: folder.path,
    LOCALAPPDATA: folder.path,
    DENO_DIR: await denoFolder(),
  };
  const report = async (): Promise<{ path: string; state: string; reason?: string; entries?: number }> => {
    const { code, stdout, stderr } = await cli(["doctor", "--json"], { env });
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout).tuning;
  };
  const { path, state } = await report();
  assert.equal(state, "absent");
  assert.ok(path.startsWith(folder.path), path);
  assert.equal(folder.has("compresso"), false);
  await Deno.mkdir(dirname(path), { recursive: true });
  await Deno.writeTextFile(path, "{");
  const { state: now, reason = "" } = await report();
  assert.equal(now, "ignored");
  const { code, stdout } = await cli(["doctor"], { env });
  assert.equal(code, 0);
  assert.ok(stdout.split("\n").some((line) => line.startsWith("kernels ") && line.includes(reason)), stdout);
});

Deno.test("generate says the same with a broken table, without one, and with --no-tuning", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("broken.json"), '{\n  "format": "compresso-tun');
  const args = ["generate", "demo", "--prompt", "Tom met", "--max-tokens", "4"];
  const answers = [
    await cli([...args, "--tuning", folder.at("broken.json")]),
    await cli([...args, "--tuning", folder.at("none", "tuning.json")]),
    await cli([...args, "--no-tuning"]),
  ];
  for (const { code, stdout, stderr } of answers) {
    assert.equal(code, 0, stderr);
    assert.equal(stderr, answers[0]?.stderr);
    assert.equal(stdout, answers[0]?.stdout);
  }
  assert.equal(folder.has("none"), false);
});

Deno.test("a file named by --tuning that is no table is refused, and stays as it is", async () => {
  using folder = new TemporaryFolder();
  const rows = '[{"instruction":"mine","input":"","output":"kept"}]';
  await Deno.writeTextFile(folder.at("rows.json"), rows);
  const args = ["generate", "demo", "--prompt", "Tom met", "--max-tokens", "4", "--tuning", folder.at("rows.json")];
  await refused(args, "usage", { names: ["--tuning", folder.at("rows.json")] });
  assert.equal(await Deno.readTextFile(folder.at("rows.json")), rows);
});

Deno.test({
  name: "a file named by --tuning that cannot be written is told of once, and ends nothing",
  ignore: Deno.build.os !== "linux",
  async fn(): Promise<void> {
    // Nobody makes a folder there, not even root.
    const setting = "/proc/compresso/tuning.json", said: string[] = [];
    using device = await openDevice();
    using model = await loadModel("demo", { device });
    using progress = createProgress({
      ...{ isTerminal: false, columns: () => 80, now: () => 0 },
      write: (text) => void said.push(text),
    });
    const { signal } = new AbortController();
    const tune = (tokens: number): Promise<void> =>
      tuneFor(model, { rows: 512, directions: ["forward"], tokens }, { setting, progress, signal });
    await tune(8);
    assert.deepEqual(said, [], "nothing is measured for so few");
    // Where kernels are compiled for the first time, the seconds of one call may not suffice to measure anything.
    for (let call = 0; call < 9 && said.length === 0; call++) await tune(1e9);
    tuningOf(device).clear();
    await tune(1e9);
    assert.ok(tuningOf(device).size > 0, "measured anew");
    assert.equal(said.length, 1);
    assertNames(said.join(), setting);
  },
});
