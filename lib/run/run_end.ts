// What a run's end takes: the reading of its result, and the freeing of all that it has on the GPU. Owns both; refuses to say when.
import { CompressoError } from "../core/errors.ts";
import { unpackMasks } from "../nn/mask_slots.ts";
import type { RunPosition } from "./contract.ts";
import type { Model } from "../model/model.ts";
import { brokenAt } from "./monitors/find_cause.ts";
import { overseeEnd, type Oversight } from "./monitors/oversee.ts";
import type { PruneResult } from "./prune_result.ts";
import type { Ready, RunParts } from "./ready.ts";
import { hardLookOf, resultOf } from "./run_parts.ts";
import type { Trainer } from "./trainer.ts";

/**
 * Refuses LoRA that is not finite at a run's end, where a hook may have written it after all steps that the monitor of such numbers sees. Throws
 * `CompressoError("numeric")`.
 */
export async function checkTrained(trainer: Trainer): Promise<void> {
  for (const [name, values] of await trainer.loraWeights()) {
    const element = brokenAt(values);
    if (element < 0) continue;
    throw new CompressoError("numeric", {
      what: "cannot finish the run",
      rule: "LoRA is finite once all steps are done",
      value: `${name}[${element}] is ${values[element]}`,
      fix: "check what hooks give to setLora",
    });
  }
}

/** What monitors make of the masks at a run's end, which hooks may have written since they became hard. */
export async function watchEnd(
  { trainer }: Pick<Ready, "trainer">,
  parts: RunParts,
  { position, oversight }: { readonly position: RunPosition; readonly oversight: Oversight },
): Promise<ReturnType<typeof overseeEnd>> {
  const arrays = await trainer.save(), { table: { spec, layout }, goal } = parts;
  const excess = goal && goal.excess(unpackMasks(spec, layout, arrays.slots));
  return overseeEnd(position, { ...hardLookOf(parts, arrays, position), excess }, oversight);
}

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
