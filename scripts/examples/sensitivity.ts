// Layer-wise sensitivity: measures how much the loss rises when every other FFN column of one layer is masked, and prunes each layer accordingly.
//
//   deno run -A scripts/examples/sensitivity.ts [steps] [rows]
//
// Prints each layer's rise in nats, its target and its FFN columns before and after, then the sparsity of the model. Uses the demo, few rows and few
// steps by default.
import { loadModel, openDevice, prune, readRows } from "compresso";
import { rowPerplexity } from "compresso/evaluate";
import { demoData } from "compresso/model";
import { cubic, defineSchedule } from "compresso/schedule";

const SPARSITY = 0.3;
const steps = Number(Deno.args[0] ?? 30), limit = Number(Deno.args[1] ?? 32);
using device = await openDevice();
using model = await loadModel("demo", { device });
const { layers } = model.spec;
const { rows } = await readRows(demoData("train"));
const sample = rows.slice(0, limit);

/** The loss with masks z of all FFN columns. */
async function lossWith(ffn: Float32Array): Promise<number> {
  return (await rowPerplexity(model, sample, { seq: 128, adapters: { masks: { ffn } } })).nll;
}

const columns = layers.reduce((sum, { ffn }) => sum + ffn, 0);
const whole = await lossWith(new Float32Array(columns).fill(1));
const rises: number[] = [];
let first = 0;
for (const { ffn } of layers) {
  const from = first, end = first += ffn;
  rises.push(
    await lossWith(Float32Array.from({ length: columns }, (_, i) => i >= from && i < end && i % 2 ? 0 : 1)) - whole,
  );
}

// A layer with twice the mean rise is cut two thirds as much as an average one; weights are 1 on average.
const mean = rises.reduce((sum, rise) => sum + Math.max(0, rise), 0) / rises.length;
const raw = rises.map((rise) => 1 / (1 + Math.max(0, rise) / Math.max(mean, 1e-9)));
const weights = raw.map((weight) => weight * raw.length / raw.reduce((sum, one) => sum + one, 0));

const curve = cubic({ to: "target", warmup: 0.4 });
const schedule = defineSchedule({
  sparsity: curve,
  layers: (input) => weights.map((weight) => Math.min(0.95, curve(input) * weight)),
});
using run = prune(model, { rows, sparsity: SPARSITY, steps, batch: 4, seq: 128, prompt: null, schedule });
for await (const { step, loss } of run) {
  if (step % 20 === 0) console.error(`step ${step} of ${run.steps}: loss ${loss}`);
}
const { spec } = await run.slice(), { sparsity } = run.result();
console.log("layer  rise    target  FFN columns");
for (const [layer, rise] of rises.entries()) {
  const target = `${(100 * Math.min(0.95, SPARSITY * (weights[layer] ?? 0))).toFixed(1)} %`;
  const width = `${layers[layer]?.ffn} to ${spec.layers[layer]?.ffn}`;
  console.log(`${String(layer).padEnd(7)}${rise.toFixed(3).padEnd(8)}${target.padEnd(8)}${width}`);
}
console.log(`hard sparsity ${sparsity.hard.toFixed(4)}`);
