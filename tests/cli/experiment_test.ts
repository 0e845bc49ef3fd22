// `compresso experiment` as a user drives it: the list of runs, Ctrl-C and going on, wrong use.
import assert from "node:assert/strict";
import { assertNames } from "../refuses.ts";
import { cli, command, json, refused, TemporaryFolder } from "./helpers/cli.ts";

const DEFINITION = {
  name: "small",
  model: "demo",
  base: { sparsity: 0.2, steps: 6, prefinetune: 1, postfinetune: 1, batch: 2, seq: 48, prompt: false },
  grid: { rank: [2, 4] },
};

/** What keeps a run short. */
const SMALL = { batch: 1, seq: 24 };

Deno.test("experiment --dry-run lists runs, steps and tokens, and refuses names that are not there", async () => {
  using folder = new TemporaryFolder();
  const file = folder.at("small.json");
  await Deno.writeTextFile(file, JSON.stringify(DEFINITION));
  const run = ["experiment", file, "--out", folder.at("out"), "--dry-run"];
  const { code, stdout, stderr } = await cli([
    ...run,
    "--set",
    "steps=10",
    "--set",
    "rank=2,4,8",
    "--only",
    "rank=8,2",
  ]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^rank=2 +12 +1,152 {2}new\nrank=8 +12 +1,152 {2}new\n\n2 .* 2 .* 24 /m);
  assert.ok(!folder.has("out"));
  const names = async (...more: string[]): Promise<string[]> =>
    (await json([...run, ...more])).sitting.map(({ name }: { readonly name: string }) => name);
  const twice = ["--only", "rank=8", "--only", "rank=2", "--only", "rank=8"];
  assert.deepEqual(await names("--set", "rank=2,4,8", ...twice), ["rank=2", "rank=8"], "values of one key are joined");
  const { cells, sitting } = await json([...run, "--set", "rank=2,4,8", "--max-cells", "2"]);
  assert.equal(cells.length, 3);
  assert.deepEqual(sitting, [2, 4].map((rank) => ({ name: `rank=${rank}`, steps: 8, tokens: 768, isStopped: false })));
  assert.deepEqual(await names("--evaluate-only"), []);
  assert.equal((await names("--set", "protect=0,1,-1")).length, 2, "layers are one value, as prune has them");
  for (
    const [more, refusal] of [
      [["--only", "rank=3"], { value: 3, names: [2, 4] }],
      [["--set", "rnak=3"], { names: "'rnak'" }],
      [["--set", "rank"], { value: "rank", names: "--set rank" }],
      [["--file", "x=y"], { names: "--file x=y" }],
    ] as const
  ) await refused([...run, ...more], "usage", refusal);
});

Deno.test("data may be called as a number is, in --set as in --only", async () => {
  using folder = new TemporaryFolder();
  const file = folder.at("small.json"), path = folder.at("rows.jsonl");
  await Deno.writeTextFile(path, '{"text":"the river carries the stone near a garden by the road"}\n'.repeat(8));
  await Deno.writeTextFile(file, JSON.stringify({ ...DEFINITION, data: { "2023": path, "2024": path } }));
  const { code, stdout, stderr } = await cli([
    ...["experiment", file, "--out", folder.at("out"), "--dry-run", "--set", "data=2023,2024"],
    ...["--only", "data=2024"],
  ]);
  assert.equal(code, 0, stderr);
  assert.equal([...stdout.matchAll(/^\S*data=2024\S* /gm)].length, 2);
});

Deno.test("what is on or off is chosen by the words that set it", async () => {
  using folder = new TemporaryFolder();
  const file = folder.at("small.json");
  await Deno.writeTextFile(file, JSON.stringify(DEFINITION));
  const { code, stdout, stderr } = await cli([
    ...["experiment", file, "--out", folder.at("out"), "--dry-run", "--set", "rslora=true,false"],
    ...["--only", "rslora=true,prompt=false"],
  ]);
  assert.equal(code, 0, stderr);
  assert.deepEqual([...stdout.matchAll(/^rank=(\d),rslora=(\w+) /gm)].map(([, rank, is]) => [rank, is]), [
    ...[["2", "on"], ["4", "on"]],
  ]);
});

