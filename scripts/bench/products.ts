// Speed of matrix products on this adapter: `deno run -A scripts/bench/products.ts [filter]`. Owns its shapes and clock; asserts nothing.
//
// On an adapter that is a CPU the figure is GFLOP/s by CPU time: floating-point operations · cores / CPU seconds of this process,
// so that other processes on the machine count little. Elsewhere it is by wall clock.
import { cpuUsage } from "node:process";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { paddedRows, strideOf } from "../../lib/nn/layout.ts";
import { type MatmulOptions, operand, OperandPool, recordLinear, recordMatmul } from "../../lib/nn/linear.ts";
import { createMatrix, writeRows } from "../../lib/nn/matrix.ts";

/** Work of one measured run, so that short products are repeated in one plan. */
const RUN_FLOPS = 2e9;
const RUNS = 7;
/** Tokens, output width, input width: SmolLM2-135M's q and o, up, down; one token and a few, as in generation. */
const SHAPES = [
  [1024, 1024, 1024],
  [1024, 576, 576],
  [1024, 1536, 576],
  [1024, 576, 1536],
  [256, 576, 576],
  [256, 1536, 576],
  [256, 576, 1536],
  [8, 1536, 576],
  [1, 1536, 576],
] as const;
const RANK = 8;

const filter = Deno.args[0] ?? "";
using device = await openDevice();
console.log(
  `${device.facts.description}, GFLOP/s by ${device.facts.isCpu ? "CPU time" : "wall clock"}, median of ${RUNS}`,
);
console.log("product".padEnd(44), "GFLOP/s".padStart(8), "ms".padStart(9), "first ms".padStart(9));
for (const dtype of ["f16", "f32"] as const) {
  for (const direction of ["forward", "backward"] as const) {
    for (const [rows, out, inputs] of SHAPES) {
      const name = `${direction} ${dtype} ${rows} x ${out} x ${inputs}`;
      if (!name.includes(filter)) continue;
      using matrix = createMatrix(device, "w", { rows: out, cols: inputs, dtype });
      writeRows(device, matrix, 0, noise(out * inputs));
      const [width, depth] = direction === "forward" ? [out, inputs] : [inputs, out];
      using x = device.uploadBuffer("x", noise(paddedRows(rows) * strideOf(depth)));
      using y = device.createBuffer("y", 4 * paddedRows(rows) * strideOf(width));
      using pool = new OperandPool(device);
      await report(device, name, 2 * rows * out * inputs, (plan, count) => {
        const view = operand(plan, pool, x, { rows, stride: strideOf(depth) });
        for (let i = 0; i < count; i++) {
          recordLinear(plan, view, matrix, { buffer: y, stride: strideOf(width) }, { rows, direction });
        }
      });
    }
  }
}
for (const [tokens, out, inputs] of [[1024, 576, 576], [1024, 1536, 576]] as const) {
  const strideIn = strideOf(inputs), strideOut = strideOf(out), strideRank = strideOf(RANK);
  using x = device.uploadBuffer("x", noise(tokens * strideIn));
  using dy = device.uploadBuffer("dy", noise(tokens * strideOut));
  using h = device.uploadBuffer("h", noise(tokens * strideRank));
  using weights = device.uploadBuffer("lora", noise(RANK * (inputs + out)));
  using result = device.createBuffer("result", 4 * tokens * Math.max(strideIn, strideOut));
  using pool = new OperandPool(device);
  using setup = new Plan(device);
  const viewX = operand(setup, pool, x, { rows: tokens, stride: strideIn, slot: "x" });
  const viewDy = operand(setup, pool, dy, { rows: tokens, stride: strideOut, slot: "dy" });
  await setup.run();
  const viewH = { buffer: h, stride: strideRank };
  const a = { buffer: weights, stride: inputs }, b = { buffer: weights, offset: RANK * inputs, stride: RANK };
  const target = (stride: number): { buffer: typeof result; stride: number } => ({ buffer: result, stride });
  const products: Readonly<Record<string, MatmulOptions>> = {
    "h = x·Aᵀ": { a: viewX, b: a, c: target(strideRank), m: tokens, n: RANK, k: inputs, transposeB: true },
    "y += h·Bᵀ": { a: viewH, b, c: target(strideOut), m: tokens, n: out, k: RANK, transposeB: true, accumulate: true },
    "dh = dy·B": { a: viewDy, b, c: target(strideRank), m: tokens, n: RANK, k: out },
    "dB = dyᵀ·h": { a: viewDy, b: viewH, c: target(RANK), m: out, n: RANK, k: tokens, transposeA: true },
    "dA = dhᵀ·x": { a: viewH, b: viewX, c: target(inputs), m: RANK, n: inputs, k: tokens, transposeA: true },
    "dx += dh·A": { a: viewH, b: a, c: target(strideIn), m: tokens, n: inputs, k: RANK, accumulate: true },
  };
  for (const [formula, options] of Object.entries(products)) {
    const name = `rank ${RANK} ${formula} ${tokens} x ${out} x ${inputs}`;
    if (!name.includes(filter)) continue;
    await report(device, name, 2 * options.m * options.n * options.k, (plan, count) => {
      for (let i = 0; i < count; i++) recordMatmul(plan, { ...options, alpha: 1e-3, pool });
    });
  }
}

async function report(
  device: Device,
  name: string,
  flops: number,
  record: (plan: Plan, count: number) => void,
): Promise<void> {
  const count = Math.ceil(RUN_FLOPS / flops);
  using plan = new Plan(device);
  let start = performance.now();
  record(plan, count);
  await plan.run();
  const first = performance.now() - start;
  const seconds: number[] = [];
  for (let run = 0; run < RUNS; run++) {
    start = performance.now();
    const before = cpuUsage();
    await plan.run();
    const used = cpuUsage(before);
    const cpu = (used.user + used.system) / 1e6 / navigator.hardwareConcurrency;
    seconds.push((device.facts.isCpu ? cpu : (performance.now() - start) / 1000) / count);
  }
  const median = seconds.sort((p, q) => p - q)[RUNS >> 1] ?? NaN;
  console.log(
    name.padEnd(44),
    (flops / median / 1e9).toFixed(1).padStart(8),
    (median * 1e3).toFixed(3).padStart(9),
    first.toFixed(0).padStart(9),
  );
}

/** Values in [-1, 1) without a pattern that matters. */
function noise(count: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: count }, (_, index) => Math.sin(index * 1.7));
}
