// Tunes a model for a few steps and writes what tune_losses.py repeats with PEFT: initial LoRA, batches, rates, losses, and the trained LoRA.
import { parseArgs } from "node:util";
import process from "node:process";
import { demoData, loadModel, openDevice, prune, readRows, type StepRecord } from "../../mod.ts";
import { writePeftAdapter } from "../../lib/model/mod.ts";
import { encodeRun } from "../../lib/run/data.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import type { LoraWeights } from "../../lib/spec/lora.ts";

const HELP = `usage: deno run -A scripts/check/tune_losses.ts MODEL --out DIR [options]

Writes DIR/init and DIR/trained (adapters in PEFT's format) and DIR/steps.json.

  --data FILE       rows (those of the demo)
  --steps N         steps of LoRA (20)
  --batch N         sequences per step (4)
  --seq N           tokens per sequence (96)
  --rank N          (8)
  --rate NUMBER     learning rate of the first step (1e-3)
  --rslora          scale by alpha / sqrt(rank)
  --weight-decay N  (0)
  --help            this text`;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: "string" },
    data: { type: "string", default: demoData("train") },
    steps: { type: "string", default: "20" },
    batch: { type: "string", default: "4" },
    seq: { type: "string", default: "96" },
    rank: { type: "string", default: "8" },
    rate: { type: "string", default: "1e-3" },
    rslora: { type: "boolean", default: false },
    "weight-decay": { type: "string", default: "0" },
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

using device = await openDevice();
using model = await loadModel(path, { device, baseDtype: "f32" });
const { rows } = await readRows(options.data, { limit: 400 });
const how = {
  rows,
  sparsity: 0,
  steps: Number(options.steps),
  batch: Number(options.batch),
  seq: Number(options.seq),
  lora: { rank: Number(options.rank), rsLora: options.rslora },
  rates: { lora: Number(options.rate), weightDecay: Number(options["weight-decay"]) },
} as const;
const resolved = resolveOptions(how, model.spec), { lora: config, rates, seed } = resolved;
const start: LoraWeights[] = [], records: StepRecord[] = [];
using run = prune(model, {
  ...how,
  hooks: {
    async beforeStep(handle): Promise<void> {
      if (handle.step === 0) start.push(await handle.lora());
    },
  },
});
for await (const record of run) records.push(record);
const shape = { spec: model.spec, config, baseModel: null, replace: true };
await writePeftAdapter(`${out}/init`, { ...shape, weights: start[0] ?? new Map() });
await writePeftAdapter(`${out}/trained`, { ...shape, weights: run.result().lora.weights });
const batches = encodeRun(model, resolved).makeBatches(seed);
const steps = records.map(({ loss, gradNorm, learningRate }) => {
  const { tokens, labels } = batches.next();
  return { loss, gradNorm, rate: learningRate, tokens: [...tokens], labels: [...labels] };
});
const { clipNorm, weightDecay } = rates;
await Deno.writeTextFile(`${out}/steps.json`, JSON.stringify({ seq: how.seq, clipNorm, weightDecay, steps }));
console.log(`PASS wrote ${steps.length} steps to ${out}`);
