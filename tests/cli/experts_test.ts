// Experts cut from the command line: scored on data, cut again by the scores of the first run, and what is refused.
import assert from "node:assert/strict";
import { ROWS, writeExperts } from "../run/helpers/experts.ts";
import { json, refused, TemporaryFolder } from "./helpers/cli.ts";

Deno.test("prune cuts experts by its data, and another share by the scores that it left", async () => {
  using folder = new TemporaryFolder();
  const { gguf, folder: model } = await writeExperts(folder.path),
    first = folder.at("first"),
    second = folder.at("second");
  const how = ["--units", "experts", "--steps", "0", "--no-tuning"];
  const data = ["--data", ROWS, "--limit-rows", "40", "--seq", "48"];
  const one = await json(["prune", gguf, ...how, "--sparsity", "0.3", ...data, "--out", first]);
  assert.deepEqual([one.experts.before, one.experts.after, one.options.method], [12, 8, "reap"]);
  const scores = `${first}/scores.json`;
  const two = await json(["prune", gguf, ...how, "--sparsity", "0.6", "--scores", scores, "--out", second]);
  assert.deepEqual([two.experts.after, two.data.rows], [4, 0]);
  assert.deepEqual(two.experts.scores, one.experts.scores);
  const { spec } = await json(["inspect", `${second}/model.gguf`]);
  assert.deepEqual(spec.layers.map((layer: { experts: { count: number } }) => layer.experts.count), [2, 2]);
  // The folder has weights of f32, so these are scores of another model.
  const out = folder.at("third"), other = ["prune", model, ...how, "--sparsity", "0.3", "--scores", scores];
  await refused([...other, "--out", out], "mismatch");
  const broken = folder.at("broken.json");
  await Deno.writeTextFile(broken, "{");
  await refused(["prune", gguf, ...how, "--sparsity", "0.3", "--scores", broken, "--out", out], "input", {
    names: broken,
  });
  // Units of the layers are refused before their other options are looked at.
  const usual = ["prune", gguf, "--sparsity", "0.3", "--data", ROWS, "--seq", "100000", "--out", out];
  await refused(usual, "usage", { names: ["--units experts", "--steps 0"] });
});
