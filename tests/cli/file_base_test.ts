// `--base-dtype file`: each verb computes with the weights of a quantised GGUF as they are in it, and says how they lie on the GPU.
import assert from "node:assert/strict";
import { exportModel } from "../../mod.ts";
import type { GgufWriteType } from "../../lib/formats/gguf/mixes.ts";
import { shortDemo } from "../demo.ts";
import { assertNames } from "../refuses.ts";
import { cli, command, json, refused, TemporaryFolder } from "./helpers/cli.ts";

/** Writes the demo of two layers in blocks of this type, and gives the path of its file. */
async function blocksOf(folder: TemporaryFolder, ggufDtype: GgufWriteType): Promise<string> {
  const { source, tokenizer } = await shortDemo(), out = folder.at(ggufDtype);
  await exportModel(source, out, { formats: ["gguf"], ggufDtype, tokenizer, name: "blocks" });
  return `${out}/model.gguf`;
}

const FILE = ["--base-dtype", "file"], EXACT = ["--base-dtype", "f32"], HALF = ["--base-dtype", "f16"];
const DATA = ["--data", "fixtures/demo_data/heldout.jsonl", "--limit-rows", "40"];
const SMALL = [...DATA, "--batch", "1", "--seq", "48", "--no-prompt", "--no-tuning", "--calibration", "none"];

const PROMPT = "Answer the question. Story:", SAMPLED = ["--max-tokens", "24", "--temperature", "1", "--seed", "3"];

// Two kernels add up the same values in another order: about 1e-7 of a mean loss. Rounding to f16 moves it by 1e-5 or more.
const SAME_LOSS = 1e-6, ROUNDED_LOSS = 5e-6;

for (const type of ["q8_0", "q4_k_m", "q4_1"] as const) {
  Deno.test(`eval, generate and chat of a ${type} file give what the dequantised weights give in f32`, async () => {
    using folder = new TemporaryFolder();
    const model = await blocksOf(folder, type), text = ["--text", "CONTRIBUTING.md", "--max-windows", "2"];
    const loss = async (base: readonly string[]): Promise<number> =>
      (await json(["eval", model, ...text, ...base])).nll;
    const [file, exact, half] = [await loss(FILE), await loss(EXACT), await loss(HALF)];
    assert.ok(Math.abs(file - exact) < SAME_LOSS && Math.abs(half - exact) > ROUNDED_LOSS, `${[file, exact, half]}`);
    const written = async (base: readonly string[]): Promise<string> => {
      const asked = ["generate", model, "--prompt", PROMPT, ...SAMPLED, ...base];
      const { code, stdout, stderr } = await cli(asked);
      assert.equal(code, 0, stderr);
      return stdout;
    };
    assert.equal(await written(FILE), await written(EXACT));
    const answered = async (base: readonly string[]): Promise<string> => {
      const input = "Tom went to Rome. Where is Tom?\nAnd Sam?\n";
      const { code, stdout, stderr } = await cli(["chat", model, "--max-tokens", "12", ...base], { input });
      assert.equal(code, 0, stderr);
      return stdout;
    };
    assert.equal(await answered(FILE), await answered(EXACT));
  });
}

Deno.test("serve answers from the blocks of a file as generate does", async () => {
  using folder = new TemporaryFolder();
  const model = await blocksOf(folder, "q4_1");
  const child = command(["serve", model, "--name", "own", "--port", "0", "--no-tuning", ...FILE]).spawn();
  const lines = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const url = / at (http:\S+)/.exec((await lines.read()).value ?? "")?.[1];
  assert.ok(url);
  const body = JSON.stringify({ model: "own", prompt: PROMPT, max_tokens: 24, temperature: 1, seed: 3 });
  const headers = { "content-type": "application/json" };
  const { choices: [choice] } = await (await fetch(`${url}/completions`, { method: "POST", headers, body })).json();
  child.kill("SIGTERM");
  await Promise.all([child.status, lines.cancel(), child.stderr.cancel()]);
  const made = await json(["generate", model, "--prompt", PROMPT, ...SAMPLED, ...EXACT]);
  assert.ok(choice.text.length > 10);
  assertNames(JSON.stringify(made), JSON.stringify(choice.text).slice(1, -1));
});

