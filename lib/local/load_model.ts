// Loading of models from the disk onto the GPU.
import { checkNames } from "../core/check_options.ts";
import { disk } from "../files/disk.ts";
import { openModel } from "../formats/open.ts";
import { LOAD_NAMES, loadModelFrom, type LoadModelOptions, type Model } from "../model/model.ts";
import { modelPath } from "./open_model.ts";

/**
 * Loads a model from a Hugging Face folder, a GGUF file, or a Hub name, `hf:owner/name[@revision][:file]`, which is
 * downloaded first.
 *
 * @throws CompressoError("input") where the files are missing, broken or of an unsupported kind.
 * @throws CompressoError("gpu") where they do not fit.
 * @throws CompressoError("usage") for options that do not exist.
 * @throws CompressoError("numeric") for weights that are not finite, or not in `baseDtype`.
 */
export async function loadModel(path: string, options: LoadModelOptions): Promise<Model> {
  checkNames(options, LOAD_NAMES, { whose: "loadModel" });
  const { source, tokenizer } = await openModel(disk, await modelPath(path));
  return await loadModelFrom(source, { ...options, tokenizer });
}
