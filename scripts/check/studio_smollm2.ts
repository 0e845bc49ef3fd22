// Prunes a real model in the studio, in a headless Chromium, and checks the downloaded GGUF in llama.cpp.
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { demoData } from "../../lib/local/open_model.ts";
import { run } from "./fetched_models.ts";
import { pruneInPage } from "./studio_page.ts";

const HELP = `usage: deno run -A scripts/check/studio_smollm2.ts MODEL.gguf --out FOLDER [options]

Prunes MODEL.gguf in the page of the studio, in headless Chromium on SwiftShader, and saves model.gguf and run.json in
FOLDER. Then llama.cpp loads this GGUF (scripts/check/llama_cpp.mjs, which installs node-llama-cpp): its logits may
differ from ours as much as those of MODEL.gguf do. Prints seconds, and the largest memory of the browser's processes. Exit status 1 if a part fails.

  --out FOLDER      where the files go
  --rows FILE       rows to learn from (the demo's)
  --sparsity X      share to cut (0.2)
  --steps N         steps of the pruning stage (3)
  --seq N           tokens a sequence (64)
  --help            this text`;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: "string" },
    rows: { type: "string" },
    sparsity: { type: "string", default: "0.2" },
    steps: { type: "string", default: "3" },
    seq: { type: "string", default: "64" },
    help: { type: "boolean", default: false },
  },
});
const [model] = positionals, { out } = options;
if (options.help || model === undefined || out === undefined) {
  console.log(HELP);
  process.exit(options.help ? 0 : 2);
}

await Deno.mkdir(out, { recursive: true });
const { adapter, seconds, memory, gguf, run: record } = await pruneInPage({
  model,
  rows: options.rows ?? demoData("train"),
  out,
  choices: {
    sparsity: Number(options.sparsity),
    steps: Number(options.steps),
    batch: 1,
    seq: Number(options.seq),
    baseDtype: "f16",
    writesTexts: false,
  },
  onState: (state) => console.log(`${new Date().toISOString().slice(11, 19)} ${state}`),
});
const megabytes = Object.entries(memory).map(([kind, bytes]) => `${kind} ${Math.round(bytes / 1e6)} MB`);
console.log(`${adapter} ${seconds.toFixed(0)} s; largest resident memory: ${megabytes.join(", ")}`);
const { before, after, sparsity } = JSON.parse(await Deno.readTextFile(record));
console.log(JSON.stringify({ before, after, sparsity }));

// llama.cpp rounds activations to 8 bits for matrices of few bits. What that costs shows in the model as it was.
const dense = await difference(model, "dense"), pruned = await difference(gguf, "pruned");
const isNear = pruned <= dense;
console.log(
  `${isNear ? "PASS" : "FAIL"} llama.cpp's logits differ by ${pruned} of the largest, before the cut by ${dense}`,
);
process.exitCode = isNear ? 0 : 1;

/** Largest difference of a logit between llama.cpp and ours, as part of the largest logit. */
async function difference(path: string, name: string): Promise<number> {
  const here = fileURLToPath(new URL(".", import.meta.url)), logits = join(out ?? "", `${name}_logits.json`);
  await run(Deno.execPath(), ["run", "-A", join(here, "dump_logits.ts"), path, "--out", logits]);
  const told = await run("node", [join(here, "llama_cpp.mjs"), path, "--logits", logits, "--logit-tolerance", "1"]);
  return Number(/\(([\d.e+-]+) of the largest/.exec(told)?.[1] ?? NaN);
}
