// Writes the file of a chosen row by an export or a prune run, and measures it again.
import { disk } from "../files/disk.ts";
import { exportModel } from "../local/export_model.ts";
import { openModelFiles } from "../local/open_model.ts";
import { pruneToFolder, type PruneToFolderOptions } from "../run/prune_to_folder.ts";
import type { RunSummary } from "../run/result.ts";
import type { SessionExportOptions } from "../slice/export_options.ts";
import { cutsAny, runOf, type RunParts } from "./choice.ts";
import { type FitBudget, type FitRow, type MeasuredUse, measureModel, type Workshop } from "./make.ts";

/** A file that was written, measured as the rows of the plan are. */
export interface WrittenFit extends MeasuredUse, Pick<FitRow, "bytes"> {
  /** Path of the GGUF. */
  readonly gguf: string;
  /** What run.json holds; null for an export. */
  readonly summary: RunSummary | null;
}

/** Where and how {@link writeFit} writes. */
export interface WriteOptions
  extends
    Pick<SessionExportOptions, "replace" | "origin" | "command" | "inputs">,
    Pick<RunParts, "steps">,
    Pick<PruneToFolderOptions, "identity" | "onStart" | "onRecord"> {
  /** Folder of the run. */
  readonly out: string;
}

/** Writes the model of a row, trained for some steps after its cut. Throws as `exportModel` and `pruneToFolder` do. */
export async function writeFit(
  { choice }: Pick<FitRow, "choice">,
  workshop: Workshop,
  { out, replace = false, origin, command, inputs, steps, ...run }: WriteOptions,
): Promise<WrittenFit> {
  const { dense, shape, texts, signal } = workshop,
    { names: { exported: name }, bytes } = shape,
    { source, tokenizer } = dense;
  let summary: RunSummary | null = null;
  if (!cutsAny(choice)) {
    const types = bytes === null ? { ggufDtype: "auto" } as const : { ggufSize: bytes };
    await exportModel(source, out, { ...{ name, tokenizer, replace, signal }, ...types, formats: ["gguf"] });
  } else {
    const { export: files, ...chosen } = runOf(choice, shape, { rows: texts.rows, steps });
    const written = { ...files, replace, origin, command, inputs };
    summary = await pruneToFolder(dense, { ...chosen, ...run, signal, out, export: written });
  }
  const gguf = `${out}/model.gguf`, written = await openModelFiles(gguf);
  const measured = await measureModel(written, { ...workshop, budget: withoutLimits(workshop.budget) });
  return { gguf, summary, bytes: (await disk.info(gguf))?.size ?? NaN, ...measured };
}

/** Measures the same, and refuses nothing: the file is there. */
function withoutLimits({ context, memory, tokensPerSecond }: FitBudget): FitBudget {
  return {
    context,
    memory: memory === undefined ? undefined : Infinity,
    tokensPerSecond: tokensPerSecond === undefined ? undefined : 0,
  };
}
