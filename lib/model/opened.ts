// A model whose weights are read as they are needed.
import type { Model } from "./model.ts";

/** Files and device of a model whose weights are read from its source as they are needed. A loaded model is one too. */
export type OpenedModel = Pick<Model, "device" | "source" | "tokenizer" | "baseDtype">;
