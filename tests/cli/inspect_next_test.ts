// What `inspect` proposes to try next: sizes that are computed from the model, and commands that work.
import assert from "node:assert/strict";
import { cli, json, TemporaryFolder } from "./helpers/cli.ts";

Deno.test("inspect proposes the cut that saves most parameters first, and the run of the vocabulary saves what it says", async () => {
  using folder = new TemporaryFolder();
  const { next, spec, prunable, parameters } = await json(["inspect", "demo"]);
  const [layers, words] = next;
  assert.equal(next.length, 2);
  assert.equal(layers.saves, Math.round(0.2 * prunable));
  assert.equal(words.saves, spec.vocab * spec.hidden / 2);
  const out = `${folder.path}/words`, texts = "fixtures/demo_data/train.jsonl";
  const command = words.command.map((word: string) => word === "TEXTS" ? texts : word === "runs/words" ? out : word);
  const run = await cli(command);
  assert.equal(run.code, 0, run.stderr);
  const made = await json(["inspect", `${out}/model`]);
  assert.ok(Math.abs(parameters - made.parameters - words.saves) <= 2 * spec.hidden);
  assert.equal(made.next.length, 1, "a cut vocabulary is not cut again");
});

Deno.test("inspect proposes nothing for a configuration alone, which has nothing to prune", async () => {
  assert.deepEqual((await json(["inspect", "fixtures/demo/config.json"])).next, []);
});

Deno.test("inspect says which layers have a short convolution, and of how many tokens", async () => {
  const { code, stdout } = await cli(["inspect", "fixtures/golden_hybrids/lfm2_long/model"]);
  assert.equal(code, 0);
  const [line = ""] = stdout.split("\n").filter((line) => line.startsWith("convolution"));
  assert.deepEqual(line.match(/\d+/g), ["5", "1"]);
});

Deno.test("inspect says how many experts layers have, and how many a token", async () => {
  const { code, stdout } = await cli(["inspect", "fixtures/golden_experts/qwen3_moe/model"]);
  assert.equal(code, 0);
  const [line = ""] = stdout.split("\n").filter((line) => line.startsWith("experts"));
  assert.deepEqual(line.match(/\d+/g), ["5", "13", "2", "3", "2"]);
  const columns = stdout.split("\n").filter((line) => /[█·]/.test(line)).map((line) =>
    line.split(/[█·]+/).at(-1)?.trim()
  );
  assert.deepEqual(columns, ["5 × 13", "29", "5 × 13"]);
});
