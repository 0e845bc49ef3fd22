// Runs a GGUF file in llama.cpp (through the npm package node-llama-cpp, on the CPU) and compares perplexity, greedy
// continuations and logits with given figures. It writes only to the folder that it installs the package in.
// deno-lint-ignore-file explicit-function-return-type -- JavaScript has no place to write one
// Plain Node on purpose: the addon is loaded by Node, and nobody who only uses the toolkit needs it.
import { readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { install, VERSION } from "../node_llama_cpp.mjs";

const HELP = `usage: node scripts/check/llama_cpp.mjs MODEL.gguf [options]

Loads MODEL.gguf in llama.cpp: CPU, flash attention off, f32 KV cache. Installs node-llama-cpp ${VERSION} once, without
install scripts, into a folder of its own. Prints one PASS or FAIL line with the figures; exit status 1 on FAIL.

  --reference FILE    JSON of reference.py: compares window NLLs (with --text), prompt tokens and greedy tokens
  --text FILE         UTF-8 text to measure the perplexity on
  --eval FILE         JSON with perplexity and windows, as 'eval --json' prints it: compares the perplexity
  --logits FILE       JSON of dump_logits.ts, {tokens, logits}: compares every logit
  --window N          tokens of a window (512)
  --limit-chars N     characters of the text to use, 0 for all (160000)
  --max-windows N     windows to measure, 0 for all (0)
  --tolerance PERCENT largest difference of perplexity (0.5)
  --logit-tolerance X largest difference of a logit, as part of the largest |logit| (0.001)
  --min-margin X      a continuation may part from the reference at a step whose margin here is below X (0)
  --folder DIR        where node-llama-cpp is or will be installed (a folder under the system's temporary one)
  --help              this text`;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    reference: { type: "string" },
    text: { type: "string" },
    eval: { type: "string" },
    logits: { type: "string" },
    window: { type: "string", default: "512" },
    "limit-chars": { type: "string", default: "160000" },
    "max-windows": { type: "string", default: "0" },
    tolerance: { type: "string", default: "0.5" },
    "logit-tolerance": { type: "string", default: "0.001" },
    "min-margin": { type: "string", default: "0" },
    folder: { type: "string", default: join(tmpdir(), `node-llama-cpp-${VERSION}`) },
    help: { type: "boolean", default: false },
  },
});
if (options.help || positionals.length !== 1) {
  console.log(HELP);
  process.exit(options.help ? 0 : 2);
}

const failures = [], figures = [];
try {
  await check(resolve(positionals[0]));
  if (figures.length === 0) failures.push("nothing was compared: give --reference, --eval with --text, or --logits");
} catch (error) {
  failures.push(error instanceof Error ? error.message : String(error));
}
console.log(failures.length ? `FAIL ${failures.join("; ")} | ${figures.join("; ")}` : `PASS ${figures.join("; ")}`);
process.exit(failures.length ? 1 : 0);

async function check(modelPath) {
  const { getLlama } = await import(pathToFileURL(install(options.folder)).href);
  const llama = await getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: threads() });
  const model = await llama.loadModel({ modelPath, gpuLayers: 0 });
  const read = (path) => JSON.parse(readFileSync(path, "utf8"));
  const reference = options.reference ? read(options.reference) : null;
  const given = options.logits ? read(options.logits) : null;
  const prompts = reference?.generations ?? [];
  const contextSize = Math.max(
    Number(options.window),
    given?.tokens.length ?? 0,
    ...prompts.map((entry) => entry.prompt_tokens.length + entry.tokens.length + 1),
  );
  const context = await model.createContext({
    contextSize,
    batchSize: contextSize,
    flashAttention: false,
    experimentalKvCacheKeyType: "F32",
    experimentalKvCacheValueType: "F32",
    threads: threads(),
  });
  const sequence = context.getSequence();
  if (given) await compareLogits(sequence, given);
  for (const entry of prompts) await compareGeneration(model, sequence, entry);
  if (options.text) {
    await comparePerplexity(model, sequence, { reference, evaluation: options.eval ? read(options.eval) : null });
  }
  await llama.dispose();
}

/** Largest difference of a logit over all positions. */
async function compareLogits(sequence, { tokens, logits }) {
  await sequence.clearHistory();
  const results = await sequence.controlledEvaluate(tokens.map((token) => [token, { generateNext: { logits: true } }]));
  let worst = 0, where = "", largest = 0;
  results.forEach((result, position) => {
    const vocab = logits.length / tokens.length;
    if (result.next.logits.size !== vocab) {
      throw new Error(
        `${logits.length} logits given for ${tokens.length} tokens, but ${result.next.logits.size} in the vocabulary`,
      );
    }
    for (const [token, ours] of result.next.logits) {
      const theirs = logits[position * vocab + token], difference = Math.abs(ours - theirs);
      largest = Math.max(largest, Math.abs(ours));
      if (!(difference <= worst)) [worst, where] = [difference, `position ${position}, token ${token}`];
    }
  });
  const relative = worst / largest;
  figures.push(
    `logits differ by at most ${worst.toExponential(2)} (${relative.toExponential(2)} of the largest, ${where})`,
  );
  if (!(relative <= Number(options["logit-tolerance"]))) failures.push(`logits differ by ${relative.toExponential(2)}`);
}

