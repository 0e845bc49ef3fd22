// Runs the demo model with common options, for tests of the training loop.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import {
  type Device,
  loadModelFrom,
  type Model,
  prune,
  type PruneResult,
  readRows,
  type StepRecord,
} from "../../../mod.ts";
import type { RunOptions } from "../../../lib/run/options/options.ts";
import { demoData, openModelFiles } from "../../../lib/model/mod.ts";
import type { ModelFiles } from "../../../lib/formats/open.ts";
import type { RunHandle } from "../../../lib/run/mod.ts";
import { shortDemo } from "../../demo.ts";
import { sharedDevice } from "../../device.ts";

const { rows } = await readRows(demoData("train"), { limit: 64 });
/** Of a quotient of whole numbers, where the target is met exactly. */
export const ROUNDING = 1e-12;
/** Options of a short run. */
export const BASE = {
  rows,
  sparsity: 0.2,
  steps: 8,
  prefinetune: 1,
  postfinetune: 2,
  batch: 1,
  seq: 80,
  prompt: null,
} as const;

/** Rows on which methods that measure activations do so: by default they read 128 sequences, most of such a short run. */
export const FEW = { calibration: rows.slice(0, 8) } as const;

type DemoWork = (parts: { model: Model; device: Device }) => Promise<void>;

/** Gives the demo anew, on the device of the test's file. */
export async function withDemo(work: DemoWork): Promise<void> {
  await withModel(await openModelFiles("demo"), work);
}

/** Gives a demo of two layers anew, which trains in less than half the time. */
export async function withShortDemo(work: DemoWork): Promise<void> {
  await withModel(await shortDemo(), work);
}

async function withModel({ source, tokenizer }: ModelFiles, work: DemoWork): Promise<void> {
  const device = await sharedDevice();
  using model = await loadModelFrom(source, { device, tokenizer });
  await work({ model, device });
}

/** Runs to the end. */
export async function drive(
  model: Model,
  options: Partial<RunOptions> & { readonly sparsity?: number },
): Promise<{ records: StepRecord[]; result: PruneResult; steps: number }> {
  using run = prune(model, { ...BASE, ...options });
  const records: StepRecord[] = [];
  for await (const record of run) records.push(record);
  return { records, result: run.result(), steps: run.steps };
}

/** A hash of whatever of a run depends on neither clock nor what was freed before. */
export function bitsOf({ records, result }: { records: StepRecord[]; result: PruneResult }): string {
  const steps = records.map(({ tokensPerSecond: _speed, gpuBytes: _bytes, ...record }) => record);
  const arrays = [...Object.values(result.masks), ...result.lora.weights.values(), result.logAlpha];
  const text = JSON.stringify([steps, result.sparsity, arrays.map((values) => [...values as Float32Array])]);
  return createHash("sha256").update(text).digest("hex");
}

/** Runs until step `at`, or into the step after so many, stops there, and goes on in a new run. */
export async function interrupted(
  model: Model,
  options: Partial<RunOptions> & { readonly sparsity?: number },
  at: number | { readonly within: number },
): Promise<ReturnType<typeof drive>> {
  const folder = await Deno.makeTempDir();
  try {
    const checkpoint = { path: `${folder}/checkpoint.safetensors`, every: 1000 };
    const controller = new AbortController(), { signal } = controller;
    const beforeStep = async (run: RunHandle): Promise<void> => {
      await options.hooks?.beforeStep?.(run);
      if (typeof at !== "number" && run.step === at.within) controller.abort(new Error("enough"));
    };
    const seen: StepRecord[] = [];
    await assert.rejects(async () => {
      using run = prune(model, { ...BASE, ...options, checkpoint, signal, hooks: { ...options.hooks, beforeStep } });
      for await (const record of run) {
        seen.push(record);
        if (record.step === at) controller.abort(new Error("enough"));
      }
    }, /enough/);
    const rest = await drive(model, { ...options, checkpoint: { ...checkpoint, resume: true } });
    return { ...rest, records: [...seen, ...rest.records] };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
