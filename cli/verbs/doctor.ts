// `compresso doctor`: checks whether this machine can run the toolkit.
import type { CommandUnknownOpts } from "../packages.ts";
import { refuse } from "../../lib/core/errors.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { type AdapterCheck, checkAdapter } from "../../lib/nn/adapter_check.ts";
import { loadTuning, type TuningFile } from "../../lib/local/tuning_cache.ts";
import { verb } from "../command.ts";
import { formatBytes, print, printJson } from "../terminal/output.ts";
import { tuningPlace } from "../tuning.ts";
import { openDeviceHere } from "../webgpu.ts";

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

const WAITS = 9;

/** Declares the verb. */
export function doctor(): CommandUnknownOpts {
  return verb("doctor", {
    description: "Check that the GPU works: its adapter, its limits, and the results of some small computations.",
    examples: ["doctor", "doctor --json"],
  }).option("--json", "print one JSON object")
    .action(async ({ json }) => await run(json ?? false));
}

async function run(asJson: boolean): Promise<void> {
  using device = await openDeviceHere();
  const checks = await checkAdapter(device);
  const path = tuningPlace(device);
  const report: Report = {
    adapter: device.facts,
    deno: Deno.version.deno,
    system: `${Deno.build.os} ${Deno.build.arch}`,
    limits: Object.fromEntries(LIMITS.map((name) => [name, device.limits[name]])),
    checks,
    waitMilliseconds: await waitLatency(device),
    tuning: path === null ? null : { path, ...await loadTuning(device, path) },
  };
  if (asJson) printJson(report);
  else show(report);
  const wrong = checks.filter((check) => !isRight(check));
  if (wrong.length === 0) return;
  refuse("gpu", "this adapter computes wrong results", {
    rule: "each result agrees with the CPU's within the precision of f32",
    value: wrong.map(({ name, largestError, bound }) => `${name} differs by ${largestError}, above ${bound}`).join(
      "; ",
    ),
    fix:
      "update the GPU driver, or choose another backend with the variable DENO_WEBGPU_BACKEND (vulkan, metal or dx12)",
  });
}

function isRight({ largestError, bound }: AdapterCheck): boolean {
  return largestError <= bound;
}

interface Report {
  readonly adapter: Device["facts"];
  readonly deno: string;
  readonly system: string;
  readonly limits: Readonly<Record<string, number>>;
  /** Small computations against the CPU's. */
  readonly checks: readonly AdapterCheck[];
  readonly waitMilliseconds: number;
  /** The table of tuned kernels; null if there is no place for one. */
  readonly tuning: TuningFile & { readonly path: string } | null;
}

function show({ adapter, deno, system, limits, checks, waitMilliseconds, tuning }: Report): void {
  print(
    `adapter   ${adapter.description}${adapter.isCpu ? " (runs on the CPU: correct, but slow for large models)" : ""}`,
  );
  print(`deno      ${deno} on ${system}`);
  print("checks");
  for (const check of checks) {
    const verdict = isRight(check) ? "right" : "WRONG";
    print(
      `  ${check.name.padEnd(14)}${verdict}, differs from the CPU by at most ${check.largestError.toExponential(1)}`,
    );
  }
  print(`latency   ${waitMilliseconds.toFixed(1)} ms for a round trip to the GPU (median of ${WAITS})`);
  print(`kernels   ${tuningLine(tuning)}`);
  print("limits");
  for (const [name, value] of Object.entries(limits)) {
    const isSize = name.endsWith("Size") && !name.includes("Workgroups");
    print(`  ${name.padEnd(34)}${isSize ? formatBytes(value) : value}`);
  }
}

function tuningLine(tuning: Report["tuning"]): string {
  if (tuning === null) return "run with their defaults, as there is no cache folder";
  switch (tuning.state) {
    case "used":
      return `tuned for ${tuning.entries} products (${tuning.path})`;
    case "absent":
      return "not tuned yet; the first long run measures them";
    case "ignored":
      return `${tuning.path} is ignored: ${tuning.reason}; the next long run replaces it`;
  }
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
