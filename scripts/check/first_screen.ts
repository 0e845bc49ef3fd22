// Measures the outcome that the README begins with: the vocabulary of Gemma 3 270M cut for a sample of English text.
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { loadModel, openDevice } from "../../mod.ts";
import { perplexity } from "../../lib/eval/mod.ts";
import { fetchModel, REAL_MODELS, run } from "./fetched_models.ts";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const HELP = `usage: deno run -A scripts/check/first_screen.ts FOLDER --c4 FILE --text FILE [options]

Fetches Gemma 3 270M (Q4_K_M) into FOLDER unless it is there, chooses tokens by all documents of the C4 sample except
the last 100, and cuts the rest of the vocabulary without training. Prints bytes, parameters, seconds, bits per byte before
and after on the last 100 documents and on the other text, and whether both GGUFs have the same greedy text in
llama.cpp. Measured are the first characters of each text, every token once, in windows of 512 that begin 448 tokens apart.
A cut that FOLDER holds is used again.

  --c4 FILE          documents, one JSON object with a field text a line (c4_sample.jsonl)
  --text FILE        text of another kind (wikitext2.valid.txt)
  --limit-chars N    characters of each text to measure (24000)
  --tokens N         greedy tokens of each prompt to compare (24)
  --python PROGRAM   Python with pip (python3)
  --help             this text`;

/** Their greedy continuations are compared. They were written before the first comparison and not changed after. */
const PROMPTS = [
  "The sun rises in the east and",
  "The capital of France is",
  "To bake bread you need",
  "Water boils at",
  "def fibonacci(n):\n",
];
const HELD_OUT = 100, WINDOW = 512, STRIDE = 448;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    c4: { type: "string" },
    text: { type: "string" },
    "limit-chars": { type: "string", default: "24000" },
    tokens: { type: "string", default: "24" },
    python: { type: "string", default: "python3" },
    help: { type: "boolean", default: false },
  },
});
const [given] = positionals, { c4, text } = options, model = REAL_MODELS["gemma3"];
if (options.help || given === undefined || c4 === undefined || text === undefined || model === undefined) {
  console.log(HELP);
  process.exit(options.help ? 0 : 2);
}

const folder = resolve(given), whole = join(folder, model.file), out = join(folder, "first_screen");
await Deno.mkdir(folder, { recursive: true });
await fetchModel(whole, model, options.python);
const documents = (await Deno.readTextFile(c4)).trimEnd().split("\n"), choosing = join(folder, "choosing.jsonl");
await Deno.writeTextFile(choosing, documents.slice(0, -HELD_OUT).join("\n") + "\n");
if (!existsSync(join(out, "run.json"))) await cut();
await files();
await bits();
await texts();

/** Cuts the vocabulary, and says what it took. */
async function cut(): Promise<void> {
  const main = join(HERE, "../../cli/main.ts"), began = performance.now();
  await run(Deno.execPath(), [
    "run",
    "-A",
    main,
    "prune",
    whole,
    "--units",
    "vocab",
    "--vocab-data",
    choosing,
    "--out",
    out,
  ]);
  console.log(
    `seconds      ${((performance.now() - began) / 1000).toFixed(0)}, other work of the machine included`,
  );
}

/** Bytes of the GGUFs, tokens and parameters. */
async function files(): Promise<void> {
  const { size } = await Deno.stat(join(out, "model.gguf")), before = (await Deno.stat(whole)).size;
  const { parameters, vocabulary } = JSON.parse(await Deno.readTextFile(join(out, "run.json")));
  console.log(`bytes        ${before} → ${size} (${percent(size / before)})`);
  console.log(
    `parameters   ${parameters.before} → ${parameters.after} (${percent(parameters.after / parameters.before)})`,
  );
  console.log(`tokens       ${vocabulary.before} → ${vocabulary.after}`);
}

/** Bits per byte of both models on unseen documents and on the other text. */
async function bits(): Promise<void> {
  const unseen = documents.slice(-HELD_OUT).map((line) => String(JSON.parse(line).text)).join("\n");
  const samples = { "C4, unseen": unseen, "other text": await Deno.readTextFile(text ?? "") };
  const found: Record<string, number[]> = {};
  using device = await openDevice();
  for (const path of [whole, join(out, "model.gguf")]) {
    using loaded = await loadModel(path, { device });
    for (const [name, sample] of Object.entries(samples)) {
      const used = Array.from(sample).slice(0, Number(options["limit-chars"])).join("");
      const { nll, tokens } = await perplexity(loaded, used, { window: WINDOW, stride: STRIDE });
      (found[name] ??= []).push(nll * tokens / Math.LN2 / new TextEncoder().encode(used).length);
    }
  }
  for (const [name, [before = NaN, after = NaN]] of Object.entries(found)) {
    const change = percent(after / before - 1);
    console.log(
      `bits a byte  ${name}: ${before.toFixed(4)} → ${after.toFixed(4)} (${after > before ? "+" : ""}${change})`,
    );
  }
}

/** Greedy text of both GGUFs in llama.cpp. */
async function texts(): Promise<void> {
  const prompts = PROMPTS.flatMap((prompt) => ["--prompt", prompt]), count = ["--tokens", options.tokens];
  await run("node", [join(HERE, "same_text.mjs"), whole, join(out, "model.gguf"), ...count, ...prompts]);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
