// Prunes a model; files are on the disk of this machine.
import { loadTasks } from "../eval/evaluate.ts";
import { disk } from "../files/disk.ts";
import type { Model } from "../model/model.ts";
import { openScript } from "../schedule/host.ts";
import type { PruneOptions } from "./options/options.ts";
import { pruneOn, type PruneSession, type RunPlatform } from "./session.ts";

/** The disk of this machine, isolated schedule scripts, and tasks. */
export const ON_DISK: RunPlatform = { files: disk, openScript, loadTasks };

/**
 * Prunes a model in the three stages of Compresso: training of LoRA alone, of LoRA and masks along a schedule, and of
 * LoRA with fixed masks. Source: arXiv 2310.05015.
 *
 * Iterating the session runs the steps; afterwards `slice()` cuts the model and `export()` writes it.
 *
 * @throws CompressoError("usage") for options that do not exist or are out of range.
 * @throws CompressoError("input") for a model without tokenizer, or rows without a response.
 * @example
 * ```ts
 * import { loadModel, openDevice, prune, readRows } from "compresso";
 * import { demoData } from "compresso/model";
 *
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * const { rows } = await readRows(demoData("train"));
 * using run = prune(model, { rows, sparsity: 0.2, steps: 2, batch: 1, seq: 96, prompt: null, postfinetune: 0 });
 * for await (const { step, loss, expected } of run) console.log(step, loss, expected);
 * const { parameters } = await run.slice();
 * if (parameters.after >= parameters.before) throw new Error("not smaller");
 * ```
 */
export function prune(model: Model, options: PruneOptions): PruneSession {
  return pruneOn(ON_DISK, model, options);
}
