// Export of models to folders of the disk.
import { disk } from "../files/disk.ts";
import { type ExportResult, stageModel } from "../slice/export.ts";
import type { ExportOptions } from "../slice/export_options.ts";
import type { WeightSource } from "../spec/source.ts";

/**
 * Writes `outDir/model/` (Hugging Face) and `outDir/model.gguf` (llama.cpp). Both have the same layout, and omit layers
 * that have neither heads nor FFN columns (see `shallow`; `shallowLora` cuts their LoRA). Both are written completely
 * before any is moved to its place: a failure changes nothing, and `outDir/model` may be the model that is read. A
 * format that cannot represent the model or its tokenizer is skipped, with the reason, as long as another format is
 * written.
 *
 * @throws CompressoError("usage") for options, layouts, formats and types that do not exist, for a `ggufDtype` or `generation` of a format that is
 * not asked for, and for layout "uniform" where layers differ.
 * @throws CompressoError("input") where files are there already or no format can hold the model.
 * @throws CompressoError("numeric") for weights that the dtype cannot hold.
 */
export async function exportModel(source: WeightSource, outDir: string, options: ExportOptions): Promise<ExportResult> {
  using staged = await stageModel(source, outDir, { ...options, files: disk });
  await staged.commit();
  return staged.result;
}
