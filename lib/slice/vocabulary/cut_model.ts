// Cuts the vocabulary of a model that is on a device.
import { Model } from "../../model/model.ts";
import { shareLayers } from "../../nn/weights.ts";
import { cutVocabulary } from "./cut.ts";

/**
 * The model with only the kept tokens, on the same device. It has its own embedding and head, and shares the layers of
 * `model`, which keeps them until the result is disposed. Ids are new, in the order of the old ones.
 *
 * @param kept - Ids that stay, ascending; see `chooseVocabulary`.
 * @throws CompressoError("gpu") if the rows do not fit.
 */
export async function cutModel(
  model: Model,
  kept: Int32Array,
  { signal }: { readonly signal?: AbortSignal | undefined } = {},
): Promise<Model> {
  using pending = new DisposableStack();
  pending.use(model.enter());
  const { source, tokenizer } = cutVocabulary(model, kept);
  const weights = pending.use(await shareLayers(model.device, model.weights, { source, signal }));
  const entered = pending.move();
  return new Model(model.device, source, {
    weights: { ...weights, [Symbol.dispose]: () => entered.dispose() },
    tokenizer,
  });
}
