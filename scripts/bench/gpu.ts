// The benchmark of a GPU machine, in bounded time: see gpu.sh. Parts that find no time left are left out and named.
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openDevice } from "../../lib/gpu/device.ts";
import type { Scale } from "./cases.ts";
import { short, si } from "./chart.ts";
import {
  type BatchRow,
  type KernelTests,
  measureBatches,
  measureMemory,
  type MemoryRow,
  runTests,
} from "./gpu_parts.ts";
import { measureKernels } from "./kernels.ts";
import { clockOf, commit, describeMachine } from "./machine.ts";
import { measureF16Peak, measurePeaks } from "./peaks.ts";
import { createPeers } from "./peers.ts";
import { randomModel, specOf } from "./random_model.ts";
import { report, table } from "./report.ts";
import { measureStep } from "./step.ts";
import { type BenchResults, MODELS, STREAM_BYTES } from "./suite.ts";
import type { Effort } from "./timing.ts";

/** What gpu.json holds: the suite's results and these. */
interface GpuResults extends BenchResults {
  /** Multiply-adds of f16 a second; null where the adapter computes none. */
  readonly f16Flops: number | null;
  readonly memory?: readonly MemoryRow[];
  readonly batches?: readonly BatchRow[];
  readonly tests?: KernelTests;
  /** Parts that found no time left. */
  readonly leftOut: readonly string[];
}

const EFFORTS: Readonly<Record<Scale, Effort>> = {
  full: { repeats: 5, repeatSeconds: 0.05 },
  quick: { repeats: 3, repeatSeconds: 0.05 },
  tiny: { repeats: 2, repeatSeconds: 0.002 },
};
const SEQUENCES = [1, 8, 32];

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      out: { type: "string", default: "out/gpu" },
      minutes: { type: "string", default: "10" },
      scale: { type: "string", default: "full" },
      "no-peers": { type: "boolean", default: false },
      "no-tests": { type: "boolean", default: false },
    },
  });
  const scale = (["full", "quick", "tiny"] as const).find((word) => word === values.scale) ?? "full";
  const end = performance.now() + 60_000 * Number(values.minutes), effort = EFFORTS[scale];
  const secondsLeft = (): number => (end - performance.now()) / 1000;
  const log = (line: string): void => console.error(`${secondsLeft().toFixed(0).padStart(4)} s left  ${line}`);
  await Deno.mkdir(values.out, { recursive: true });

  using device = await openDevice();
  const clock = clockOf(device);
  log("peaks");
  const peaks = await measurePeaks(device, { clock, effort, bytes: STREAM_BYTES[scale] });
  const machine = await describeMachine(device, { clock, peaks });
  const peers = createPeers({
    enabled: !values["no-peers"],
    only: ["torch"],
    torchDevice: device.facts.isCpu ? "cpu" : "cuda",
    limitSeconds: secondsLeft() / 4,
  });
  const spec = specOf(MODELS[scale]), source = randomModel(spec, { seed: 1 });
  const common = { machine, effort, scale, peers, log, filter: "products", source };
  const leftOut: string[] = [];
  let results: GpuResults = {
    format: 1,
    date: new Date().toISOString(),
    commit: await commit(),
    options: { parts: ["kernels", "step", "decode"], scale, model: "random weights", peers: !values["no-peers"] },
    machine,
    problems: peers.problems,
    f16Flops: await measureF16Peak({ clock, effort }),
    leftOut,
  };
  const parts: Readonly<Record<string, () => Promise<Partial<GpuResults>>>> = {
    "products": async () => ({ kernels: await measureKernels(device, common) }),
    "memory": async () => ({ memory: await measureMemory(device, source, { scale }) }),
    "decoding": async () => ({ batches: await measureBatches(device, source, { scale, counts: SEQUENCES }) }),
    "step": async () => ({
      step: await measureStep(device, { ...common, name: "random weights", dtypes: ["f16"] }),
    }),
    ...(values["no-tests"]
      ? {}
      : { "tests/kernels": async () => ({ tests: await runTests("tests/kernels", { seconds: secondsLeft() - 5 }) }) }),
  };
  const waiting = new Set(Object.keys(parts));
  const conclude = (): number => {
    leftOut.push(...waiting);
    const text = textOf(results);
    Deno.writeTextFileSync(join(values.out, "gpu.json"), JSON.stringify(results, null, 1));
    Deno.writeTextFileSync(join(values.out, "gpu.txt"), text + "\n");
    console.log(text);
    return leftOut.length > 0 || (results.tests?.failed ?? 0) > 0 ? 1 : 0;
  };
  // A part that takes too long ends the command; what was measured before it is written.
  const timer = setTimeout(() => Deno.exit(conclude()), 1000 * Math.max(0, secondsLeft()));
  for (const [name, work] of Object.entries(parts)) {
    log(name);
    results = { ...results, ...await work() };
    waiting.delete(name);
  }
  clearTimeout(timer);
  Deno.exitCode = conclude();
}

function textOf(results: GpuResults): string {
  const { f16Flops, memory = [], batches = [], tests, leftOut } = results;
  return [
    report(results),
    `f16: ${
      f16Flops === null ? "the adapter computes none" : `${si(f16Flops, "FLOP/s")} of multiply-adds in registers`
    }`,
    table(
      ["memory of a step", "planned", "measured", "driver"],
      memory.map(({ name, planned, measured, driver }) => [
        name,
        si(planned, "B"),
        si(measured, "B"),
        driver === null ? "–" : si(driver, "B"),
      ]),
    ),
    table(
      ["decoding", "tokens/s", "of one sequence"],
      batches.map(({ sequences, tokensPerSecond }) => [
        `${sequences} at once`,
        short(tokensPerSecond),
        `${(tokensPerSecond / (batches[0]?.tokensPerSecond ?? NaN)).toFixed(2)}×`,
      ]),
    ),
    ...(tests
      ? [`tests/kernels: ${tests.passed} passed, ${tests.failed} failed${tests.isWhole ? "" : ", cut short"}`]
      : []),
    ...(tests?.tail ? [tests.tail] : []),
    ...(leftOut.length > 0 ? [`no time was left for: ${leftOut.join(", ")}`] : []),
  ].join("\n\n");
}

if (import.meta.main) await main();
