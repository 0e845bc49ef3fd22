// `compresso experiment` as a user drives it: the list of runs, Ctrl-C and going on, wrong use.
import assert from "node:assert/strict";
import { cli, command, TemporaryFolder } from "./helpers/cli.ts";

const DEFINITION = {
  name: "small",
  model: "demo",
  base: { sparsity: 0.2, steps: 6, prefinetune: 1, postfinetune: 1, batch: 2, seq: 48, prompt: false },
  grid: { rank: [2, 4] },
};

Deno.test("experiment --dry-run lists runs, steps and tokens, and refuses names that are not there", async () => {
  using folder = new TemporaryFolder();
  const file = folder.at("small.json");
  await Deno.writeTextFile(file, JSON.stringify(DEFINITION));
  const run = (...more: string[]): ReturnType<typeof cli> =>
    cli(["experiment", file, "--out", folder.at("out"), ...more]);
  const { code, stdout, stderr } = await run(
    "--dry-run",
    "--set",
    "steps=10",
    "--set",
    "rank=2,4,8",
    "--only",
    "rank=8,2",
  );
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^rank=2 +12 +1,152 {2}new\nrank=8 +12 +1,152 {2}new\n\n2 runs, 2 to do: 24 steps/m);
  assert.ok(!folder.has("out"));
  const twice = await run(
    "--dry-run",
    "--set",
    "rank=2,4,8",
    "--only",
    "rank=8",
    "--only",
    "rank=2",
    "--only",
    "rank=8",
  );
  assert.equal(twice.code, 0, twice.stderr);
  assert.match(twice.stdout, /^rank=2 .*\nrank=8 .*\n\n2 runs, 2 to do/m, "values of one key are joined");
  const short = await run("--dry-run", "--set", "rank=2,4,8", "--max-cells", "2", "--json");
  const { cells, sitting } = JSON.parse(short.stdout);
  assert.equal(cells.length, 3);
  assert.deepEqual(sitting, [2, 4].map((rank) => ({ name: `rank=${rank}`, steps: 8, tokens: 768, isStopped: false })));
  assert.match((await run("--dry-run", "--evaluate-only")).stdout, /^2 runs, 0 to do: 0 steps/m);
  const ends = await run("--dry-run", "--set", "protect=0,1,-1");
  assert.match(ends.stdout, /^2 runs, 2 to do/m, `layers are one value, as prune has them: ${ends.stderr}`);
  for (
    const [more, message] of [
      [["--only", "rank=3"], /cannot choose cells by rank\n.*one of 2, 4/],
      [["--set", "rnak=3"], /the option 'rnak' in the base/],
      [["--set", "rank"], /--set is KEY=VALUE/],
      [["--file", "x=y"], /cannot use --file x=y/],
    ] as const
  ) {
    const refused = await run("--dry-run", ...more);
    assert.equal(refused.code, 2, refused.stderr);
    assert.match(refused.stderr, message);
    assert.equal(refused.stdout, "");
  }
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
    const [more, message] of [
      [
        ["--only", "onAlarm=dead-layer=stop,memory=off"],
        /it is one of .*dead-layer=stop.*\n.*dead-layer=stop\+memory=off/,
      ],
      [["--only", "onAlarm=nan=stop,nan=rollback"], /nan is set more than once\n.*give --only for each value/],
      [["--set", "onAlarm=nan=stop,nan=rollback"], /nan is set more than once\n.*in the definition's grid/],
    ] as const
  ) {
    const refused = await run(...more);
    assert.equal(refused.code, 2, refused.stderr);
    assert.match(refused.stderr, message);
  }
});

Deno.test("Ctrl-C leaves a checkpoint of the run and tables, and the same command goes on", async () => {
  using folder = new TemporaryFolder();
  const file = folder.at("small.json"), out = folder.at("out");
  await Deno.writeTextFile(file, JSON.stringify({ ...DEFINITION, base: { ...DEFINITION.base, steps: 10 } }));
  const args = ["experiment", file, "--out", out, "--no-tuning"];
  const child = command(args).spawn();
  const output = Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  while ((await Deno.readTextFile(`${out}/cells/rank=2/records.jsonl`).catch(() => "")).split("\n").length <= 3) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  child.kill("SIGINT");
  const { code } = await child.status, [stdout, stderr] = await output;
  assert.equal(code, 130, stderr);
  assert.equal(stdout, "");
  assert.match(stderr, /stopped by Ctrl-C\n {2}fix: +the same command continues from there/);
  assert.ok(folder.has("out", "cells", "rank=2", "checkpoint.safetensors"));
  assert.match(await Deno.readTextFile(`${out}/report.md`), /- rank=2: stopped\n- rank=4: new/);
  const again = await cli([...args, "--only", "rank=2", "--json"]);
  assert.equal(again.code, 0, again.stderr);
  assert.match(again.stderr, /run 1 of 1: rank=2 \(stopped, continues, 12 steps\)/);
  const { cells, failed, left } = JSON.parse(again.stdout);
  assert.deepEqual([cells.length, failed, left], [1, [], 0]);
});

Deno.test("alarms of a run are told as they come, and a failed run advises what an experiment can do", async () => {
  using folder = new TemporaryFolder();
  const file = folder.at("small.json"), out = folder.at("out");
  const base = { ...DEFINITION.base, prefinetune: 6, steps: 2, loraRate: 1 };
  await Deno.writeTextFile(file, JSON.stringify({ ...DEFINITION, base, grid: { seed: [0] } }));
  const args = ["experiment", file, "--out", out, "--no-tuning"];
  const stopped = await cli([...args, "--set", "onAlarm=divergence=stop"]);
  assert.equal(stopped.code, 6, stopped.stderr);
  assert.match(stopped.stderr, /^alarm at step \d, divergence: the loss runs away.*; stopping; to fix it: lower/m);
  assert.match(stopped.stderr, /only failed: .*set onAlarm=divergence=warn\), and redo/);
  const warned = await cli([...args, "--set", "onAlarm=divergence=warn", "--redo"]);
  assert.equal(warned.code, 0, warned.stderr);
  assert.match(warned.stderr, /^alarm at step \d, divergence: /m);
  assert.match(await Deno.readTextFile(`${out}/report.md`), /\| only \| \d \| divergence \| warned \|/);
});
