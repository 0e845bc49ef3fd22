// `compresso prune --calibration`: the model's own texts in the folder, a file of others, and what a second command makes of them.
import assert from "node:assert/strict";
import type { ErrorCode } from "../../lib/core/errors.ts";
import { assertNames, type Refusal } from "../refuses.ts";
import { assertFinished, cli, json, refused, TemporaryFolder } from "./helpers/cli.ts";

const OPTIONS = [
  ...["--sparsity", "0.2", "--steps", "2", "--prefinetune", "0", "--postfinetune", "0", "--batch", "1", "--seq", "24"],
  ...["--no-prompt", "--limit-rows", "40", "--no-tuning"],
];

Deno.test("prune lets the model write its calibration, goes on with it, and keeps it where it is what a later run reads", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run"), texts = `${out}/calibration.jsonl`, prune = ["prune", "demo", ...OPTIONS, "--out", out];
  // What a run does that says nothing.
  const own = await json(prune);
  assert.deepEqual([own.options.calibration, own.inputs.calibration], [true, "own"]);
  const written = await Deno.readTextFile(texts);
  assert.equal(written.trimEnd().split("\n").length, 1, "a third of the run's sequences");
  // A finished run is known by its calibration.
  await assertFinished([...prune, "--calibration", "own", "--resume"], out);
  await assertFinished([...prune, "--resume"], out);
  await refused([...prune, "--calibration", "none", "--resume"], "mismatch", {
    value: ["calibration: own", "none"],
  });
  await refused([...prune, "--calibration", texts, "--resume"], "mismatch", { value: "calibration: own" });
  // The same texts, now as the file of a run that replaces the first.
  const file = await json([...prune, "--calibration", texts, "--overwrite"]);
  assert.deepEqual(file.masks, own.masks);
  assert.equal(await Deno.readTextFile(texts), written, "what is read stays");
  const { fix } = await refused([...prune, "--data", texts, "--overwrite"], "usage", { value: `--data ${texts}` });
  assertNames(fix ?? "", "--calibration none");
  assert.equal(await Deno.readTextFile(texts), written);
  await json([...prune, "--calibration", "none", "--overwrite"]);
  assert.ok(!folder.has("run", "calibration.jsonl"), "texts of a run that is replaced go with it");
  // A run that began without, as those of before did, goes on and is known without.
  await assertFinished([...prune, "--resume"], out);
});

Deno.test("a one-shot method that does not train at all has the model's own texts as well", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run"), options = ["--steps", "0", "--batch", "12", "--seq", "12", "--sparsity", "0.2"];
  const { inputs } = await json([
    ...["prune", "demo", "--limit-rows", "40", "--method", "taylor", "--calibration", "own", ...options],
    ...["--no-prompt", "--no-tuning", "--out", out],
  ]);
  assert.equal(inputs.calibration, "own");
  assert.equal((await Deno.readTextFile(`${out}/calibration.jsonl`)).trimEnd().split("\n").length, 32);
});

Deno.test("prune writes its texts over no file that is there, and a run that began without goes on so", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run"), texts = `${out}/calibration.jsonl`, mine = '{"text": "Mine."}\n';
  const prune = ["prune", "demo", ...OPTIONS, "--prefinetune", "6", "--lora-rate", "1", "--out", out];
  await Deno.mkdir(out);
  await Deno.writeTextFile(texts, mine);
  const { fix } = await refused(prune, "usage", { names: texts });
  assertNames(fix ?? "", "--calibration none");
  assert.equal(await Deno.readTextFile(texts), mine);
  await Deno.remove(texts);
  // An alarm that stops leaves a checkpoint.
  const stops = ["--on-alarm", "divergence=stop,oscillation=off"],
    goes = ["--on-alarm", "divergence=off,oscillation=off"];
  await refused([...prune, "--calibration", "none", ...stops], "numeric", { names: "divergence" });
  const { options, inputs } = await json([...prune, "--resume", ...goes]);
  assert.deepEqual([options.calibration, inputs.calibration], [false, "none"]);
});

Deno.test("prune refuses calibration that it cannot read or that nothing would look at, before it writes", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run");
  await Deno.writeTextFile(folder.at("texts.txt"), "Some text about nothing.\n");
  const body = '{"body": "Some longer text about nothing at all.", "text": "Nothing."}\n';
  await Deno.writeTextFile(folder.at("bodies.jsonl"), body.repeat(12));
  await Deno.writeTextFile(folder.at("mixed.jsonl"), `${body}{"text": "Nothing."}\n`);
  const named = ["--data", folder.at("bodies.jsonl"), "--text-field", "body"];
  const prune = ["prune", "demo", ...OPTIONS, "--out", out];
  const cases: readonly (readonly [string[], ErrorCode, Refusal])[] = [
    [["--calibration", folder.at("absent.jsonl")], "input", { names: folder.at("absent.jsonl") }],
    [
      [...named, "--calibration", folder.at("mixed.jsonl")],
      "input",
      { names: [folder.at("mixed.jsonl"), "body", "line 2"] },
    ],
    [["--calibration", "own", "--method", "gradual"], "usage", { option: "--calibration", value: "gradual" }],
    [["--calibration", "own", "--method", "magnitude"], "usage", { option: "--calibration", value: "magnitude" }],
    [["--calibration", "own", "--prior", "0"], "usage", { names: "--prior 0" }],
    [["--calibration", "own", "--preset", "paper"], "usage", { names: "--start constant" }],
    [["--kept-masks", "soft"], "usage", { option: "--kept-masks" }],
  ];
  for (const [more, code, refusal] of cases) {
    await refused([...prune, ...more], code, refusal);
    assert.ok(!folder.has("run", "run.json"));
  }
});

Deno.test("prune names the calibration rows that it leaves out", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(
    folder.at("texts.jsonl"),
    '{"text": "One."}\n{"text": ""}\n{"te\n{"text": "Two."}\n{"text": ""}\n',
  );
  const args = [...OPTIONS, "--calibration", folder.at("texts.jsonl"), "--skip-broken", "--out", folder.at("run")];
  const { code, stderr } = await cli(["prune", "demo", ...args]);
  assert.equal(code, 0, stderr);
  const line = stderr.split("\n").find((line) => line.startsWith("calibration: ")) ?? "";
  assertNames(line, ["24 tokens", "2 empty", "row 2, 5", "1 broken", "row 3"]);
  const { data } = JSON.parse(await Deno.readTextFile(folder.at("run", "run.json")));
  assert.deepEqual([data.empty, data.calibration.empty, data.calibration.broken], [0, 2, 1]);
  assert.deepEqual(data.calibration.lines.empty, [2, 5]);
});
