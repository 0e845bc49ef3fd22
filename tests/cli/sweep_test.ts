// `compresso sweep`: its table and files, and what it refuses.
import assert from "node:assert/strict";
import { cli, TemporaryFolder } from "./helpers/cli.ts";

Deno.test("sweep prints a row for each sparsity and writes table and chart; the same folder is refused, and resumed", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("sweep"), args = ["sweep", "demo", "--sparsities", "10%,0.3", "--method", "magnitude"];
  const short = [...args, "--steps", "0", "--batch", "1", "--seq", "64", "--no-tuning", "--out", out];
  const { code, stdout, stderr } = await cli(short);
  assert.equal(code, 0, stderr);
  assert.equal(stderr.match(/^layout compact/gm)?.length, 1, "what all sparsities share is said once");
  assert.match(stdout, /^sparsity +parameters +GGUF, f16 +loss, held out .*bits per byte/);
  assert.match(stdout, /^0 % +979,008 +1\.89 MiB/m);
  assert.match(stdout, /^10 % .*\n30 % /m);
  assert.match(stdout, /^knee {8}/m);
  for (const name of ["sweep.json", "sweep.svg", "sweep.html", "sparsity-10/run.json", "sparsity-30/run.json"]) {
    assert.ok(folder.has("sweep", name), name);
  }
  assert.ok(!folder.has("sweep", "sparsity-10/model.gguf"));
  const again = await cli(short);
  assert.equal(again.code, 2, again.stderr);
  assert.match(again.stderr, /holds sweep\.json.*--resume/s);
  const resumed = await cli([...short, "--resume", "--json"]);
  assert.equal(resumed.code, 0, resumed.stderr);
  assert.match(resumed.stderr, /10 %, 1 of 2: measured already/);
  assert.equal(JSON.parse(resumed.stdout).points.length, 2);
});

Deno.test("sweep refuses lists that do not rise, what is of one run, and files that it does not write", async () => {
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [["--sparsities", "30%,10%"], /--sparsities.*ascending shares/s],
    [["--sparsities", "10%,120%"], /ascending shares/],
    [["--steps", "3"], /cannot start without --sparsities/],
    [["--sparsities", "10%", "--dtype", "f32"], /--dtype.*--export/s],
    [["--sparsities", "10%", "--sparsity", "0.2"], /--sparsity/],
  ];
  for (const [flags, message] of cases) {
    const { code, stderr } = await cli(["sweep", "demo", "--out", "unused", ...flags]);
    assert.equal(code, 2, stderr);
    assert.match(stderr, message);
  }
});
