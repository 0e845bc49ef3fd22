/**
 * Models on a GPU: opening, logits, losses and gradients, and what they are made of.
 *
 * @module
 */

// The GPU.
export { Device, openDevice } from "../gpu/device.ts";
export type {
  AdapterFacts,
  DeviceBuffer,
  DeviceLimits,
  DeviceOptions,
  DeviceTexture,
  MemoryUse,
  Resource,
} from "../gpu/types.ts";
export { type AdapterOffer, describeAdapter } from "../gpu/adapter.ts";
export type { MemoryShortage } from "../gpu/shortage.ts";
export type { Subgroups } from "../gpu/subgroups.ts";
export type { MatrixUnits } from "../../kernels/buffer/product_matrix.ts";
export type { BufferRange } from "../gpu/read_back.ts";

// Opening.
export { loadModel } from "../local/load_model.ts";
export { loadModelFrom, type LoadModelOptions } from "./model.ts";
export { demoData, openModelFiles } from "../local/open_model.ts";
export type { ModelFiles } from "../formats/open.ts";
export { openSpec } from "../local/open_model.ts";

// The Hugging Face Hub.
export { fetchFromHub, type HubFetched, type HubFetchOptions, type HubProgress } from "../hub/fetch.ts";
export { type HubListener } from "../hub/http.ts";
export { type HubUse } from "../hub/name.ts";
export { type PushOptions, pushToHub } from "../local/push_model.ts";
export { type Uploaded, type UploadOptions } from "../hub/upload.ts";

// The model.
export { type GradientResult, Model } from "./model.ts";
export type { Adapters, GradientInput, LoraInput, ModelCallOptions } from "./input.ts";
export type { TopLogprobs } from "../nn/top_pass.ts";
export type { MaskKind, MaskValues } from "../nn/mask_slots.ts";

// Shapes and weights.
export {
  type DecoderSpec,
  type LayerSpec,
  parameterCount,
  type Projection,
  projectionName,
  type Rope,
  type RopeScaling,
  tensorShapes,
} from "../spec/decoder.ts";
export type { BlockOptions, RowRange, WeightSource } from "../spec/source.ts";
export type { Provenance } from "../spec/provenance.ts";
export type { QuantRows } from "../spec/quant.ts";
export type { NormWeights } from "../nn/norm.ts";
export type { LayerWeights, Weights } from "../nn/weights.ts";
export type { Matrix, MatrixDtype, MatrixPlacement, MatrixShard } from "../nn/products/matrix.ts";
export type { Tokenizer } from "../text/tokenizer.ts";

// LoRA.
export { type LoraConfig, loraScale, type LoraWeights } from "../spec/lora.ts";
export { type PeftAdapter, type PeftWriteOptions } from "../formats/peft/adapter.ts";
export { readPeftAdapter, writePeftAdapter } from "../local/adapter.ts";
