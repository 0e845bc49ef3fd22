// What `prune` does with prompts, long rows and strange schedules, seen in what it says and in its files. On the demo.
import assert from "node:assert/strict";
import { exists } from "../../lib/files/exists.ts";
import { cli, type CliResult, TemporaryFolder } from "./helpers/cli.ts";

const DATA = "fixtures/demo_data/train.jsonl";

Deno.test("prune says what its prompt takes of each row, ours or one's own, and which rows were cut; without one nothing", async () => {
  using folder = new TemporaryFolder();
  const rows = (await Deno.readTextFile(DATA)).split("\n").slice(0, 30);
  const { instruction, input, output }: Record<string, string> = JSON.parse(rows[1] ?? "");
  rows[4] = JSON.stringify({ instruction, input, output: `${output} `.repeat(200) });
  await Deno.writeTextFile(folder.at("rows.jsonl"), rows.join("\n"));
  await Deno.writeTextFile(folder.at("prompt.txt"), "Answer well and be brief.");
  const tokensOf = async (name: string, ...more: readonly string[]): Promise<{ said: string; tokens: number }> => {
    const settings = ["--steps", "1", "--prefinetune", "1", "--postfinetune", "0", "--batch", "2", "--seq", "320"];
    const { code, stderr } = await cli([
      ...["prune", "demo", "--data", folder.at("rows.jsonl"), "--sparsity", "0.2", "--calibration", "none"],
      ...[...settings, "--no-packing", "--out", folder.at(name), ...more],
    ]);
    assert.equal(code, 0, stderr);
    const [line = ""] = (await Deno.readTextFile(folder.at(name, "records.jsonl"))).split("\n", 1);
    return { said: stderr, tokens: JSON.parse(line).tokens };
  };
  const ours = await tokensOf("ours"), own = await tokensOf("own", "--prompt", folder.at("prompt.txt"));
  const none = await tokensOf("none", "--no-prompt");
  const cost = ({ said }: { said: string }): number =>
    Number(/the prompt takes (\d+) tokens a row/.exec(said)?.[1] ?? 0);
  assert.ok(cost(ours) > cost(own) && cost(own) > 0, `${cost(ours)}, ${cost(own)}`);
  assert.equal(cost(none), 0, none.said);
  // The same two rows, with so many tokens more each.
  assert.deepEqual([ours.tokens - none.tokens, own.tokens - none.tokens], [2 * cost(ours), 2 * cost(own)]);
  for (const { said } of [ours, own, none]) assert.match(said, /1 (?:row )?cut to 320 tokens \(row 5\)/);
});

Deno.test("a hostile schedule stops its own run before anything is written, unless --trust says that it is one's own code", async () => {
  using folder = new TemporaryFolder();
  const script = folder.at("mine.ts");
  await Deno.writeTextFile(
    script,
    `import { defineSchedule } from "compresso";
export default defineSchedule({ sparsity: ({ progress, sparsity }) => Deno.pid > 0 ? progress * sparsity : 0 });`,
  );
  const run = (out: string, ...more: readonly string[]): Promise<CliResult> =>
    cli([
      ...["prune", "demo", "--sparsity", "0.2", "--calibration", "none", "--limit-rows", "400", "--schedule", script],
      ...["--steps", "2", "--prefinetune", "0", "--postfinetune", "0", "--batch", "1", "--seq", "64", "--no-prompt"],
      ...["--out", folder.at(out), ...more],
    ]);
  const isolated = await run("isolated");
  assert.equal(isolated.code, 3, isolated.stderr);
  assert.match(isolated.stderr, /step 0 of 2.*Deno is not defined.*--trust/s);
  assert.ok(!(await exists(folder.at("isolated", "model"))) && !(await exists(folder.at("isolated", "run.json"))));
  const trusted = await run("trusted", "--trust");
  assert.equal(trusted.code, 0, trusted.stderr);
  const records = (await Deno.readTextFile(folder.at("trusted", "records.jsonl"))).trimEnd().split("\n");
  assert.deepEqual(records.map((line) => JSON.parse(line).target), [0.1, 0.2]);
  const { origin, wallSeconds, seconds } = JSON.parse(await Deno.readTextFile(folder.at("trusted", "run.json")));
  assert.deepEqual(origin.map(({ role, name }: Record<string, unknown>) => `${role} ${name}`), [
    ...["model demo", "data train.jsonl"],
  ]);
  assert.ok(origin.every(({ bytes }: { bytes: number }) => bytes > 1e6));
  assert.ok(wallSeconds > seconds.prune, `${wallSeconds} s, of which ${seconds.prune} s for steps`);
  assert.match(trusted.stdout, /^bytes +demo [\d.]+ MiB → model [\d.]+ MiB, model\.gguf [\d.]+ MiB as f16$/m);
});

Deno.test("a finished run whose trusted schedule now imports something else is another one", async () => {
  using folder = new TemporaryFolder();
  const script = folder.at("mine.ts");
  const text = `import { defineSchedule } from "compresso"; import { MOST } from "./most.ts";
export default defineSchedule({ sparsity: MOST });`;
  await Deno.writeTextFile(script, text);
  const write = (most: number): Promise<void> =>
    Deno.writeTextFile(folder.at("most.ts"), `export const MOST = ${most};`);
  const run = (...more: readonly string[]): Promise<CliResult> =>
    cli([
      ...["prune", "demo", "--sparsity", "0.2", "--calibration", "none", "--limit-rows", "400"],
      ...["--schedule", script, "--trust"],
      ...["--steps", "1", "--prefinetune", "0", "--postfinetune", "0", "--batch", "1", "--seq", "64", "--no-prompt"],
      ...["--out", folder.at("out"), ...more],
    ]);
  await write(0.2);
  assert.equal((await run()).code, 0);
  assert.match((await run("--resume")).stderr, /finished already/);
  await write(0.1);
  const { code, stderr } = await run("--resume");
  assert.equal(code, 6, stderr);
  assert.match(stderr, /schedule: script \w+ then, script \w+ now/);
});
