// Writes a random LoRA adapter for a model in PEFT's format, which reload_peft.py loads.
import { parseArgs } from "node:util";
import process from "node:process";
import { openSpec } from "../../lib/local/open_model.ts";
import { loraModules, type LoraWeights } from "../../lib/spec/lora.ts";
import { PROJECTIONS } from "../../lib/spec/decoder.ts";
import { normal } from "../../lib/core/random.ts";
import { writePeftAdapter } from "../../lib/model/mod.ts";

const HELP = `usage: deno run -A scripts/check/random_adapter.ts MODEL --out DIR [options]

  --out DIR        folder to write
  --rank N         (8)
  --alpha NUMBER   (16)
  --targets LIST   some of q,k,v,o,gate,up,down (all)
  --rslora         scale by alpha / sqrt(rank)
  --seed N         (1)
  --help           this text`;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: "string" },
    rank: { type: "string", default: "8" },
    alpha: { type: "string", default: "16" },
    targets: { type: "string", default: PROJECTIONS.join(",") },
    rslora: { type: "boolean", default: false },
    seed: { type: "string", default: "1" },
    help: { type: "boolean", default: false },
  },
});
const [path] = positionals, { out } = options;
if (options.help) {
  console.log(HELP);
  process.exit(0);
}
if (path === undefined || out === undefined) {
  console.error(HELP);
  process.exit(2);
}

const spec = await openSpec(path), rank = Number(options.rank), seed = Number(options.seed);
const names = options.targets.split(","), targets = PROJECTIONS.filter((projection) => names.includes(projection));
const config = { rank, alpha: Number(options.alpha), rsLora: options.rslora, targets };
const weights: LoraWeights = new Map();
for (const { layer, projection, shape: [rows, cols] } of loraModules(spec, targets)) {
  const draw = (count: number, deviation: number): Float32Array => {
    const stream = weights.size;
    return Float32Array.from({ length: count }, (_, index) => normal(seed, stream, index) * deviation);
  };
  weights.set(`lora.${layer}.${projection}.A`, draw(rank * cols, 1 / Math.sqrt(cols)));
  weights.set(`lora.${layer}.${projection}.B`, draw(rows * rank, 0.5 / Math.sqrt(rank)));
}
await writePeftAdapter(out, { spec, config, weights, baseModel: null });
console.log(
  `PASS wrote ${out}: rank ${rank}, alpha ${config.alpha}, ${targets.join(",")}${options.rslora ? ", rsLoRA" : ""}`,
);
