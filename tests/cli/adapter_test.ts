// --adapter of eval, generate and export, on the demo.
import assert from "node:assert/strict";
import { writePeftAdapter } from "../../lib/local/adapter.ts";
import { openSpec } from "../../lib/local/open_model.ts";
import { loraModules, type LoraWeights } from "../../lib/spec/lora.ts";
import { normal } from "../../lib/core/random.ts";
import { cli, json, refused, TemporaryFolder } from "./helpers/cli.ts";

const QUESTION =
  "Answer the question.\nStory: Sam met the bee. Tom went to Rome. Eva took the axe. Nina saw five stars. Where is Tom?\n";

/** Writes LoRA that changes the demo's answers. */
async function writeAdapter(path: string): Promise<void> {
  const spec = await openSpec("demo"), rank = 4, weights: LoraWeights = new Map();
  for (const { layer, projection, shape: [rows, cols] } of loraModules(spec, ["q", "v", "down"])) {
    const draw = (count: number, deviation: number): Float32Array => {
      const stream = weights.size;
      return Float32Array.from({ length: count }, (_, index) => normal(7, stream, index) * deviation);
    };
    weights.set(`lora.${layer}.${projection}.A`, draw(rank * cols, 1 / Math.sqrt(cols)));
    weights.set(`lora.${layer}.${projection}.B`, draw(rows * rank, 0.1));
  }
  const config = { rank, alpha: 4, rsLora: true, targets: ["q", "v", "down"] } as const;
  await writePeftAdapter(path, { spec, config, weights, baseModel: "demo" });
}

Deno.test("eval and generate add an adapter, and export merges it into the same model", async () => {
  using folder = new TemporaryFolder();
  const adapter = folder.at("adapter"), text = folder.at("text.txt");
  await writeAdapter(adapter);
  await Deno.writeTextFile(text, QUESTION.repeat(8));
  const exported = await cli([
    ...["export", "demo", "--adapter", adapter, "--out", folder.at("out"), "--dtype", "f32", "--formats", "hf"],
  ]);
  assert.equal(exported.code, 0, exported.stderr);
  const evaluate = async (model: string, ...more: string[]): Promise<number> => {
    const options = ["--text", text, "--window", "32", "--base-dtype", "f32", "--no-tuning"];
    return (await json(["eval", model, ...options, ...more])).nll;
  };
  const bare = await evaluate("demo"), merged = await evaluate(folder.at("out", "model"));
  const added = await evaluate("demo", "--adapter", `${adapter}/adapter_model.safetensors`);
  assert.ok(Math.abs(added - bare) > 0.1, `the adapter changes the loss of ${bare} by ${added - bare}`);
  assert.ok(Math.abs(added - merged) < 1e-5 * merged, `${added} with the adapter, ${merged} merged`);

  const write = async (model: string, ...more: string[]): Promise<string> => {
    const options = ["--prompt", QUESTION, "--max-tokens", "8", "--base-dtype", "f32"];
    const { code, stdout, stderr } = await cli(["generate", model, ...options, ...more]);
    assert.equal(code, 0, stderr);
    return stdout;
  };
  const answer = await write("demo", "--adapter", adapter);
  assert.equal(answer, await write(folder.at("out", "model")));
  assert.notEqual(answer, "in Rome\n");
});

Deno.test("prune saves its adapter with the rank, the scale and the modules that it was told", async () => {
  using folder = new TemporaryFolder();
  const lora = ["--rank", "2", "--alpha", "12", "--rslora", "--dropout", "0.25", "--lora-targets", "q,down"];
  const run = ["--method", "magnitude", "--steps", "0", "--sparsity", "0.1", "--no-prompt", "--save-adapter"].concat([
    ...["--limit-rows", "40", "--batch", "1", "--seq", "32", "--no-tuning"],
  ]);
  const { code, stderr } = await cli(["prune", "demo", ...run, ...lora, "--out", folder.at("run")]);
  assert.equal(code, 0, stderr);
  const config = JSON.parse(await Deno.readTextFile(folder.at("run", "adapter", "adapter_config.json")));
  assert.deepEqual([config.r, config.lora_alpha, config.use_rslora, config.lora_dropout], [2, 12, true, 0.25]);
  assert.deepEqual([...config.target_modules].sort(), ["down_proj", "q_proj"]);
});

Deno.test("an evaluation goes on with the same adapter alone: its file of weights, scaled as the config beside it says", async () => {
  using folder = new TemporaryFolder();
  const adapter = folder.at("adapter"), text = folder.at("text.txt"), config = `${adapter}/adapter_config.json`;
  await writeAdapter(adapter);
  await Deno.writeTextFile(text, QUESTION.repeat(8));
  const args = ["eval", "demo", "--text", text, "--window", "32", "--out", folder.at("scores.jsonl"), "--no-tuning"];
  args.push("--adapter", `${adapter}/adapter_model.safetensors`);
  for (const status of [0, 0]) assert.equal((await cli(args)).code, status);
  await Deno.writeTextFile(config, (await Deno.readTextFile(config)).replace(/"lora_alpha": *4/, '"lora_alpha": 8'));
  await refused(args, "mismatch", { value: "adapter" });
});

Deno.test("an adapter that is missing or of another kind ends a verb before the model is loaded", async () => {
  using folder = new TemporaryFolder();
  await refused(["generate", "demo", "--prompt", "Tom", "--adapter", folder.at("none")], "input", {
    names: folder.at("none"),
  });
  await writeAdapter(folder.at("adapter"));
  const path = folder.at("adapter", "adapter_config.json");
  const config = JSON.parse(await Deno.readTextFile(path));
  await Deno.writeTextFile(path, JSON.stringify({ ...config, use_dora: true }));
  await refused(["export", "demo", "--adapter", folder.at("adapter"), "--out", folder.at("out")], "input", {
    names: "use_dora",
  });
  assert.equal(folder.has("out"), false);
});
