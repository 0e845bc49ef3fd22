// Loading of models from the disk onto the GPU.
import { checkNames } from "../core/check_options.ts";
import { disk } from "../files/disk.ts";
import { openModel } from "../formats/open.ts";
import { LOAD_NAMES, loadModelFrom, type LoadModelOptions, type Model } from "../model/model.ts";
import { modelPath } from "./open_model.ts";

/**
 * Loads a model onto the GPU, from a Hugging Face folder, a GGUF file, or a Hub name `hf:owner/name[@revision][:file]`,
 * whose files are downloaded first. "demo" is the demo model.
 *
 * @throws CompressoError("input") if the files are missing, broken or of an unsupported kind.
 * @throws CompressoError("gpu") if the weights do not fit into the memory or the limits of the device.
 * @throws CompressoError("usage") for options that do not exist.
 * @throws CompressoError("numeric") for weights that are not finite, or not finite in `baseDtype`.
 * @example
 * ```ts
 * import { loadModel, openDevice } from "compresso";
 * using device = await openDevice();
 * using model = await loadModel("demo", { device, baseDtype: "f32" });
 * const logits = await model.logits([1, 2, 3]); // [3 × vocab]
 * if (logits.length !== 3 * model.spec.vocab) throw new Error("another shape");
 * ```
 */
export async function loadModel(path: string, options: LoadModelOptions): Promise<Model> {
  checkNames(options, LOAD_NAMES, { whose: "loadModel" });
  const { source, tokenizer } = await openModel(disk, await modelPath(path));
  return await loadModelFrom(source, { ...options, tokenizer });
}
