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
import { fixture } from "../formats/files.ts";
import { assertNames, checkRefusal, rejects } from "../refuses.ts";
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
  /** The phases that it went through, and what stopped it. */
  const measure = async (
    options: Parameters<typeof chooseText>[2],
  ): Promise<{ readonly phases: readonly string[]; readonly error: unknown }> => {
    const phases: string[] = [];
    using work = await chooseText(["demo"], path, options);
    const error: unknown = await work.measure("demo", loadedOf(model, phases)).then(() => null, (error) => error);
    return { phases, error };
  };
  const window = [16, count + 1];
  const refused = await measure({ window });
  checkRefusal(refused.error, "input", { value: count, names: count + 1 });
  assert.deepEqual(refused.phases, []);
  // As many as there are fit, also where characters are left out, and sliding windows may be longer than the text.
  for (const options of [{ window: [16, count] }, { window, stride: 8 }, { window: [4, 8], limitChars: 52 }]) {
    const { phases, error } = await measure(options), kinds = [...new Set(phases)];
    assert.equal(error, null);
    assert.equal(kinds.length, 2);
    for (const size of options.window) {
      assert.equal(kinds.filter((text) => text.includes(` ${size}`)).length, 1, `${kinds}`);
    }
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
  const tooLong = { value: await tokensOf("demo"), names: [window[1] ?? NaN, "model demo"] };
  await rejects(chooseText([bytes, "demo"], path, { window }), "input", tooLong);
  await rejects(chooseText(["demo"], path, { window, out }), "input", tooLong);
  assert.ok(!folder.has("windows.jsonl"), "nothing was begun");
  (await chooseText([bytes, "demo"], path, { window: [16] }))[Symbol.dispose]();
  (await chooseText([bytes, "demo"], path, { window, stride: 8 }))[Symbol.dispose]();

  await rejects(chooseRows(["demo", short], data, {}), "input", { names: ["row 1", short, "25 tokens"] });
  (await chooseRows(["demo", bytes], data, { limitRows: 20 }))[Symbol.dispose]();
});

Deno.test("eval --tasks refuses a question that is too long for a model, or for a later one, before it scores another", async () => {
  using folder = new TemporaryFolder();
  const short = folder.at("short"), taskData = fixture("tasks"), refuseLong = true;
  await copyDemo(short);
  const config = JSON.parse(await Deno.readTextFile(`${short}/config.json`));
  await Deno.writeTextFile(`${short}/config.json`, JSON.stringify({ ...config, max_position_embeddings: 12 }));
  const both = ["demo", short];
  await rejects(chooseTasks(both, ["openbookqa"], { taskData, refuseLong }), "input", {
    names: ["openbookqa", short, 12],
  });
  await rejects(chooseTasks(both, ["piqa"], { taskData }), "input", { names: [short, 12] });
  (await chooseTasks(both, ["openbookqa"], { taskData }))[Symbol.dispose]();

  using device = await openDevice();
  using model = await loadModel(short, { device });
  const phases: string[] = [];
  using work = await chooseTasks([short], ["openbookqa", "piqa"], { taskData });
  await rejects(work.measure(short, loadedOf(model, phases)), "input", { names: ["piqa", 12] });
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
  assertNames(stderr, "1 of 3");
});

Deno.test("eval says which rows it leaves out", async () => {
  using folder = new TemporaryFolder();
  const lines = (await Deno.readTextFile(fixture("demo_data/heldout.jsonl"))).split("\n").slice(0, 3);
  const empty = JSON.stringify({ ...JSON.parse(lines[0] ?? ""), output: "" }), path = folder.at("rows.jsonl");
  await Deno.writeTextFile(path, [lines[0], empty, "", ...lines.slice(1)].join("\n"));
  const { code, stdout, stderr } = await cli(["eval", "demo", "--data", path, "--json"]);
  assert.equal(code, 0, stderr);
  assertNames(stderr, [path, "2 empty", "row 2, 3"]);
  assert.equal(JSON.parse(stdout).n, 3);
});
