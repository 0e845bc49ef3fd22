// Stops a run half-way and resumes it with another schedule: cubic for the first half of the steps, then linear to the target.
//
//   deno run -A scripts/examples/other_schedule.ts [steps] [rows]
//
// A resumed run must have the options of its checkpoint, except for those that `mayDiffer` names.
import { loadModel, openDevice, prune, type PruneOptions, readRows } from "compresso";
import { demoData } from "compresso/model";
import { cubic, defineSchedule } from "compresso/schedule";

const steps = Number(Deno.args[0] ?? 20);
using device = await openDevice();
using model = await loadModel("demo", { device });
const { rows } = await readRows(demoData("train"), { limit: Number(Deno.args[1] ?? 4000) });
const folder = await Deno.makeTempDir();
const checkpoint = { path: `${folder}/checkpoint.safetensors`, every: 1000 };
const options = {
  rows,
  sparsity: 0.2,
  steps,
  prefinetune: 0,
  postfinetune: 4,
  batch: 2,
  seq: 96,
  prompt: null,
} as const;

const stop = new AbortController();
const cautious = defineSchedule({ sparsity: cubic({ to: 0.1, warmup: 0.5 }) });
try {
  await follow({ ...options, schedule: cautious, checkpoint, signal: stop.signal }, (step) => {
    if (step === Math.max(1, Math.floor(steps / 2))) stop.abort(new Error("half of the steps are done"));
  });
} catch (error) {
  console.log(`stopped: ${error instanceof Error ? error.message : error}`);
}

const onward = defineSchedule({ sparsity: ({ progress, sparsity }) => 0.1 + (sparsity - 0.1) * (2 * progress - 1) });
await follow({ ...options, schedule: onward, checkpoint: { ...checkpoint, resume: true, mayDiffer: ["schedule"] } });
await Deno.remove(folder, { recursive: true });

async function follow(given: PruneOptions, onStep: (step: number) => void = () => {}): Promise<void> {
  using run = prune(model, given);
  for await (const { stage, step, target, expected } of run) {
    if (stage === "prune") console.log(step, target?.toFixed(4), expected?.toFixed(4));
    onStep(step);
  }
  console.log(`hard sparsity ${run.result().sparsity.hard.toFixed(4)}`);
}