Deno.test("settings of alarms with commas between are one value, in --set and in --only", async () => {
  using folder = new TemporaryFolder();
  const file = folder.at("small.json"), onAlarm = ["nan=stop,divergence=warn", "dead-layer=stop", "memory=off"];
  await Deno.writeTextFile(file, JSON.stringify({ ...DEFINITION, grid: { onAlarm, saliencyDecay: [0.9, 0.8] } }));
  const run = (...more: string[]): ReturnType<typeof cli> =>
    cli(["experiment", file, "--out", folder.at("out"), "--dry-run", ...more]);
  const names = async (...more: string[]): Promise<string[]> => {
    const { code, stdout, stderr } = await run(...more);
    assert.equal(code, 0, stderr);
    return [...stdout.matchAll(/^(\S+=\S+) .* new$/gm)].map(([, name = ""]) => name.replaceAll("onAlarm=", ""));
  };
  assert.deepEqual(await names("--only", "onAlarm=nan=stop,divergence=warn,saliencyDecay=0.9"), [
    "divergence=warn+nan=stop,saliencyDecay=0.9",
  ]);
  assert.deepEqual(await names("--only", "saliencyDecay=0.9,onAlarm=memory=off", "--only", "onAlarm=dead-layer=stop"), [
    "dead-layer=stop,saliencyDecay=0.9",
    "memory=off,saliencyDecay=0.9",
  ]);
  assert.deepEqual(await names("--set", "onAlarm=nan=stop,memory=warn"), ["saliencyDecay=0.9", "saliencyDecay=0.8"]);
  for (
    const [more, names] of [
      [["--only", "onAlarm=dead-layer=stop,memory=off"], ["dead-layer=stop", "dead-layer=stop+memory=off"]],
      [["--only", "onAlarm=nan=stop,nan=rollback"], ["nan", "--only"]],
      [["--set", "onAlarm=nan=stop,nan=rollback"], ["nan", "grid"]],
    ] as const
  ) {
    await refused(["experiment", file, "--out", folder.at("out"), "--dry-run", ...more], "usage", { names });
  }
});

Deno.test("Ctrl-C leaves a checkpoint of the run and tables, and the same command goes on", async () => {
  using folder = new TemporaryFolder();
  const file = folder.at("small.json"), out = folder.at("out");
  await Deno.writeTextFile(file, JSON.stringify({ ...DEFINITION, base: { ...DEFINITION.base, ...SMALL, steps: 10 } }));
  const args = ["experiment", file, "--out", out, "--no-tuning"];
  const child = command([...args, "--json"]).spawn();
  const output = Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  while ((await Deno.readTextFile(`${out}/cells/rank=2/records.jsonl`).catch(() => "")).split("\n").length <= 3) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  child.kill("SIGINT");
  const { code } = await child.status, [stdout, stderr] = await output;
  assert.deepEqual([code, stdout], [130, ""], stderr);
  assert.equal(JSON.parse(stderr.trimEnd().split("\n").at(-1) ?? "").error.code, "aborted");
  assert.ok(folder.has("out", "cells", "rank=2", "checkpoint.safetensors"));
  assert.match(await Deno.readTextFile(`${out}/report.md`), /- rank=2: stopped\n- rank=4: new/);
  const { sitting } = await json([...args, "--only", "rank=2", "--dry-run"]);
  assert.deepEqual(sitting.map(({ isStopped }: { isStopped: boolean }) => isStopped), [true]);
  const { cells, failed, left } = await json([...args, "--only", "rank=2"]);
  assert.deepEqual([cells.length, failed, left], [1, [], 0]);
  const { resumedAfter } = JSON.parse(await Deno.readTextFile(`${out}/cells/rank=2/run.json`));
  assert.ok(resumedAfter >= 3, `${resumedAfter}`);
});

Deno.test("alarms of a run are told as they come, and a failed run advises what an experiment can do", async () => {
  using folder = new TemporaryFolder();
  const file = folder.at("small.json"), out = folder.at("out");
  const base = { ...DEFINITION.base, ...SMALL, prefinetune: 6, steps: 2, loraRate: 1 };
  await Deno.writeTextFile(file, JSON.stringify({ ...DEFINITION, base, grid: { seed: [0] } }));
  const args = ["experiment", file, "--out", out, "--no-tuning"];
  const alarms = (stderr: string): (string | undefined)[] =>
    [...stderr.matchAll(/^alarm at step \d+, ([\w-]+): /gm)].map(([, monitor]) => monitor);
  const stopped = await cli([...args, "--set", "onAlarm=divergence=stop"]);
  assert.equal(stopped.code, 6, stopped.stderr);
  assert.ok(alarms(stopped.stderr).includes("divergence"), stopped.stderr);
  assertNames(stopped.stderr, ["only", "onAlarm=divergence=warn"]);
  const warned = await cli([...args, "--set", "onAlarm=divergence=warn", "--redo"]);
  assert.equal(warned.code, 0, warned.stderr);
  assert.ok(alarms(warned.stderr).includes("divergence"), warned.stderr);
  assert.match(await Deno.readTextFile(`${out}/report.md`), /\| only \| \d \| divergence \| \w+ \|/);
});
