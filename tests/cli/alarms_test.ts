// Alarms on the command line: a run that one of them stops, and the same run going on without it.
import assert from "node:assert/strict";
import { readRun } from "../../lib/report/read_run.ts";
import { assertNames } from "../refuses.ts";
import { cli, refused, TemporaryFolder } from "./helpers/cli.ts";

const SMALL = ["--batch", "1", "--seq", "32", "--no-prompt", "--limit-rows", "40", "--calibration", "none"];

Deno.test("an alarm stops a run with its exit status, and the run goes on where it may only warn", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run"), stages = ["--steps", "2", "--prefinetune", "6", "--postfinetune", "1"];
  const args = ["prune", "demo", "--sparsity", "0.2", "--lora-rate", "1", ...stages, ...SMALL, "--out", out];
  const records = async (): Promise<{ step: number; alarms: { monitor: string; action: string }[] }[]> =>
    (await Deno.readTextFile(`${out}/records.jsonl`)).trimEnd().split("\n").map((line) => JSON.parse(line));
  const { fix } = await refused(
    [...args, "--on-alarm", "divergence=stop", "--on-alarm", "oscillation=off"],
    "numeric",
    {
      names: ["divergence", "--overwrite"],
    },
  );
  assertNames(fix ?? "", ["--resume", "--on-alarm divergence=warn"]);
  const { alarms: [alarm], step } = (await records()).at(-1) ?? { alarms: [], step: 0 };
  assert.deepEqual([alarm?.monitor, alarm?.action], ["divergence", "stop"]);
  assert.ok(!folder.has("run", "run.json"));

  const rest = await cli([...args, "--on-alarm", "divergence=warn", "--resume"]);
  assert.equal(rest.code, 0, rest.stderr);
  const { alarms } = JSON.parse(await Deno.readTextFile(`${out}/run.json`));
  assert.deepEqual([alarms[0].monitor, alarms[0].action], ["divergence", "warn"]);
  for (const text of [rest.stderr, rest.stdout]) {
    const lines = text.split("\n").filter((line) => line.startsWith("alarm "));
    assertNames(lines.join("\n"), [`step ${step}`, "divergence"]);
  }
  assert.deepEqual((await records()).map((record) => record.step), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

Deno.test("an alarm that no record follows is told all the same, where it stops the run as where it warns", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run"), schedule = folder.at("half.ts");
  await Deno.writeTextFile(
    schedule,
    'import { defineSchedule } from "compresso";\nexport default defineSchedule({ sparsity: 0.1 });\n',
  );
  const stages = ["--steps", "3", "--prefinetune", "0", "--postfinetune", "0", "--schedule", schedule];
  const args = ["prune", "demo", "--sparsity", "0.2", ...stages, ...SMALL, "--out", out];
  await refused([...args, "--on-alarm", "constraint=stop"], "numeric", { names: ["10.0 %", "20.0 %"] });
  const alarmsOf = async (): Promise<unknown[]> =>
    (await readRun(out)).alarms.map(({ monitor, action, step, message }) => {
      assertNames(message, ["10.0 %", "20.0 %"]);
      return [monitor, action, step];
    });
  assert.deepEqual(await alarmsOf(), [["constraint", "stop", 3]]);

  const rest = await cli([...args, "--json", "--resume"]);
  assert.equal(rest.code, 0, rest.stderr);
  const told = rest.stderr.split("\n").filter((line) => line.startsWith("alarm "));
  assert.equal(told.length, 1, rest.stderr);
  assertNames(told.join(), ["step 3", "constraint", "10.0 %"]);
  assert.deepEqual(await alarmsOf(), [["constraint", "warn", 3]]);
});
