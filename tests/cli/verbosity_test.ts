// --quiet and --verbose, and what a terminal of 40 or 80 columns shows of a run.
import assert from "node:assert/strict";
import { cli, TemporaryFolder } from "./helpers/cli.ts";
import { screenOf } from "./helpers/screen.ts";

const RUN = [
  ...["prune", "demo", "--sparsity", "0.2", "--steps", "6", "--prefinetune", "2", "--postfinetune", "2"],
  ...["--batch", "2", "--seq", "64", "--no-prompt", "--calibration", "none", "--limit-rows", "200"],
];

Deno.test("--quiet leaves stderr empty, before and behind the verb, and the result as it is", async () => {
  const args = ["generate", "demo", "--prompt", "Tom", "--max-tokens", "3", "--chat", "--with-prompt"];
  const normal = await cli(args);
  assert.match(normal.stderr, /the prompt takes/);
  for (const quiet of [[...args, "--quiet"], ["-q", ...args]]) {
    assert.deepEqual(await cli(quiet), { ...normal, stderr: "" });
  }
  const wrong = await cli(["inspect", "nowhere", "--quiet"]);
  assert.equal(wrong.code, 3);
  assert.match(wrong.stderr, /no such file or folder/);
});

Deno.test("--verbose names the device and how long phases took; both together are refused", async () => {
  const args = ["generate", "demo", "--prompt", "Tom", "--max-tokens", "3"];
  const { stdout, stderr } = await cli([...args, "--verbose"]);
  assert.equal(stdout, (await cli(args)).stdout);
  assert.match(stderr, /^device +\S/m);
  assert.match(stderr, /^loading the model: \d+ s$/m);
  const both = await cli([...args, "--verbose", "--quiet"]);
  assert.equal(both.code, 2);
  assert.match(both.stderr, /either --quiet or --verbose/);
});

for (const columns of [40, 80]) {
  Deno.test({
    name: `at ${columns} columns every line of a run's progress fits and shows its percentage`,
    ignore: Deno.build.os !== "linux",
    async fn(): Promise<void> {
      using folder = new TemporaryFolder();
      const { raw, code } = await screenOf(`deno run -A cli/main.ts ${RUN.join(" ")} --out ${folder.at("run")}`, {
        columns,
      });
      assert.equal(code, 0, raw);
      // Notes, which end with a line break, are longer.
      const lines = raw.split("\r\x1b[2K").slice(1).filter((piece) => !piece.includes("\n"));
      for (const line of lines) assert.ok([...line].length < columns, `${[...line].length}: ${line}`);
      const steps = lines.filter((line) => /^(finetune|prune|postfinetune) /.test(line));
      for (const line of steps) assert.match(line, /\d+ %/);
      // Counts are those of --prefinetune, --steps and --postfinetune.
      assert.ok(
        steps.every((line) => /^(finetune \d\/2|prune \d\/6|postfinetune \d\/2) /.test(line)),
        steps.join("\n"),
      );
      assert.ok(steps.some((line) => line.startsWith("prune ")), lines.join("\n"));
    },
  });
}

Deno.test("--quiet prints a run's summary alone", async () => {
  using folder = new TemporaryFolder();
  const { code, stdout, stderr } = await cli([...RUN, "--out", folder.at("run"), "--quiet"]);
  assert.equal(code, 0, stderr);
  assert.equal(stderr, "");
  assert.match(stdout, /^sparsity +20\.\d %/);
});
