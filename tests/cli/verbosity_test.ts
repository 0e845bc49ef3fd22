// --quiet and --verbose, and what a terminal of 40 or 80 columns shows of a run.
import assert from "node:assert/strict";
import { cli, json, refused, TemporaryFolder } from "./helpers/cli.ts";
import { screenOf } from "./helpers/screen.ts";

const RUN = [
  ...["prune", "demo", "--sparsity", "0.2", "--steps", "4", "--prefinetune", "2", "--postfinetune", "2"],
  ...["--batch", "1", "--seq", "32", "--no-prompt", "--calibration", "none", "--limit-rows", "40", "--no-tuning"],
  ...["--on-alarm", "divergence=off"],
];

Deno.test("--quiet leaves stderr empty, before and behind the verb, and the result as it is", async () => {
  const args = ["generate", "demo", "--prompt", "Tom", "--max-tokens", "3", "--chat", "--with-prompt", "--no-tuning"];
  const normal = await cli(args);
  assert.notEqual(normal.stderr, "");
  for (const quiet of [[...args, "--quiet"], ["-q", ...args]]) {
    assert.deepEqual(await cli(quiet), { ...normal, stderr: "" });
  }
  await refused(["inspect", "nowhere", "--quiet"], "input", { names: "nowhere" });
});

Deno.test("--verbose names the device and how long phases took; both together are refused", async () => {
  const args = ["generate", "demo", "--prompt", "Tom", "--max-tokens", "3", "--no-tuning"];
  const { stdout, stderr } = await cli([...args, "--verbose"]);
  assert.equal(stdout, (await cli(args)).stdout);
  const { adapter } = await json(["doctor"]);
  assert.ok(
    stderr.split("\n").some((line) => line.startsWith("device ") && line.includes(adapter.description)),
    stderr,
  );
  assert.match(stderr, /: \d+ s$/m);
  await refused([...args, "--verbose", "--quiet"], "usage", { names: ["--quiet", "--verbose"] });
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
        steps.every((line) => /^(finetune \d\/2|prune \d\/4|postfinetune \d\/2) /.test(line)),
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
