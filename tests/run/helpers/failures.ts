// Runs the demo where the run must end with an error.
import { CompressoError, type Model, prune, readRows, type StepRecord } from "../../../mod.ts";
import type { RunOptions } from "../../../lib/run/options/options.ts";
import { demoData } from "../../../lib/model/mod.ts";
import type { Alarm } from "../../../lib/run/mod.ts";

const { rows } = await readRows(demoData("train"), { limit: 64 });
/** Options of a short run, most of it before masks are learned. */
export const BASE = {
  lora: { targets: ["q", "v"] },
  rows,
  sparsity: 0.2,
  steps: 2,
  prefinetune: 6,
  postfinetune: 0,
  batch: 1,
  seq: 80,
  prompt: null,
  packing: false,
} as const;

/** The error that a run ends with, and its records. */
export async function failure(
  model: Model,
  options: Partial<RunOptions> & { readonly sparsity?: number },
): Promise<{ error: CompressoError; records: StepRecord[] }> {
  using run = prune(model, { ...BASE, ...options });
  const records: StepRecord[] = [];
  try {
    for await (const record of run) records.push(record);
  } catch (error) {
    if (error instanceof CompressoError) return { error, records };
    throw error;
  }
  throw new Error("the run did not fail");
}

/** Monitors and steps of alarms. */
export function namesOf(alarms: readonly Alarm[]): string[] {
  return alarms.map(({ monitor, step }) => `${monitor} ${step}`);
}
