// What eval refuses before it measures anything: texts that are shorter than a window, and rows and questions that a later model cannot read; and which
// rows it leaves out.
import assert from "node:assert/strict";
import { chooseRows } from "../../cli/verbs/eval/rows.ts";
import { chooseTasks } from "../../cli/verbs/eval/tasks.ts";
import { chooseText } from "../../cli/verbs/eval/text.ts";
import type { Progress } from "../../cli/terminal/progress.ts";
import type { Loaded } from "../../cli/with_model.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { loadModel } from "../../lib/local/load_model.ts";
import { type Model } from "../../lib/model/model.ts";
import { fixture, rejectsWith } from "../formats/files.ts";
import { cli, copyDemo, TemporaryFolder } from "./helpers/cli.ts";

const TEXT = "Sam met the bee. Tom went to Rome. Eva took the axe.\n".repeat(4);

/** Of a task of one's own. */
const FIELDS = { context: "{{asked}}", choices: "places", answer: "right" };

/** Progress that keeps what it is told. */
function listed(phases: string[]): Progress {
  return {
    stages: () => {},
    step: () => {},
    phase: (text) => void phases.push(text),
    note: () => {},
    detail: () => {},
    [Symbol.dispose]: () => {},
  };
}

/** A model as the command has it, without tuning. */
function loadedOf(model: Model, phases: string[]): Loaded {
  const { signal } = new AbortController(), progress = listed(phases);
  return {
    model,
    other: null,
    adapters: {},
    ranks: undefined,
    signal,
    progress,
    listen: () => {},
    tune: async () => {},
  };
}

/** Tokens that a model has for the text. */
async function tokensOf(model: string): Promise<number> {
  const { tokenizer } = await openModelFiles(model);
  assert.ok(tokenizer);
  return tokenizer.encode(TEXT).length;
}

Deno.test("eval --text refuses a text that is shorter than its largest window before it measures a smaller one", async () => {
  using folder = new TemporaryFolder();
  const path = folder.at("text.txt"), count = await tokensOf("demo");
  await Deno.writeTextFile(path, TEXT);
  using device = await openDevice();
  using model = await loadModel("demo", { device });
  const measure = async (options: Parameters<typeof chooseText>[2]): Promise<readonly string[]> => {
    const phases: string[] = [];
    using work = await chooseText(["demo"], path, options);
    const measuring = work.measure("demo", loadedOf(model, phases));
    await measuring.catch((error) => phases.push(String(error)));
    return phases;
  };
  const window = [16, count + 1];
  const [refused = "", ...others] = await measure({ window });
  assert.match(refused, new RegExp(`at least one window of ${count + 1} tokens; got: ${count} tokens`));
  assert.deepEqual(others, []);
  // As many as there are fit, also where characters are left out, and sliding windows may be longer than the text.
  for (const options of [{ window: [16, count] }, { window, stride: 8 }, { window: [4, 8], limitChars: 52 }]) {
    const phases = await measure(options);
    assert.ok(phases.every((text) => text.startsWith("measuring windows of ")), phases.join("; "));
    assert.equal(new Set(phases).size, 2);
  }
});