Deno.test("prune of blocks trains and cuts, and a run that was stopped and resumed writes the same bits", async () => {
  using folder = new TemporaryFolder();
  const model = await blocksOf(folder, "q4_k_m"),
    stages = ["--steps", "10", "--prefinetune", "1", "--postfinetune", "1"];
  const args = ["prune", model, "--sparsity", "0.2", ...stages, ...SMALL, ...FILE];
  const whole = await json([...args, "--out", folder.at("whole")]);
  assert.equal(whole.inputs.baseDtype, "file");
  assert.ok(whole.parameters.after < whole.parameters.before);

  const out = folder.at("parts"), parts = [...args, "--out", out], child = command(parts).spawn();
  const output = Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  while ((await Deno.readTextFile(`${out}/records.jsonl`).catch(() => "")).split("\n").length <= 2) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  child.kill("SIGINT");
  const { code } = await child.status;
  assert.equal(code, 130, (await output).join());
  // The base decides the numbers, so it cannot change.
  await refused([...parts, "--base-dtype", "f16", "--resume"], "mismatch", { value: "baseDtype: file then, f16 now" });
  const rest = await json([...parts, "--resume"]);
  assert.ok(rest.resumedAfter >= 2);
  assert.deepEqual(Deno.readFileSync(`${out}/model.gguf`), Deno.readFileSync(folder.at("whole", "model.gguf")));
  assert.deepEqual(rest.heldoutLoss, whole.heldoutLoss);
});

Deno.test("tune of blocks says how its weights lie on the GPU, and its merged model is near one trained in f32", async () => {
  using folder = new TemporaryFolder();
  const model = await blocksOf(folder, "q8_0"), args = ["tune", model, "--steps", "2", ...SMALL.slice(0, -2)];
  const { code, stderr } = await cli([...args, ...FILE, "--out", folder.at("file")]);
  assert.equal(code, 0, stderr);
  assertNames(stderr, ["weights: ", "as q8_0"]);
  await json([...args, ...EXACT, "--out", folder.at("exact")]);
  const lossOf = async (name: string): Promise<number> =>
    JSON.parse(await Deno.readTextFile(folder.at(name, "run.json"))).heldoutLoss.after;
  assert.ok(Math.abs(await lossOf("file") - await lossOf("exact")) < 1e-4);
});

Deno.test("plan counts the blocks of a file, says their types, and advises them where f16 does not fit", async () => {
  using folder = new TemporaryFolder();
  const model = await blocksOf(folder, "q4_k_m"), plan = ["plan", model, "--batch", "1", "--seq", "64"];
  const { code, stdout } = await cli([...plan, ...FILE]);
  assert.equal(code, 0);
  const line = stdout.split("\n").find((one) => one.startsWith("weights ")) ?? "";
  const [, of5, of8] = /(\d+) matrices as q5_0, (\d+) matrices as q8_0$/.exec(line) ?? [];
  assert.equal(Number(of5) + Number(of8), 15, line); // 7 of each layer and the embedding
  const [file, half] = [await json([...plan, ...FILE]), await json([...plan, ...HALF])];
  assert.equal(half.held, null);
  assert.ok(file.stages.weights < 0.55 * half.stages.weights, `${file.stages.weights} of ${half.stages.weights}`);
  const between = Math.floor((file.peakBytes + half.peakBytes) / 2);
  const less = await cli([...plan, ...HALF, "--memory-limit", String(between)]);
  assert.equal(less.code, 4);
  assertNames(less.stderr, "--base-dtype file");
});
