// FLAP's compensation: biases that hold the means of what is cut.
import { applyCompensation, withOutputBiases } from "../../masks/baselines_bias.ts";
import type { ActivationStats } from "../../masks/baselines_activations.ts";
import { Model } from "../../model/model.ts";
import type { MaskValues } from "../../nn/mask_slots.ts";
import { shareWeights, writeBiases } from "../../nn/weights.ts";
import type { WeightSource } from "../../spec/source.ts";

/**
 * The model with biases of o_proj and down_proj, 0 if the model had none, for a run that may compensate later. It
 * shares all other weights with `model` and must not outlive it. Disposing it frees its biases and its own passes.
 */
export async function withCompensation(model: Model): Promise<Model> {
  const { device, weights, tokenizer } = model, source = withOutputBiases(model.source);
  return new Model(device, source, { weights: await shareWeights(device, weights, source), tokenizer });
}

/**
 * Writes the compensation for masks into the biases of a model from {@link withCompensation}. It applies from the next
 * forward pass. Returns the weights to slice with these masks instead of `model.source`.
 */
export async function compensate(
  model: Model,
  { masks, stats }: { readonly masks: MaskValues; readonly stats: ActivationStats },
): Promise<WeightSource> {
  const source = applyCompensation(model.source, { masks, stats });
  await writeBiases(model.device, model.weights, source);
  return source;
}
