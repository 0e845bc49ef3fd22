// `compresso tune`: the same run as `prune --sparsity 0 --save-adapter`, and what it says and refuses.
import assert from "node:assert/strict";
import { cli, json, refused, TemporaryFolder } from "./helpers/cli.ts";
import { writeShortDemo } from "../demo.ts";

Deno.test("tune trains an adapter and a merged model: the bytes of prune at sparsity 0", async () => {
  using folder = new TemporaryFolder();
  const model = await writeShortDemo(folder.path), data = "fixtures/demo_data/heldout.jsonl";
  const short = ["--data", data, "--limit-rows", "40", "--steps", "2", "--batch", "1", "--seq", "48", "--no-tuning"];
  const tuned = await cli(["tune", model, ...short, "--out", folder.at("tuned")]);
  assert.equal(tuned.code, 0, tuned.stderr);
  // Nothing is said of a cut.
  assert.doesNotMatch(tuned.stdout + tuned.stderr, /sparsity|pruning|layout/);
  const summary = await json([
    "prune",
    model,
    "--sparsity",
    "0",
    "--save-adapter",
    ...short,
    "--json",
    "--out",
    folder.at("pruned"),
  ]);
  assert.deepEqual([summary.options.units, summary.options.steps], [[], 2]);
  for (const name of ["adapter/adapter_model.safetensors", "model/model.safetensors", "model/config.json"]) {
    assert.deepEqual(
      await Deno.readFile(folder.at("tuned", name)),
      await Deno.readFile(folder.at("pruned", name)),
      name,
    );
  }
  // The run.json of a run without a cut makes it again; what the command line says comes first.
  const again = [
    "tune",
    model,
    "--config",
    folder.at("tuned", "run.json"),
    "--data",
    data,
    "--no-tuning",
    "--steps",
    "1",
  ];
  const repeated = await json([...again, "--out", folder.at("again")]);
  assert.deepEqual(repeated.options, { ...summary.options, steps: 1 });
  const { base_model_name_or_path: base } = JSON.parse(
    await Deno.readTextFile(folder.at("tuned", "adapter/adapter_config.json")),
  );
  assert.equal(base, "model");
  const { stdout } = await cli(["report", folder.at("tuned"), "--out", folder.at("report.html")]);
  assert.match(stdout, /report\.html/);
});

Deno.test("tune measures the rows of --val-data, which are not held out of the data", async () => {
  using folder = new TemporaryFolder();
  const rows = (await Deno.readTextFile("fixtures/demo_data/heldout.jsonl")).split("\n").slice(0, 3);
  await Deno.writeTextFile(folder.at("val.jsonl"), rows.join("\n"));
  const args = ["tune", "demo", "--steps", "1", "--batch", "1", "--seq", "80", "--limit-rows", "20", "--no-tuning"];
  const given = [...args, "--eval-every", "1", "--val-data", folder.at("val.jsonl")];
  const { data, validation } = await json([...given, "--out", folder.at("out")]);
  assert.deepEqual([data.rows, data.heldOut], [20, 0]);
  assert.ok(validation.best.loss > 0);
  await refused([...given, "--val", "2", "--out", folder.at("other")], "usage", { names: ["--val", "--val-data"] });
});

Deno.test("tune has no options of a cut, and refuses to start without a folder or steps", async () => {
  await refused(["tune", "demo", "--out", "unused", "--sparsity", "0.2"], "usage", { names: "--sparsity" });
  await refused(["tune", "demo"], "usage", { option: "--out" });
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("cut.json"), JSON.stringify({ sparsity: 0.2, steps: 4, units: ["ffn"] }));
  await refused(["tune", "nowhere", "--out", "unused", "--config", folder.at("cut.json")], "usage", {
    value: ["sparsity 0.2", "ffn"],
  });
  await Deno.writeTextFile(folder.at("own.json"), JSON.stringify({ sparsity: 0, steps: 4, rank: 3 }));
  await refused(
    ["tune", "nowhere", "--out", "unused", "--config", folder.at("own.json"), "--data", "x.json"],
    "input",
    {
      names: "nowhere",
    },
  );
  await refused(["tune", "demo", "--out", "unused", "--steps", "0"], "usage", { option: "--steps" });
});
