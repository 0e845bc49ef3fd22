// What a run's end takes: the reading of its result, and the freeing of all that it has on the GPU. Owns both; refuses to say when.
import type { RunPosition } from "./checkpoint.ts";
import type { Model } from "./model.ts";
import type { PruneResult } from "./prune_result.ts";
import type { Ready, RunParts } from "./ready.ts";
import { resultOf } from "./run_parts.ts";

/** What a run at its end has learned; `model` is the one that it was given. */
export async function readResult(
  { trainer, chooser, plannedBytes }: Ready,
  parts: RunParts,
  { model, position }: { readonly model: Model; readonly position: RunPosition },
): Promise<PruneResult> {
  await chooser.settle();
  const { logAlpha, slots } = await trainer.save();
  return resultOf(parts, position, {
    source: chooser.source ?? model.source,
    weights: await trainer.loraWeights(),
    logAlpha,
    slots,
    peakGpuBytes: model.device.peakBytes,
    plannedGpuBytes: plannedBytes,
  });
}

/** Frees the trainer and ends a schedule's process; `model` is the one that the run was given, and stays. */
export function freeRun({ entered, trainer, steerer, model: own }: Ready, model: Model): void {
  trainer[Symbol.dispose]();
  // After the last record, or an error, this does nothing.
  void steerer[Symbol.asyncDispose]();
  if (own !== model) own[Symbol.dispose]();
  entered[Symbol.dispose]();
}
