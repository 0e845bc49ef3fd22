// Alarms on the command line: a run that one of them stops, and the same run going on without it.
import assert from "node:assert/strict";
import { readRun } from "../../lib/report/read_run.ts";
import { cli, TemporaryFolder } from "./helpers/cli.ts";

Deno.test("an alarm stops a run with its exit status, and the run goes on where it may only warn", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run");
  const options =
    "--sparsity 0.2 --steps 2 --prefinetune 6 --postfinetune 1 --batch 1 --seq 96 --no-prompt --limit-rows 400 --lora-rate 1";
  const args = ["prune", "demo", ...options.split(" "), "--out", out];
  const stopped = await cli([...args, "--on-alarm", "divergence=stop", "--on-alarm", "oscillation=off"]);
  assert.equal(stopped.code, 5, stopped.stderr);
  assert.match(stopped.stderr, /alarm at step \d, divergence: the loss runs away.*; stopping; to fix it: lower/);
  assert.match(stopped.stderr, /cannot continue after step \d\n.*expected: .*'divergence'/);
  assert.match(
    stopped.stderr,
    /fix: +lower .*start over \(--overwrite\).*\(--resume, with --on-alarm divergence=warn\)$/m,
  );
  const last = JSON.parse((await Deno.readTextFile(`${out}/records.jsonl`)).trimEnd().split("\n").at(-1) ?? "");
  assert.deepEqual([last.alarms[0].monitor, last.alarms[0].action], ["divergence", "stop"]);
  await assert.rejects(Deno.stat(`${out}/run.json`), Deno.errors.NotFound);

  const rest = await cli([...args, "--on-alarm", "divergence=warn", "--resume"]);
  assert.equal(rest.code, 0, rest.stderr);
  assert.match(rest.stderr, /alarm at step \d, divergence: /);
  assert.match(rest.stdout, /^alarm {7}step \d, divergence: /m);
  const { alarms } = JSON.parse(await Deno.readTextFile(`${out}/run.json`));
  assert.deepEqual([alarms[0].monitor, alarms[0].action], ["divergence", "warn"]);
  const steps = (await Deno.readTextFile(`${out}/records.jsonl`)).trimEnd().split("\n").map((line) =>
    JSON.parse(line).step
  );
  assert.deepEqual(steps, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

Deno.test("an alarm that no record follows is told all the same, where it stops the run as where it warns", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run"), schedule = folder.at("half.ts");
  await Deno.writeTextFile(
    schedule,
    'import { defineSchedule } from "compresso";\nexport default defineSchedule({ sparsity: 0.1 });\n',
  );
  const options =
    "--sparsity 0.2 --steps 3 --prefinetune 0 --postfinetune 0 --batch 1 --seq 64 --no-prompt --calibration none";
  const args = ["prune", "demo", ...options.split(" "), "--schedule", schedule, "--out", out];
  const said = /the schedule's last target is 10\.0 %, and 20\.0 % was asked for/;
  const stopped = await cli([...args, "--on-alarm", "constraint=stop"]);
  assert.equal(stopped.code, 5, stopped.stderr);
  assert.match(stopped.stderr, said);
  const alarmsOf = async (): Promise<unknown[]> =>
    (await readRun(out)).alarms.map(({ monitor, action, message }) => [monitor, action, said.test(message)]);
  assert.deepEqual(await alarmsOf(), [["constraint", "stop", true]]);

  const rest = await cli([...args, "--json", "--resume"]);
  assert.equal(rest.code, 0, rest.stderr);
  assert.match(rest.stderr, /^alarm at step 3, constraint: .*last target is 10\.0 %/m);
  assert.equal(rest.stderr.match(/alarm at/g)?.length, 1);
  assert.deepEqual(await alarmsOf(), [["constraint", "warn", true]]);
});
