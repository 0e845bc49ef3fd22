// Methods that prune in training or compensate, from the command line: what they leave is smaller, and the folder and the GGUF are the same model.
import assert from "node:assert/strict";
import { cli, TemporaryFolder } from "./helpers/cli.ts";

const OPTIONS = ["--sparsity", "0.2", "--steps", "2", "--batch", "1", "--seq", "64", "--no-prompt", "--no-tuning"];

for (const method of ["gradual", "flap", "wanda-sp"]) {
  Deno.test(`prune --method ${method} leaves a model that eval reads, from its folder as from its GGUF`, async () => {
    using folder = new TemporaryFolder();
    const out = folder.at("run");
    const pruned = await cli([
      "prune",
      "demo",
      "--method",
      method,
      ...OPTIONS,
      "--dtype",
      "f32",
      "--gguf-dtype",
      "f32",
      "--out",
      out,
      "--json",
    ]);
    assert.equal(pruned.code, 0, pruned.stderr);
    const { options, sparsity, parameters } = JSON.parse(pruned.stdout);
    assert.equal(options.method, method);
    assert.ok(sparsity.hard >= 0.2 - 1e-9 && parameters.after < parameters.before, pruned.stdout);
    const { code, stdout, stderr } = await cli([
      ...["eval", `${out}/model`, `${out}/model.gguf`, "--text", "fixtures/demo_data/heldout.jsonl"],
      ...["--limit-chars", "4000", "--window", "128", "--base-dtype", "f32", "--no-tuning", "--json"],
    ]);
    assert.equal(code, 0, stderr);
    const [hf, gguf] = JSON.parse(stdout).models;
    assert.ok(hf.nll > 0 && hf.nll < Math.log(768), `no better than a guess among all tokens: ${stdout}`);
    assert.equal(gguf.nll, hf.nll);
  });
}
