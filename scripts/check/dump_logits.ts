// Writes our logits of given tokens to a JSON file {tokens, logits}, with which reload_hf.py, reload_peft.py and
// llama_cpp.mjs compare.
import { parseArgs } from "node:util";
import process from "node:process";
import { loadModel, openDevice } from "../../mod.ts";
import { readPeftAdapter } from "../../lib/model/mod.ts";

const HELP = `usage: deno run -A scripts/check/dump_logits.ts MODEL --out FILE [options]

Writes {tokens, logits} of MODEL (folder or GGUF) as JSON; logits are [tokens x vocab], row by row.

  --out FILE         JSON file to write
  --tokens 1,2,3     token ids (default: as many as --count, spread over the vocabulary)
  --count N          how many tokens where --tokens is absent (17)
  --adapter PATH     LoRA in PEFT's format, added without merging
  --base-dtype TYPE  f32 or f16, dtype of the weights on the GPU (f32)
  --help             this text`;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: "string" },
    tokens: { type: "string" },
    count: { type: "string", default: "17" },
    adapter: { type: "string" },
    "base-dtype": { type: "string", default: "f32" },
    help: { type: "boolean", default: false },
  },
});
const [path] = positionals, { out } = options, baseDtype = options["base-dtype"];
if (options.help) {
  console.log(HELP);
  process.exit(0);
}
if (path === undefined || out === undefined || (baseDtype !== "f32" && baseDtype !== "f16")) {
  console.error(HELP);
  process.exit(2);
}

using device = await openDevice();
using model = await loadModel(path, { device, baseDtype });
const tokens = options.tokens?.split(",").map(Number) ?? spread(Number(options.count), model.spec.vocab);
const adapter = options.adapter === undefined ? null : await readPeftAdapter(options.adapter, model.spec);
const lora = adapter && { ...adapter.config, weights: adapter.weights };
const logits = await model.logits(tokens, lora ? { lora } : {});
await Deno.writeTextFile(out, JSON.stringify({ tokens, logits: Array.from(logits) }));
const finite = logits.every(Number.isFinite);
console.log(`${finite ? "PASS" : "FAIL"} wrote ${out}: ${tokens.length} x ${model.spec.vocab} logits`);
process.exitCode = finite ? 0 : 1;

/** Token ids that step through the vocabulary by a ratio near the golden section, so that none repeats soon. */
function spread(count: number, vocab: number): number[] {
  return Array.from({ length: count }, (_, index) => Math.floor(((index + 1) * 0.6180339887) % 1 * vocab));
}