/** Greedy tokens after a prompt, compared token by token; the continuation may end early at an end token. */
async function compareGeneration(model, sequence, { prompt, prompt_tokens: known, tokens: wanted, ended }) {
  const name = JSON.stringify(prompt);
  // tokenize() leaves BOS out; a reference made with --special-tokens has it.
  const plain = model.tokenize(prompt, true), { bos } = model.tokens;
  const ids = known[0] === bos && plain[0] !== bos ? [bos, ...plain] : plain;
  if (ids.join() !== known.join()) {
    failures.push(`prompt ${name} is tokenised as [${ids}], the reference has [${known}]`);
    return;
  }
  await sequence.clearHistory();
  let input = ids, smallest = Infinity;
  for (let step = 0; step <= wanted.length; step++) {
    const results = await sequence.controlledEvaluate(
      input.map((token, index) =>
        index < input.length - 1
          ? token
          : [token, { generateNext: { logits: { filter: { tokens: [], includeTop: 2 } } } }]
      ),
    );
    const [[best, first], [, second]] = results.at(-1).next.logits;
    // Past its last token the reference ended itself, or was cut at its length: then there is nothing to compare.
    const past = step === wanted.length;
    if (past ? ended && !model.isEogToken(best) : best !== wanted[step]) {
      const expected = past ? "an end token" : wanted[step], margin = first - second;
      const text = `after ${name}, token ${step} is ${best}, the reference has ${expected}`;
      if (margin < Number(options["min-margin"])) figures.push(`${text} (a near tie, margin ${margin.toFixed(4)})`);
      else failures.push(`${text} (margin ${margin.toFixed(4)})`);
      return;
    }
    if (!past) smallest = Math.min(smallest, first - second);
    input = [best];
  }
  figures.push(`${wanted.length} greedy tokens equal after ${name} (smallest margin ${smallest.toFixed(3)})`);
}

/** Perplexity by the protocol of protocol.py, against the same windows of the reference or of an evaluation. */
async function comparePerplexity(model, sequence, { reference, evaluation }) {
  const window = Number(options.window), limit = Number(options["limit-chars"]);
  const text = readFileSync(options.text, "utf8");
  // As transformers and this toolkit do, special tokens are read in texts: WikiText says "<unk>".
  const tokens = model.tokenize(limit ? Array.from(text).slice(0, limit).join("") : text, true);
  const { bos, shouldPrependBosToken } = model.tokens, leading = shouldPrependBosToken && bos !== null ? [bos] : [];
  const own = window - leading.length, available = Math.floor(tokens.length / own);
  const windows = Number(options["max-windows"]) || evaluation?.windows || reference?.windows || available;
  if (windows > available || windows === 0) {
    throw new Error(`the text holds ${available} windows of ${window}, not ${windows}`);
  }
  let total = 0;
  for (let index = 0; index < windows; index++) {
    total += await windowNll(sequence, [...leading, ...tokens.slice(index * own, (index + 1) * own)]);
  }
  const measured = Math.exp(total / windows);
  figures.push(`perplexity ${measured.toFixed(4)} over ${windows} windows of ${window}`);
  const compare = (name, other) => {
    const percent = 100 * (measured / other - 1);
    figures.push(`${name} ${other.toFixed(4)} (${percent >= 0 ? "+" : ""}${percent.toFixed(3)} %)`);
    if (!(Math.abs(percent) <= Number(options.tolerance))) failures.push(`perplexity is ${percent.toFixed(3)} % off`);
  };
  if (evaluation) {
    if (evaluation.windows !== windows) throw new Error(`--eval covers ${evaluation.windows} windows, not ${windows}`);
    compare("evaluation", evaluation.perplexity);
  }
  if (reference) {
    if (reference.window !== window || reference.window_nll.length < windows) {
      throw new Error(`the reference covers ${reference.window_nll.length} windows of ${reference.window}`);
    }
    const sum = reference.window_nll.slice(0, windows).reduce((left, right) => left + right, 0);
    compare("reference", Math.exp(sum / windows));
  }
}

/**
 * Mean NLL of one window: log Σ exp(logit - max) + max - logit of the next token, from llama.cpp's raw logits.
 * `includeMax` gives the largest of the tokens named, not of the vocabulary, hence `includeTop`. The sum comes from the
 * addon in f32 and is about 2e-4 too small for 49,152 terms: a perplexity 0.02 % too low, far below the tolerance.
 */
async function windowNll(sequence, tokens) {
  await sequence.clearHistory();
  const results = await sequence.controlledEvaluate(
    tokens.slice(0, -1).map((token, index) => [token, {
      generateNext: { logits: { filter: { tokens: [tokens[index + 1]], includeTop: 1 } }, totalLogitWeight: true },
    }]),
  );
  let sum = 0;
  results.forEach(({ next }, index) => {
    sum += Math.log(next.totalLogitWeight) + Math.max(...next.logits.values()) - next.logits.get(tokens[index + 1]);
  });
  return sum / (tokens.length - 1);
}

function threads() {
  return Number(process.env.OMP_NUM_THREADS ?? "1");
}
