// `compresso prune --calibration`: the model's own texts in the folder, a file of others, and what a second command makes of them.
import assert from "node:assert/strict";
import { cli, TemporaryFolder } from "./helpers/cli.ts";

const OPTIONS = [
  "--sparsity",
  "0.2",
  "--steps",
  "2",
  "--postfinetune",
  "0",
  "--batch",
  "1",
  "--seq",
  "24",
  "--no-prompt",
  "--limit-rows",
  "400",
];

Deno.test("prune lets the model write its calibration, goes on with it, and keeps it where it is what a later run reads", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run"), texts = `${out}/calibration.jsonl`;
  const prune = (...more: string[]): ReturnType<typeof cli> =>
    cli(["prune", "demo", ...OPTIONS, "--out", out, ...more]);
  // What a run does that says nothing.
  const own = await prune("--json");
  assert.equal(own.code, 0, own.stderr);
  const { options, inputs } = JSON.parse(own.stdout);
  assert.deepEqual([options.calibration, inputs.calibration], [true, "own"]);
  const written = await Deno.readTextFile(texts);
  assert.equal(written.trimEnd().split("\n").length, 1, "a third of the run's sequences");
  // A finished run is known by its calibration.
  const again = await prune("--calibration", "own", "--resume");
  assert.match(again.stderr, /finished already/);
  assert.match((await prune("--resume")).stderr, /finished already/);
  const without = await prune("--calibration", "none", "--resume");
  assert.equal(without.code, 6);
  assert.match(without.stderr, /calibration: own then, none now/);
  const other = await prune("--calibration", texts, "--resume");
  assert.match(other.stderr, /calibration: own then, \w+ now/);
  // The same texts, now as the file of a run that replaces the first.
  const file = await prune("--calibration", texts, "--overwrite", "--json");
  assert.equal(file.code, 0, file.stderr);
  assert.deepEqual(JSON.parse(file.stdout).masks, JSON.parse(own.stdout).masks);
  assert.equal(await Deno.readTextFile(texts), written, "what is read stays");
  const data = await prune("--data", texts, "--overwrite");
  assert.equal(data.code, 2);
  assert.match(data.stderr, /own calibration texts do not replace the data.*--calibration none/s);
  assert.equal(await Deno.readTextFile(texts), written);
  const plain = await prune("--calibration", "none", "--overwrite");
  assert.equal(plain.code, 0, plain.stderr);
  await assert.rejects(Deno.stat(texts), Deno.errors.NotFound, "texts of a run that is replaced go with it");
  // A run that began without, as those of before did, goes on and is known without.
  const known = await prune("--resume");
  assert.match(known.stderr, /finished already/, known.stderr);
});

Deno.test("a one-shot method that does not train at all has the model's own texts as well", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run"), options = ["--steps", "0", "--batch", "1", "--seq", "24", "--sparsity", "0.2"];
  const { code, stderr } = await cli([
    ...["prune", "demo", "--limit-rows", "400", "--method", "taylor", "--calibration", "own", ...options],
    ...["--no-prompt", "--out", out],
  ]);
  assert.equal(code, 0, stderr);
  assert.equal((await Deno.readTextFile(`${out}/calibration.jsonl`)).trimEnd().split("\n").length, 32);
});

Deno.test("prune writes its texts over no file that is there, and a run that began without goes on so", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run"), texts = `${out}/calibration.jsonl`, mine = '{"text": "Mine."}\n';
  const prune = (...more: string[]): ReturnType<typeof cli> =>
    cli(["prune", "demo", ...OPTIONS, "--prefinetune", "6", "--lora-rate", "1", "--out", out, ...more]);
  await Deno.mkdir(out);
  await Deno.writeTextFile(texts, mine);
  const refused = await prune();
  assert.equal(refused.code, 2);
  assert.match(refused.stderr, /cannot write .*calibration\.jsonl.*the file exists.*--calibration none/s);
  assert.equal(await Deno.readTextFile(texts), mine);
  await Deno.remove(texts);
  // An alarm that stops leaves a checkpoint.
  const stopped = await prune("--calibration", "none", "--on-alarm", "divergence=stop,oscillation=off");
  assert.equal(stopped.code, 5, stopped.stderr);
  const resumed = await prune("--resume", "--on-alarm", "divergence=off,oscillation=off", "--json");
  assert.equal(resumed.code, 0, resumed.stderr);
  const { options, inputs } = JSON.parse(resumed.stdout);
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
  const refused: readonly (readonly [string[], number, RegExp])[] = [
    [["--calibration", folder.at("absent.jsonl")], 3, /absent\.jsonl/],
    [[...named, "--calibration", folder.at("mixed.jsonl")], 3, /mixed\.jsonl.*a row has "body".*line 2/s],
    [["--calibration", "own", "--method", "gradual"], 2, /--calibration is for.*method gradual/s],
    [["--calibration", "own", "--method", "magnitude"], 2, /--calibration is for.*method magnitude/s],
    [["--calibration", "own", "--prior", "0"], 2, /--prior 0/],
    [["--calibration", "own", "--preset", "paper"], 2, /--start constant/],
    [["--kept-masks", "soft"], 2, /--kept-masks/],
  ];
  for (const [more, code, message] of refused) {
    const result = await cli(["prune", "demo", ...OPTIONS, "--out", out, ...more]);
    assert.equal(result.code, code, result.stderr);
    assert.match(result.stderr, message);
    await assert.rejects(Deno.stat(`${out}/run.json`), Deno.errors.NotFound);
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
  assert.match(
    stderr,
    /^calibration: \d examples? of 24 tokens, rows packed.*, 2 empty \(row 2, 5\), 1 broken \(row 3\)/m,
  );
  const { data } = JSON.parse(await Deno.readTextFile(folder.at("run", "run.json")));
  assert.deepEqual([data.empty, data.calibration.empty, data.calibration.broken], [0, 2, 1]);
  assert.deepEqual(data.calibration.lines.empty, [2, 5]);
});
