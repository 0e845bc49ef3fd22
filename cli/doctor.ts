// `compresso doctor`: what this machine offers to the toolkit, and what mends it. Owns the checks; refuses to change anything.
import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { CompressoError } from "../lib/errors.ts";
import { type Device, openDevice } from "../lib/gpu/device.ts";
import { Plan } from "../lib/gpu/plan.ts";
import { OperandPool } from "../lib/nn/operand.ts";
import { recordMatmul } from "../lib/nn/matmul.ts";
import { loadTuning, type TuningFile } from "../lib/run/tuning_cache.ts";
import { verb } from "./command.ts";
import { formatBytes, print, printJson } from "./output.ts";
import { tuningPlace } from "./tuning.ts";

/** Limits that decide what fits. */
const LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxStorageTexturesPerShaderStage",
  "maxTextureDimension2D",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
] as const satisfies readonly (keyof GPUSupportedLimits)[];

/** Product sizes no multiple of a tile. */
const M = 37, N = 70, K = 51;
/** An f32 sum of K products of values in [−1, 1), in any order, is at most this far from the exact one. */
const PRODUCT_BOUND = (K + 3) * K * 2 ** -24;
const WAITS = 9;

/** Declares the verb. */
export function doctor(): CommandUnknownOpts {
  return verb("doctor", {
    description: "Check the GPU adapter, its limits and a small product.",
    examples: ["doctor", "doctor --json"],
  }).option("--json", "print one JSON object")
    .action(async ({ json }) => await run(json ?? false));
}

async function run(asJson: boolean): Promise<void> {
  using device = await openDevice();
  const error = await productError(device);
  const path = tuningPlace(device);
  const report: Report = {
    adapter: device.facts,
    deno: Deno.version.deno,
    system: `${Deno.build.os} ${Deno.build.arch}`,
    limits: Object.fromEntries(LIMITS.map((name) => [name, device.limits[name]])),
    product: { shape: [M, K, N], largestError: error, bound: PRODUCT_BOUND },
    waitMilliseconds: await waitLatency(device),
    tuning: path === null ? null : { path, ...await loadTuning(device, path) },
  };
  if (asJson) printJson(report);
  else show(report);
  if (error <= PRODUCT_BOUND) return;
  throw new CompressoError("gpu", {
    what: "this adapter computes wrong products",
    rule: `a product is within ${PRODUCT_BOUND} of the CPU's`,
    value: String(error),
    mend: "update the GPU driver, or choose another adapter",
  });
}

interface Report {
  readonly adapter: Device["facts"];
  readonly deno: string;
  readonly system: string;
  readonly limits: Readonly<Record<string, number>>;
  readonly product: { readonly shape: readonly number[]; readonly largestError: number; readonly bound: number };
  readonly waitMilliseconds: number;
  /** The table of tuned kernels; null where there is no place for one. */
  readonly tuning: TuningFile & { readonly path: string } | null;
}

function show({ adapter, deno, system, limits, product, waitMilliseconds, tuning }: Report): void {
  print(
    `adapter   ${adapter.description}${
      adapter.isCpu ? " (the CPU runs the shaders: correct, and slow for big models)" : ""
    }`,
  );
  print(`deno      ${deno} on ${system}`);
  const verdict = product.largestError <= product.bound ? "right" : "WRONG";
  print(
    `product   ${product.shape.join(" × ")}: ${verdict}, at most ${
      product.largestError.toExponential(1)
    } from the CPU's`,
  );
  print(`wait      ${waitMilliseconds.toFixed(1)} ms for an answer of the GPU (median of ${WAITS})`);
  print(`kernels   ${tuningLine(tuning)}`);
  print("limits");
  for (const [name, value] of Object.entries(limits)) {
    const isSize = name.endsWith("Size") && !name.includes("Workgroups");
    print(`  ${name.padEnd(34)}${isSize ? formatBytes(value) : value}`);
  }
}

function tuningLine(tuning: Report["tuning"]): string {
  if (tuning === null) return "run with their defaults, as there is no cache folder that may be used";
  switch (tuning.state) {
    case "used":
      return `tuned for ${tuning.entries} products (${tuning.path})`;
    case "absent":
      return "not tuned yet; the first long run measures them";
    case "ignored":
      return `${tuning.path} is ignored, as ${tuning.reason}; the next long run replaces it`;
  }
}

/** Largest difference between a small product of the GPU and the CPU's in f64. */
async function productError(device: Device): Promise<number> {
  const a = Float32Array.from({ length: M * K }, (_, index) => Math.sin(index * 12.9898));
  const b = Float32Array.from({ length: K * N }, (_, index) => Math.cos(index * 78.233));
  using bufferA = device.uploadBuffer("a", a);
  using bufferB = device.uploadBuffer("b", b);
  using bufferC = device.createBuffer("c", M * N * 4);
  using pool = new OperandPool(device);
  using plan = new Plan(device);
  recordMatmul(plan, {
    a: { buffer: bufferA, stride: K },
    b: { buffer: bufferB, stride: N },
    c: { buffer: bufferC, stride: N },
    m: M,
    n: N,
    k: K,
    pool,
  });
  await plan.finish().run();
  const got = await device.readFloats(bufferC, M * N);
  let worst = 0;
  for (let row = 0; row < M; row++) {
    for (let column = 0; column < N; column++) {
      let sum = 0;
      for (let k = 0; k < K; k++) sum += (a[row * K + k] ?? NaN) * (b[k * N + column] ?? NaN);
      const distance = Math.abs((got[row * N + column] ?? NaN) - sum);
      if (!(distance <= worst)) worst = Number.isNaN(distance) ? Infinity : distance;
    }
  }
  return worst;
}

/** Median time from a small submit to its answer, in milliseconds. */
async function waitLatency(device: Device): Promise<number> {
  using buffer = device.createBuffer("latency", 16);
  const times: number[] = [];
  for (let wait = 0; wait < WAITS; wait++) {
    const start = performance.now();
    device.write(buffer, new Float32Array(4));
    await device.idle();
    times.push(performance.now() - start);
  }
  return times.sort((first, second) => first - second)[WAITS >> 1] ?? NaN;
}
