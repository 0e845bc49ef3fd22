// Cuts experts of a real model by each method, and measures what remains in bits per byte.
import { parseArgs } from "node:util";
import process from "node:process";
import { loadModelFrom, type Model, openDevice, readRows } from "../../mod.ts";
import { perplexity } from "../../lib/eval/perplexity.ts";
import { exportModel } from "../../lib/local/export_model.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import type { KeptExperts } from "../../lib/nn/experts.ts";
import { chooseExperts, expertMagnitudes } from "../../lib/run/experts/choose.ts";
import { EXPERT_SCORES, type ExpertMethodName, scoresExperts } from "../../lib/run/methods/experts.ts";
import { measureExperts } from "../../lib/slice/expert_use.ts";
import { splitModel, splitSource } from "./expert_model.ts";

const HELP = `usage: deno run -A scripts/check/experts.ts MODEL --calibration FILE --text NAME=FILE … [options]

Makes a dense model into one with 8 experts in each layer (expert_model.ts), checks that with all of them it computes
what the dense one does, cuts shares of the experts by each method, and prints the bits per byte of each text.

  --calibration FILE  rows or a text on which routers are fitted and experts are scored, from its beginning on
  --text NAME=FILE    a text or rows to measure on; rows are read from the end of the file
  --fit TOKENS        tokens for the routers (1536)
  --score TOKENS      tokens for the scores (2048)
  --measure TOKENS    tokens of each text (1024)
  --window TOKENS     tokens of a window (256)
  --seeds LIST        seeds of random (1,2,3)
  --shares LIST       shares to cut (0.25,0.5)
  --out DIR           write the model with experts as a GGUF there
  --help              this text`;

const { values: options, positionals: [path = ""] } = parseArgs({
  allowPositionals: true,
  options: {
    calibration: { type: "string", default: "" },
    text: { type: "string", multiple: true, default: [] },
    fit: { type: "string", default: "1536" },
    score: { type: "string", default: "2048" },
    measure: { type: "string", default: "1024" },
    window: { type: "string", default: "256" },
    seeds: { type: "string", default: "1,2,3" },
    shares: { type: "string", default: "0.25,0.5" },
    out: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
if (options.help || path === "") {
  console.log(HELP);
  process.exit(options.help ? 0 : 2);
}

const COUNT = 8, TOP_K = 4, window = Number(options.window);
const startedAt = performance.now();
const say = (text: string): void => console.log(`${((performance.now() - startedAt) / 1000).toFixed(0)} s  ${text}`);

const device = await openDevice(), { source, tokenizer } = await openModelFiles(path);
if (!tokenizer) throw new Error("the model has no tokenizer");

/** Text of a file: that of its rows, from the first or from the last on. */
async function textOf(file: string, { isReversed = false } = {}): Promise<string> {
  const { rows } = await readRows(file), texts = rows.map((row) => row.kind === "text" ? row.text : "");
  return (isReversed ? texts.toReversed() : texts).join("\n\n");
}

/** The first tokens of a text in windows. */
function windowsOf(text: string, count: number): number[][] {
  // A token stands for at most some ten characters of these texts.
  const ids = [...tokenizer?.encode(text.slice(0, 12 * count)) ?? []].slice(0, count);
  return Array.from({ length: Math.floor(ids.length / window) }, (_, at) => ids.slice(at * window, (at + 1) * window));
}

const calibration = await textOf(options.calibration);
const { source: made, layers } = await splitModel(source, {
  device,
  count: COUNT,
  topK: TOP_K,
  tokens: windowsOf(calibration, Number(options.fit)),
  window,
});
say(`split: ${COUNT} experts of ${(source.spec.layers[0]?.ffn ?? 0) / COUNT} columns, ${TOP_K} for each token`);

await checkParity();
const texts = await Promise.all(options.text.map(async (one) => {
  const [name = "", file = ""] = one.split("=");
  return { name, text: await textOf(file, { isReversed: true }) };
}));

/** Bits per byte of each text. */
async function measure(model: Model, experts?: KeptExperts): Promise<string> {
  const cells: string[] = [];
  for (const { name, text } of texts) {
    const found = await perplexity(model, text, {
      window,
      limitChars: 12 * Number(options.measure),
      maxWindows: Math.floor(Number(options.measure) / window),
      ...experts ? { adapters: { experts } } : {},
    });
    cells.push(`${name} ${found.bitsPerByte?.toFixed(4)}`);
  }
  return cells.join("  ");
}

{
  using dense = await loadModelFrom(source, { device, tokenizer });
  say(`dense: ${await measure(dense)}`);
}
if (options.out !== undefined) {
  await exportModel(made, options.out, { formats: ["gguf"], ggufDtype: "q8_0", tokenizer, name: "split" });
}
using model = await loadModelFrom(made, { device, tokenizer });
say(`${TOP_K} of ${COUNT}: ${await measure(model)}`);
const use = await measureExperts(made, { device, tokens: windowsOf(calibration, Number(options.score)), window });
say(`scored on ${use.tokens} tokens; choices of an expert in a layer, least and most, as part of the even share:`);
say(
  use.layers.map((own) => {
    const even = (own?.tokens ?? []).reduce((sum, count) => sum + count, 0) / COUNT;
    return `${(Math.min(...own?.tokens ?? []) / even).toFixed(1)}–${
      (Math.max(...own?.tokens ?? []) / even).toFixed(1)
    }`;
  }).join(" "),
);
const counts = made.spec.layers.map(({ experts }) => experts?.count ?? 0), seeds = options.seeds.split(",").map(Number);
for (const sparsity of options.shares.split(",").map(Number)) {
  for (const method of Object.keys(EXPERT_SCORES).filter(scoresExperts)) {
    for (const seed of method === "random" ? seeds : [1]) await cut(method, { sparsity, seed });
  }
}

async function cut(
  method: ExpertMethodName,
  { sparsity, seed }: { readonly sparsity: number; readonly seed: number },
): Promise<void> {
  const scores = await EXPERT_SCORES[method]({
    counts,
    seed,
    use: () => Promise.resolve(use),
    magnitude: () => expertMagnitudes(made),
  });
  const kept = chooseExperts(made.spec, scores, { sparsity });
  say(`${100 * sparsity} %, ${method}${method === "random" ? `, seed ${seed}` : ""}: ${await measure(model, kept)}`);
}

/** With all experts, equal router weights and outputs as many times as large, the model is the dense one. */
async function checkParity(): Promise<void> {
  const all = splitSource(
    source,
    layers.map(({ columns, router }) => ({
      columns,
      router: new Float32Array(router.length),
      scale: new Float32Array(COUNT).fill(COUNT),
    })),
    { count: COUNT, topK: COUNT },
  );
  const tokens = windowsOf(calibration, window)[0] ?? [], logits: Float32Array[] = [];
  for (const one of [source, all]) {
    using loaded = await loadModelFrom(one, { device, baseDtype: "f32" });
    logits.push(await loaded.logits(tokens));
  }
  const [dense, split] = logits;
  let most = 0, difference = 0;
  dense?.forEach((value, i) => {
    most = Math.max(most, Math.abs(value));
    difference = Math.max(difference, Math.abs(value - (split?.[i] ?? NaN)));
  });
  say(
    `all ${COUNT} experts: logits differ from the dense model's by ${
      (difference / most).toExponential(1)
    } of the largest`,
  );
  if (!(difference <= 1e-4 * most)) throw new Error("the split model is not the dense one");
}
