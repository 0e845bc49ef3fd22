// LoRA adapters in PEFT's format as folders on the disk.
import { disk } from "../files/disk.ts";
import { modelInfo } from "../formats/open.ts";
import { fetchFromHub } from "../hub/fetch.ts";
import { isHubName } from "../hub/name.ts";
import { openPeftAdapter, type PeftAdapter, type PeftWriteOptions, stagePeftAdapter } from "../formats/peft/adapter.ts";
import type { DecoderSpec } from "../spec/decoder.ts";

/**
 * Writes LoRA as a folder that Python's `peft` loads onto the base model: adapter_config.json and adapter_model.safetensors in f32. The folder
 * appears whole or not at all.
 *
 * Throws `CompressoError("usage")` for settings out of range, `CompressoError("input")` if a matrix is missing, has another size or belongs to
 * no target, where the model has no target, and where the folder holds something and not `replace`; `CompressoError("numeric")` for values that
 * are not finite.
 *
 * @example
 * ```ts
 * import { loadModel, openDevice, prune, readRows } from "compresso";
 * import { demoData, writePeftAdapter } from "compresso/model";
 *
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * const { rows } = await readRows(demoData("train"));
 * const lora = { rank: 4, alpha: 8, rsLora: true, targets: ["q", "v"] } as const;
 * using run = prune(model, { rows, sparsity: 0.1, steps: 1, batch: 1, seq: 96, prompt: null, lora });
 * for await (const { loss } of run) console.log(loss);
 * const out = await Deno.makeTempDir();
 * const { weights } = run.result().lora;
 * await writePeftAdapter(`${out}/adapter`, { spec: model.spec, config: lora, weights, baseModel: null });
 * await Deno.remove(out, { recursive: true });
 * ```
 */
export async function writePeftAdapter(dir: string, options: PeftWriteOptions): Promise<void> {
  using staged = await stagePeftAdapter(disk, dir, options);
  await staged.commit();
}

/**
 * Reads an adapter from PEFT or {@link writePeftAdapter} for a model of this shape. `path` is its folder, its
 * .safetensors file (with adapter_config.json in the same folder), or its name on the Hub. Values are widened to f32.
 *
 * If modules differ in rank or alpha (`rank_pattern`, `alpha_pattern`), A and B are padded with zeros to the largest
 * rank, and B is multiplied by the ratio of the scales; the product is the same. A target that some layers lack
 * (`layers_to_transform`) is zero there.
 *
 * Throws `CompressoError("input")` for a file that is missing or broken, an adapter that is not plain LoRA (the key is named), a tensor that is
 * missing, has another shape or belongs to no projection of the model; `CompressoError("numeric")` for values that are not finite.
 *
 * @example
 * ```ts
 * import { loadModel, openDevice } from "compresso";
 * import { readPeftAdapter, writePeftAdapter } from "compresso/model";
 *
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * const { spec } = model, out = await Deno.makeTempDir();
 * const weights = new Map(spec.layers.flatMap(({ heads }, layer) => [
 *   [`lora.${layer}.q.A`, new Float32Array(2 * spec.hidden).fill(0.01)],
 *   [`lora.${layer}.q.B`, new Float32Array(heads * spec.headDim * 2).fill(0.01)],
 * ]));
 * await writePeftAdapter(`${out}/adapter`, { spec, config: { rank: 2, alpha: 4, targets: ["q"] }, weights, baseModel: null });
 *
 * const adapter = await readPeftAdapter(`${out}/adapter`, spec);
 * const logits = await model.logits([5, 6, 7], { lora: { ...adapter.config, weights: adapter.weights } });
 * console.log(logits.length === 3 * spec.vocab);
 * await Deno.remove(out, { recursive: true });
 * ```
 */
export async function readPeftAdapter(path: string, spec: DecoderSpec): Promise<PeftAdapter> {
  const place = await adapterPath(path);
  await modelInfo(disk, place);
  return await openPeftAdapter(disk, place, { spec });
}

/** Local path of an adapter; a Hub name is downloaded first. */
export async function adapterPath(path: string): Promise<string> {
  return isHubName(path) ? (await fetchFromHub(path, { use: "adapter" })).path : path;
}
