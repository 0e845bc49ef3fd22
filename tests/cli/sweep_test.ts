// `compresso sweep`: its table and files, and what it refuses.
import assert from "node:assert/strict";
import type { Refusal } from "../refuses.ts";
import { cli, refused, TemporaryFolder } from "./helpers/cli.ts";

Deno.test("sweep prints a row for each sparsity and writes table and chart; the same folder is refused, and resumed", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("sweep"), args = ["sweep", "demo", "--sparsities", "10%,0.3", "--method", "magnitude"];
  const short = [
    ...args,
    "--steps",
    "0",
    "--batch",
    "1",
    "--seq",
    "32",
    "--limit-rows",
    "40",
    "--no-tuning",
    "--out",
    out,
  ];
  const { code, stdout, stderr } = await cli(short);
  assert.equal(code, 0, stderr);
  assert.equal(stderr.match(/^layout compact/gm)?.length, 1, "what all sparsities share is said once");
  assert.match(stdout, /^0 % +979,008 +1\.89 MiB/m);
  assert.match(stdout, /^10 % .*\n30 % /m);
  assert.match(stdout, /^knee +\S/m);
  for (const name of ["sweep.json", "sweep.svg", "sweep.html", "sparsity-10/run.json", "sparsity-30/run.json"]) {
    assert.ok(folder.has("sweep", name), name);
  }
  assert.ok(!folder.has("sweep", "sparsity-10/model.gguf"));
  await refused(short, "usage", { names: ["sweep.json", "--resume"] });
  // What is measured is not measured again.
  const runs = ["sparsity-10/run.json", "sparsity-30/run.json"].map((name) => folder.at("sweep", name));
  const before = runs.map((path) => Deno.statSync(path).mtime?.getTime());
  const resumed = await cli([...short, "--resume", "--json"]);
  assert.equal(resumed.code, 0, resumed.stderr);
  assert.deepEqual(runs.map((path) => Deno.statSync(path).mtime?.getTime()), before);
  assert.equal(JSON.parse(resumed.stdout).points.length, 2);
});

Deno.test("a sweep that goes on from one sparsity to the next does not say that it is resumed", async () => {
  using folder = new TemporaryFolder();
  const { code, stderr } = await cli([
    ...[
      "sweep",
      "demo",
      "--sparsities",
      "10%,20%",
      "--method",
      "gradual",
      "--steps",
      "4",
      "--batch",
      "1",
      "--seq",
      "32",
    ],
    ...["--limit-rows", "40", "--no-tuning", "--calibration", "none", "--no-prompt", "--out", folder.at("sweep")],
  ]);
  assert.equal(code, 0, stderr);
  assert.match(stderr, /20 %, 2 of 2/);
  assert.doesNotMatch(stderr, /resuming/);
});

Deno.test("sweep refuses lists that do not rise, what is of one run, and files that it does not write", async () => {
  const cases: readonly (readonly [readonly string[], Refusal])[] = [
    [["--sparsities", "30%,10%"], { option: "--sparsities", value: "30%,10%" }],
    [["--sparsities", "10%,120%"], { option: "--sparsities", value: "10%,120%" }],
    [["--steps", "3"], { option: "--sparsities" }],
    [["--sparsities", "10%", "--dtype", "f32"], { names: ["--dtype", "--export"] }],
    [["--sparsities", "10%", "--sparsity", "0.2"], { names: "--sparsity" }],
  ];
  for (const [flags, refusal] of cases) await refused(["sweep", "demo", "--out", "unused", ...flags], "usage", refusal);
});
