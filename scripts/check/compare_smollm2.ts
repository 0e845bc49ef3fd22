// Runs our command line on a model, SmolLM2-135M-Instruct by default, and compares perplexity and greedy tokens with
// those of transformers in a JSON file of reference.py.
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import process from "node:process";
import { z } from "zod";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const REFERENCE = `${ROOT}fixtures/golden/smollm2_reference.json`;
const HELP = `usage: deno run -A scripts/check/compare_smollm2.ts MODEL --text FILE [options]

Evaluates and generates with MODEL through our command line, compares with transformers + torch (reference.py), and
prints one PASS or FAIL line; exit status 1 on FAIL.

  MODEL               GGUF of SmolLM2-135M-Instruct, or of the model of --reference
  --text FILE         the text of the reference
  --reference FILE    JSON of reference.py (fixtures/golden/smollm2_reference.json)
  --max-windows N     passed on to eval; 0 for all windows (0)
  --tolerance PERCENT largest difference of perplexity (0.5)
  --skip-eval         compare only the continuations
  --skip-generate     compare only the perplexity
  --help              this text`;

const Reference = z.object({
  window: z.number(),
  text: z.object({ limit_chars: z.number(), sha256: z.string() }),
  window_nll: z.array(z.number()),
  generations: z.array(z.object({ prompt: z.string(), tokens: z.array(z.number()) })),
});
const Evaluation = z.object({ perplexity: z.number(), windows: z.number().int().positive() });
const Generation = z.object({ tokens: z.array(z.number()) });

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    text: { type: "string" },
    reference: { type: "string", default: REFERENCE },
    "max-windows": { type: "string", default: "0" },
    tolerance: { type: "string", default: "0.5" },
    "skip-eval": { type: "boolean", default: false },
    "skip-generate": { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
const [given] = positionals, { text } = options;
if (options.help || given === undefined || text === undefined) {
  console.log(HELP);
  process.exit(options.help ? 0 : 2);
}

const model = resolve(given);
const textPath = resolve(text);
const failures: string[] = [], figures: string[] = [];
try {
  for (const path of [model, textPath, options.reference]) {
    if (!existsSync(path)) throw new Error(`${path} is absent`);
  }
  const reference = Reference.parse(JSON.parse(await Deno.readTextFile(options.reference)));
  if (!options["skip-eval"]) await compareEvaluation(reference);
  if (!options["skip-generate"]) {
    for (const { prompt, tokens } of reference.generations) await compareGeneration(prompt, tokens);
  }
  if (figures.length === 0) failures.push("nothing was compared");
} catch (error) {
  failures.push(error instanceof Error ? error.message : String(error));
}
console.log(failures.length > 0 ? `FAIL ${[...failures, ...figures].join("; ")}` : `PASS ${figures.join("; ")}`);
process.exit(failures.length > 0 ? 1 : 0);

async function compareEvaluation(reference: z.infer<typeof Reference>): Promise<void> {
  const { window, text: { limit_chars: limit, sha256 }, window_nll: nll } = reference;
  const text = Array.from(await Deno.readTextFile(textPath)).slice(0, limit || undefined).join("");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
  if (digest.toHex() !== sha256) throw new Error(`${textPath} is not the text of the reference`);
  const args = ["--text", textPath, "--window", `${window}`];
  if (limit > 0) args.push("--limit-chars", `${limit}`);
  if (options["max-windows"] !== "0") args.push("--max-windows", options["max-windows"]);
  const { perplexity, windows } = Evaluation.parse(await run(["eval", model, ...args, "--json"]));
  const wanted = Number(options["max-windows"]) || nll.length;
  if (windows !== wanted || windows > nll.length) {
    failures.push(`eval measured ${windows} windows, the reference has ${wanted}`);
    return;
  }
  const expected = Math.exp(nll.slice(0, windows).reduce((sum, value) => sum + value, 0) / windows);
  const percent = 100 * (perplexity / expected - 1), signed = `${percent < 0 ? "" : "+"}${percent.toFixed(3)} %`;
  figures.push(
    `perplexity ${perplexity.toFixed(4)} over ${windows} windows, reference ${expected.toFixed(4)} (${signed})`,
  );
  if (!(Math.abs(percent) <= Number(options.tolerance))) failures.push(`perplexity is ${signed} off`);
}

async function compareGeneration(prompt: string, expected: readonly number[]): Promise<void> {
  const args = ["--prompt", prompt, "--max-tokens", "40", "--temperature", "0", "--json"];
  const { tokens } = Generation.parse(await run(["generate", model, ...args]));
  const length = Math.max(tokens.length, expected.length), name = JSON.stringify(prompt);
  const first = Array.from({ length }, (_, index) => index).find((index) => tokens[index] !== expected[index]);
  if (first === undefined) figures.push(`${expected.length} greedy tokens equal after ${name}`);
  else {
    const [ours, theirs] = [tokens[first] ?? "the end", expected[first] ?? "the end"];
    failures.push(`after ${name}, token ${first} is ${ours}, the reference has ${theirs}`);
  }
}

/** Standard output of our command line as JSON: its last line, or all of it. */
async function run(args: readonly string[]): Promise<unknown> {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "cli/main.ts", ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdout: "piped",
    stderr: "piped",
  });
  const { code, stdout, stderr } = await command.output();
  const decoder = new TextDecoder(), output = decoder.decode(stdout).trim();
  if (code !== 0) {
    const reason = decoder.decode(stderr).trim().replaceAll(/\s+/g, " ");
    throw new Error(`'${args[0]}' ended with status ${code}: ${reason}`);
  }
  try {
    return JSON.parse(output);
  } catch {
    return JSON.parse(output.split("\n").at(-1) ?? "");
  }
}
