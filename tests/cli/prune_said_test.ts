// What `prune` does with prompts, long rows and strange schedules, seen in what it says and in its files. On the demo.
import assert from "node:assert/strict";
import { exists } from "../../lib/files/exists.ts";
import { assertNames } from "../refuses.ts";
import { assertFinished, checkRefused, cli, cliProcess, json, refused, TemporaryFolder } from "./helpers/cli.ts";

/** A few rows, masks that are learned, nothing else. */
const SMALL = [
  ...["--sparsity", "0.2", "--calibration", "none", "--limit-rows", "40", "--no-tuning", "--prefinetune", "0"],
  ...["--postfinetune", "0", "--batch", "1", "--seq", "32", "--no-prompt"],
];
const DATA = "fixtures/demo_data/train.jsonl";

Deno.test("prune says what its prompt takes of each row, ours or one's own, and which rows were cut; without one nothing", async () => {
  using folder = new TemporaryFolder();
  const rows = (await Deno.readTextFile(DATA)).split("\n").slice(0, 30);
  const { instruction, input, output }: Record<string, string> = JSON.parse(rows[1] ?? "");
  rows[4] = JSON.stringify({ instruction, input, output: `${output} `.repeat(200) });
  await Deno.writeTextFile(folder.at("rows.jsonl"), rows.join("\n"));
  await Deno.writeTextFile(folder.at("prompt.txt"), "Answer well and be brief.");
  const tokensOf = async (name: string, ...more: readonly string[]): Promise<{ said: string; tokens: number }> => {
    const { code, stderr } = await cli([
      ...["prune", "demo", "--data", folder.at("rows.jsonl"), "--sparsity", "0.2", "--method", "magnitude"],
      ...[
        "--steps",
        "0",
        "--batch",
        "1",
        "--seq",
        "320",
        "--no-packing",
        "--no-tuning",
        "--out",
        folder.at(name),
        ...more,
      ],
    ]);
    assert.equal(code, 0, stderr);
    const { data } = JSON.parse(await Deno.readTextFile(folder.at(name, "run.json")));
    assert.deepEqual([data.rows, data.truncated, data.lines.truncated], [27, 1, [5]]);
    assert.equal(data.promptTokens, costIn(stderr));
    return { said: stderr, tokens: data.tokens };
  };
  const ours = await tokensOf("ours"), own = await tokensOf("own", "--prompt", folder.at("prompt.txt"));
  const none = await tokensOf("none", "--no-prompt"), costs = [ours, own, none].map(({ said }) => costIn(said));
  const [long = NaN, short = NaN, nothing = NaN] = costs;
  assert.ok(long > short && short > 0 && nothing === 0, costs.join());
  // Each row has the tokens of the prompt more. The row that is cut has as many tokens as without.
  assert.deepEqual([ours.tokens - none.tokens, own.tokens - none.tokens], [26 * long, 26 * short]);
  for (const { said } of [ours, own, none]) assertNames(said, ["320 tokens", "row 5"]);
});

/** Tokens that the prompt takes of each row, of which a note tells; 0 without. */
function costIn(stderr: string): number {
  return Number(/prompt takes (\d+) tokens/.exec(stderr)?.[1] ?? 0);
}

Deno.test("a hostile schedule stops its own run before anything is written, unless --trust says that it is one's own code", async () => {
  using folder = new TemporaryFolder();
  const script = folder.at("mine.ts");
  await Deno.writeTextFile(
    script,
    `import { defineSchedule } from "compresso";
export default defineSchedule({ sparsity: ({ progress, sparsity }) => Deno.pid > 0 ? progress * sparsity : 0 });`,
  );
  const run = (
    out: string,
  ): string[] => ["prune", "demo", ...SMALL, "--steps", "2", "--schedule", script, "--out", folder.at(out)];
  const { fix } = await refused(run("isolated"), "input", { names: ["step 0 of 2", "Deno"] });
  assertNames(fix ?? "", "--trust");
  assert.ok(!(await exists(folder.at("isolated", "model"))) && !(await exists(folder.at("isolated", "run.json"))));
  const trusted = await cli([...run("trusted"), "--trust"]);
  assert.equal(trusted.code, 0, trusted.stderr);
  const records = (await Deno.readTextFile(folder.at("trusted", "records.jsonl"))).trimEnd().split("\n");
  assert.deepEqual(records.map((line) => JSON.parse(line).target), [0.1, 0.2]);
  const { origin, wallSeconds, seconds } = JSON.parse(await Deno.readTextFile(folder.at("trusted", "run.json")));
  assert.deepEqual(origin.map(({ role, name }: Record<string, unknown>) => `${role} ${name}`), [
    ...["model demo", "data train.jsonl"],
  ]);
  assert.ok(origin.every(({ bytes }: { bytes: number }) => bytes > 1e6));
  assert.ok(wallSeconds > seconds.prune, `${wallSeconds} s, of which ${seconds.prune} s for steps`);
  assert.match(trusted.stdout, /^bytes +demo [\d.]+ MiB → model [\d.]+ MiB, model\.gguf [\d.]+ MiB .*f16$/m);
});

Deno.test("a finished run whose trusted schedule now imports something else is another one", async () => {
  using folder = new TemporaryFolder();
  const script = folder.at("mine.ts");
  const text = `import { defineSchedule } from "compresso"; import { MOST } from "./most.ts";
export default defineSchedule({ sparsity: MOST });`;
  await Deno.writeTextFile(script, text);
  const write = (most: number): Promise<void> =>
    Deno.writeTextFile(folder.at("most.ts"), `export const MOST = ${most};`);
  const run = ["prune", "demo", ...SMALL, "--steps", "1", "--schedule", script, "--trust", "--out", folder.at("out")];
  await write(0.2);
  await json(run);
  await assertFinished([...run, "--resume"], folder.at("out"));
  await write(0.1);
  // This process has imported the script already.
  const { got } = checkRefused(await cliProcess([...run, "--resume", "--json"]), "mismatch", { value: "schedule" });
  assert.match(got ?? "", /\bscript (\w+)\b.*\bscript (?!\1)\w+/);
});