Deno.test("eval refuses a text that is too short for a later model, and a row beyond its context, before it measures the first", async () => {
  using folder = new TemporaryFolder();
  const path = folder.at("text.txt"), data = fixture("demo_data/heldout.jsonl");
  await Deno.writeTextFile(path, TEXT);
  const [bytes, short] = [folder.at("bytes"), folder.at("short")];
  for (const copy of [bytes, short]) await copyDemo(copy);
  // Without merges a text has more tokens.
  const tokenizer = JSON.parse(await Deno.readTextFile(`${bytes}/tokenizer.json`));
  tokenizer.model.merges = [];
  await Deno.writeTextFile(`${bytes}/tokenizer.json`, JSON.stringify(tokenizer));
  const config = JSON.parse(await Deno.readTextFile(`${short}/config.json`));
  await Deno.writeTextFile(`${short}/config.json`, JSON.stringify({ ...config, max_position_embeddings: 24 }));

  const window = [16, await tokensOf(bytes)], out = folder.at("windows.jsonl");
  await rejectsWith(chooseText([bytes, "demo"], path, { window }), "input", /perplexity, model demo;.* one window/);
  await rejectsWith(chooseText(["demo"], path, { window, out }), "input", /perplexity, model demo;.* one window/);
  assert.ok(!folder.has("windows.jsonl"), "nothing was begun");
  (await chooseText([bytes, "demo"], path, { window: [16] }))[Symbol.dispose]();
  (await chooseText([bytes, "demo"], path, { window, stride: 8 }))[Symbol.dispose]();

  await rejectsWith(
    chooseRows(["demo", short], data, {}),
    "input",
    /cannot score row 1, model .*short;.* at most 25 tokens/,
  );
  (await chooseRows(["demo", bytes], data, { limitRows: 20 }))[Symbol.dispose]();
});

Deno.test("eval --tasks refuses a question that is too long for a model, or for a later one, before it scores another", async () => {
  using folder = new TemporaryFolder();
  const short = folder.at("short"), taskData = fixture("tasks"), refuseLong = true;
  await copyDemo(short);
  const config = JSON.parse(await Deno.readTextFile(`${short}/config.json`));
  await Deno.writeTextFile(`${short}/config.json`, JSON.stringify({ ...config, max_position_embeddings: 12 }));
  const both = ["demo", short];
  await rejectsWith(
    chooseTasks(both, ["openbookqa"], { taskData, refuseLong }),
    "input",
    /openbookqa from .*, model .*short;.* fit the model's 12 tokens/,
  );
  await rejectsWith(chooseTasks(both, ["piqa"], { taskData }), "input", /, model .*short;.* at most the 12 tokens/);
  (await chooseTasks(both, ["openbookqa"], { taskData }))[Symbol.dispose]();

  using device = await openDevice();
  using model = await loadModel(short, { device });
  const phases: string[] = [];
  using work = await chooseTasks([short], ["openbookqa", "piqa"], { taskData });
  await rejectsWith(work.measure(short, loadedOf(model, phases)), "input", /task piqa .* at most the 12 tokens/);
  assert.deepEqual(phases.filter((text) => text.startsWith("scoring")), []);
});

Deno.test("eval --tasks says before which questions the prompt stands, where some have no context", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("mine.json"), JSON.stringify({ name: "mine", ...FIELDS }));
  const rows = ["", "Tom went to", ""].map((asked) => JSON.stringify({ asked, places: ["Rome", "tea"], right: 0 }));
  await Deno.writeTextFile(folder.at("mine.test.jsonl"), rows.join("\n"));
  await Deno.writeTextFile(folder.at("prompt.txt"), "Be small.");
  const tasks = ["--tasks", folder.at("mine.json"), "--task-data", folder.path, "--prompt", folder.at("prompt.txt")];
  const { code, stderr } = await cli(["eval", "demo", ...tasks, "--no-tuning"]);
  assert.equal(code, 0, stderr);
  assert.match(stderr, /the prompt takes \d+ tokens before each question that has a context \(1 of 3\)$/m);
});

Deno.test("eval says which rows it leaves out", async () => {
  using folder = new TemporaryFolder();
  const lines = (await Deno.readTextFile(fixture("demo_data/heldout.jsonl"))).split("\n").slice(0, 3);
  const empty = JSON.stringify({ ...JSON.parse(lines[0] ?? ""), output: "" }), path = folder.at("rows.jsonl");
  await Deno.writeTextFile(path, [lines[0], empty, "", ...lines.slice(1)].join("\n"));
  const { code, stdout, stderr } = await cli(["eval", "demo", "--data", path, "--json"]);
  assert.equal(code, 0, stderr);
  assert.match(stderr, /^compresso: rows of .*rows\.jsonl that are left out: 2 empty \(row 2, 3\)$/m);
  assert.equal(JSON.parse(stdout).n, 3);
});
