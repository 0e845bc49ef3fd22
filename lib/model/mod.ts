/**
 * Import this entry to open a model and run it: logits, losses, gradients, shapes, LoRA, and the Hugging Face Hub.
 *
 * @module
 */

// The GPU.
export { Device, openDevice } from "../gpu/device.ts";
export type { AdapterFacts, DeviceLimits, DeviceOptions } from "../gpu/types.ts";
export { describeAdapter } from "../gpu/adapter.ts";

// Opening.
export { loadModel } from "../local/load_model.ts";
export { loadModelFrom, type LoadModelOptions } from "./model.ts";
export { demoData, openModelFiles, openSpec } from "../local/open_model.ts";
export type { ModelFiles } from "../formats/open.ts";

// The Hugging Face Hub.
export { fetchFromHub, type HubFetchOptions } from "../hub/fetch.ts";
export { type PushOptions, pushToHub } from "../local/push_model.ts";

// The model.
export { type GradientResult, Model } from "./model.ts";
export type { Adapters, GradientInput } from "./input.ts";
export type { MaskValues } from "../nn/mask_slots.ts";

// Shapes and weights.
export {
  type DecoderSpec,
  type LayerSpec,
  parameterCount,
  type Projection,
  projectionName,
  tensorShapes,
} from "../spec/decoder.ts";
export type { WeightSource } from "../spec/source.ts";
export type { Tokenizer } from "../text/tokenizer.ts";

// LoRA.
export { type LoraConfig, loraScale, type LoraWeights } from "../spec/lora.ts";
export { readPeftAdapter, writePeftAdapter } from "../local/adapter.ts";
