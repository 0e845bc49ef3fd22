// Methods that prune in training or compensate, from the command line: what they leave is smaller, and the folder and the GGUF are the same model.
import assert from "node:assert/strict";
import { json, TemporaryFolder } from "./helpers/cli.ts";

const OPTIONS = [
  ...["--sparsity", "0.2", "--steps", "2", "--prefinetune", "0", "--postfinetune", "1", "--batch", "1", "--seq", "32"],
  ...["--no-prompt", "--limit-rows", "40", "--no-tuning", "--dtype", "f32", "--gguf-dtype", "f32"],
];

for (const method of ["gradual", "flap", "wanda-sp"]) {
  Deno.test(`prune --method ${method} leaves a model that eval reads, from its folder as from its GGUF`, async () => {
    using folder = new TemporaryFolder();
    const out = folder.at("run"), none = method === "gradual" ? [] : ["--calibration", "none"];
    const { options, sparsity, parameters } = await json([
      ...["prune", "demo", "--method", method, ...OPTIONS, ...none, "--out", out],
    ]);
    assert.equal(options.method, method);
    assert.ok(sparsity.hard >= 0.2 - 1e-9 && parameters.after < parameters.before, JSON.stringify(parameters));
    const { models: [hf, gguf] } = await json([
      ...["eval", `${out}/model`, `${out}/model.gguf`, "--text", "fixtures/demo_data/heldout.jsonl"],
      ...["--limit-chars", "1000", "--window", "64", "--base-dtype", "f32", "--no-tuning"],
    ]);
    assert.ok(hf.nll > 0 && hf.nll < Math.log(768), `no better than a guess among all tokens: ${hf.nll}`);
    assert.equal(gguf.nll, hf.nll);
  });
}
