// Times the attention kernels at SmolLM2's shapes: `deno run -A scripts/bench/attention.ts [--seq 256,1024] [--batch 1,4] [--rounds 5]`.
// Variants are run in turns, because other load on the machine moves. Prints the least milliseconds,
// the least CPU milliseconds (where a CPU runs the shaders they tell more than the clock on a loaded machine) and GFLOP/s of causal attention.
import process from "node:process";
import { parseArgs } from "node:util";
import { type Device, type DeviceBuffer, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import {
  type AttentionOptions,
  AttentionScratch,
  type AttentionShape,
  recordAttention,
  recordAttentionBackward,
} from "../../lib/nn/attention.ts";
import { headStride, paddedRows, strideOf } from "../../lib/nn/layout.ts";

/** Recordings in one timed run: waiting for the GPU takes 11 ms on its own. */
const REPEATS = 8;

const { values } = parseArgs({
  options: {
    seq: { type: "string", default: "256,1024" },
    batch: { type: "string", default: "1" },
    rounds: { type: "string", default: "5" },
  },
});
const numbers = (list: string): number[] => list.split(",").map(Number);

using device = await openDevice();
console.log(device.facts.description);
console.log("pass      variant    B     T     first s        ms    cpu ms   GFLOP/s");
for (const batch of numbers(values.batch)) {
  for (const seq of numbers(values.seq)) {
    await bench(device, { batch, seq, heads: 9, kvHeads: 3, headDim: 64 }, { rounds: Number(values.rounds) });
  }
}

interface Entry {
  readonly pass: "forward" | "backward";
  readonly variant: "texture" | "workgroup";
  readonly plan: Plan;
  readonly first: number;
  best: number;
  cpu: number;
}

async function bench(device: Device, shape: AttentionShape, { rounds }: { rounds: number }): Promise<void> {
  using pool = new DisposableStack();
  const scratch = pool.use(new AttentionScratch(device));
  const { batch, seq, heads, kvHeads, headDim } = shape;
  const rows = batch * seq;
  const activation = (count: number): DeviceBuffer => {
    const length = paddedRows(rows) * strideOf(count * headStride(headDim));
    return pool.use(device.uploadBuffer("activation", Float32Array.from({ length }, (_, i) => Math.sin(i * 1.7))));
  };
  const statistic = (): DeviceBuffer => pool.use(device.createBuffer("statistic", heads * rows * 4));
  const buffers = {
    q: activation(heads),
    k: activation(kvHeads),
    v: activation(kvHeads),
    o: activation(heads),
    dO: activation(heads),
    dq: activation(heads),
    dk: activation(kvHeads),
    dv: activation(kvHeads),
    lse: statistic(),
    delta: statistic(),
  };
  const entries: Entry[] = [];
  for (const pass of ["forward", "backward"] as const) {
    for (const variant of ["texture", "workgroup"] as const) {
      const options: AttentionOptions = { variant, scratch };
      const record = pass === "forward" ? recordAttention : recordAttentionBackward;
      const plan = pool.use(new Plan(device));
      for (let i = 0; i < REPEATS; i++) record(plan, shape, { ...buffers, ...options });
      const start = performance.now();
      await plan.run();
      entries.push({ pass, variant, plan, first: (performance.now() - start) / 1000, best: Infinity, cpu: Infinity });
    }
  }
  for (let round = 0; round < rounds; round++) {
    for (const entry of entries) {
      const start = performance.now(), cpu = process.cpuUsage();
      await entry.plan.run();
      const { user, system } = process.cpuUsage(cpu);
      entry.cpu = Math.min(entry.cpu, (user + system) / 1e6 / REPEATS);
      entry.best = Math.min(entry.best, (performance.now() - start) / 1000 / REPEATS);
    }
  }
  for (const { pass, variant, first, best, cpu } of entries) {
    // q·kᵀ and p·v over the causal half; the backward has five products (two of which our kernels do twice).
    const flops = (pass === "forward" ? 2 : 5) * batch * seq * (seq + 1) * heads * headDim;
    const cells = [
      pass.padEnd(9),
      variant.padEnd(10),
      String(batch).padStart(1),
      String(seq).padStart(5),
      first.toFixed(2).padStart(11),
      (best * 1000).toFixed(2).padStart(9),
      (cpu * 1000).toFixed(2).padStart(9),
      (flops / best / 1e9).toFixed(1).padStart(9),
    ];
    console.log(cells.join(" "));
  }
}
