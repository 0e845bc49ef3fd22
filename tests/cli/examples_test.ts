// The example scripts run as they stand, with few steps.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

async function run(script: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", `scripts/examples/${script}`, ...args],
    cwd: ROOT,
    stdout: "piped",
    stderr: "piped",
  }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

Deno.test("other_schedule.ts stops at half of the steps and goes on with the second schedule", async () => {
  const lines = (await run("other_schedule.ts", "8")).trimEnd().split("\n");
  const targets = lines.filter((line) => /^\d/.test(line)).map((line) => Number(line.split(" ")[1]));
  assert.equal(lines[4], "stopped: half of the steps are done");
  assert.equal(targets.length, 8);
  assert.deepEqual(targets.slice(3), [0.1, 0.125, 0.15, 0.175, 0.2]);
  assert.match(lines.at(-1) ?? "", /^hard sparsity 0\.20[01]\d$/);
});

Deno.test("rank_sweep.ts prints a line for each rank", async () => {
  const [, ...lines] = (await run("rank_sweep.ts", "3", "2,4")).trimEnd().split("\n");
  assert.deepEqual(lines.map((line) => line.split(" ")[0]), ["2", "4"]);
  for (const line of lines) assert.match(line, /^\d +\d\.\d{3} +\d+\.\d %$/);
});

Deno.test("prompt_ablation.ts prints all four cases", async () => {
  const [, ...lines] = (await run("prompt_ablation.ts", "3", "10")).trimEnd().split("\n");
  const cases = lines.map((line) => line.split(/ +/).slice(0, 2).join(" "));
  assert.deepEqual(cases, ["on on", "on off", "off on", "off off"]);
  for (const line of lines) assert.match(line, /\d+\.\d %$/);
});
