// Parts of the benchmark of a GPU machine: planned and measured memory, decoding of several sequences, kernel tests.
import type { Device } from "../../lib/gpu/device.ts";
import { openDryDevice } from "../../lib/gpu/dry.ts";
import { generateMany } from "../../lib/generate/many.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import type { BaseDtype } from "../../lib/nn/weights.ts";
import { adapterOf } from "../../lib/run/memory/plan.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { modelDtypes, type Scale } from "./cases.ts";
import { STEP_SHAPES } from "./step.ts";
import { openStep } from "./training_step.ts";

/** Peak bytes of a model and its training step. */
export interface MemoryRow {
  /** Storage of the weights. */
  readonly name: BaseDtype;
  /** Counted on a dry device with the adapter's limits. */
  readonly planned: number;
  /** Counted on the device. */
  readonly measured: number;
  /** Growth of the GPU's used memory as nvidia-smi reports it; null without it. */
  readonly driver: number | null;
}

/** Plans and runs one step with each dtype. */
export async function measureMemory(
  device: Device,
  source: WeightSource,
  { scale }: { readonly scale: Scale },
): Promise<MemoryRow[]> {
  const rows: MemoryRow[] = [];
  for (const baseDtype of modelDtypes(scale)) {
    using dry = openDryDevice(adapterOf(device));
    const planned = await stepBytes(dry, source, { baseDtype, scale });
    const before = await usedBytes(), base = device.bytes;
    let driver: number | null = null;
    const measured = await stepBytes(device, source, {
      baseDtype,
      scale,
      onPeak: async () => {
        const used = await usedBytes();
        if (used !== null && before !== null) driver = used - before;
      },
    });
    rows.push({ name: baseDtype, planned, measured: measured - base, driver });
  }
  return rows;
}

async function stepBytes(device: Device, source: WeightSource, { baseDtype, scale, onPeak }: {
  readonly baseDtype: BaseDtype;
  readonly scale: Scale;
  readonly onPeak?: () => Promise<void>;
}): Promise<number> {
  using model = await loadModelFrom(source, { device, baseDtype });
  using step = await openStep(model, STEP_SHAPES[scale], { recompute: false });
  await onPeak?.();
  return step.peakBytes;
}

/** Used bytes of the first GPU; null without nvidia-smi. */
async function usedBytes(): Promise<number | null> {
  try {
    const args = ["--query-gpu=memory.used", "--format=csv,noheader,nounits"];
    const { success, stdout } = await new Deno.Command("nvidia-smi", { args, stderr: "null" }).output();
    const [first = ""] = new TextDecoder().decode(stdout).split("\n");
    return success ? Number(first) * 2 ** 20 : null;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/** Greedy decoding of several sequences at once. */
export interface BatchRow {
  readonly sequences: number;
  /** Of all sequences together, by wall clock, prompts not counted. */
  readonly tokensPerSecond: number;
}

const LENGTHS: Readonly<Record<Scale, { readonly prompt: number; readonly tokens: number }>> = {
  full: { prompt: 64, tokens: 128 },
  quick: { prompt: 16, tokens: 16 },
  tiny: { prompt: 2, tokens: 4 },
};

/** Decodes the model in f16. The time of prompts is that of texts of one token, which is subtracted. */
export async function measureBatches(
  device: Device,
  source: WeightSource,
  { scale, counts }: { readonly scale: Scale; readonly counts: readonly number[] },
): Promise<BatchRow[]> {
  const { prompt: length, tokens } = LENGTHS[scale], rows: BatchRow[] = [];
  using model = await loadModelFrom(source, { device, baseDtype: "f16" });
  for (const sequences of counts) {
    const seconds = async (maxTokens: number): Promise<number> => {
      const texts = Array.from({ length: sequences }, (_, text) => ({
        prompt: Array.from({ length }, (_, index) => (index * 7919 + text * 104729 + 5) % source.spec.vocab),
        maxTokens,
      }));
      const start = performance.now();
      await generateMany(model, texts, { sequences, capacity: length + tokens + 1 });
      return (performance.now() - start) / 1000;
    };
    await seconds(tokens + 1); // compiles the kernels
    const first = await seconds(1), all = await seconds(tokens + 1);
    rows.push({ sequences, tokensPerSecond: sequences * tokens / (all - first) });
  }
  return rows;
}

/** A run of test files. */
export interface KernelTests {
  readonly passed: number;
  readonly failed: number;
  /** False where the time ran out. */
  readonly isWhole: boolean;
  /** Last lines, where something failed; "" otherwise. */
  readonly tail: string;
}

/** Exit status of `timeout` where the time ran out. */
const TIMED_OUT = 124;

/** Runs the tests of a folder for at most so many seconds. */
export async function runTests(folder: string, { seconds }: { readonly seconds: number }): Promise<KernelTests> {
  // `timeout` ends the processes of the files too.
  const { code, stdout } = await new Deno.Command("timeout", {
    args: [seconds.toFixed(2), Deno.execPath(), "run", "-A", "--no-lock", "scripts/test.ts", "--no-check", folder],
    env: { NO_COLOR: "1" },
    stdout: "piped",
    stderr: "null",
  }).output();
  const text = new TextDecoder().decode(stdout), isWhole = code !== TIMED_OUT;
  // Each file closes with such a line, and a whole run with one of all files.
  const counts = [...text.matchAll(/^(?:ok|FAILED) \| (\d+) passed.*? \| (\d+) failed/gm)];
  const counted = isWhole ? counts.slice(-1) : counts;
  const sum = (group: number): number => counted.reduce((all, match) => all + Number(match[group]), 0);
  const tail = code === 0 || !isWhole && sum(2) === 0 ? "" : text.split("\n").slice(-40).join("\n");
  return { passed: sum(1), failed: sum(2), isWhole, tail };
}
