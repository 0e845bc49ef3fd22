// Export of models to folders of the disk.
import { disk } from "../files/disk.ts";
import { type ExportResult, stageModel } from "../slice/export.ts";
import type { ExportOptions } from "../slice/export_options.ts";
import type { WeightSource } from "../spec/source.ts";

/**
 * Writes a model as `outDir/model/` (Hugging Face) and `outDir/model.gguf` (llama.cpp). Both have the same layout, and
 * omit layers that have neither heads nor FFN columns (see `shallow`; `shallowLora` cuts their LoRA). Both are written
 * completely before either is moved to its place: a failure changes nothing, and `outDir/model` may be the model that
 * is read. A format that cannot represent the model or its tokenizer is skipped, with the reason, if the other format
 * is written.
 *
 * @throws CompressoError("usage") for options, layouts, formats and types that do not exist, for a `ggufDtype` or
 * `generation` without its format, and for layout "uniform" if layers differ.
 * @throws CompressoError("input") if files already exist, or if no format can represent the model.
 * @throws CompressoError("numeric") for weights that the dtype cannot represent.
 * @example
 * ```ts
 * import { exportModel } from "compresso";
 * import { openModelFiles } from "compresso/model";
 *
 * const { source, tokenizer } = await openModelFiles("demo"), out = await Deno.makeTempDir();
 * const { gguf } = await exportModel(source, out, { tokenizer, name: "demo", ggufDtype: "q8_0" });
 * if (gguf === null) throw new Error("no GGUF");
 * ```
 */
export async function exportModel(source: WeightSource, outDir: string, options: ExportOptions): Promise<ExportResult> {
  using staged = await stageModel(source, outDir, { ...options, files: disk });
  await staged.commit();
  return staged.result;
}
