/**
 * Compresso: structural pruning of large language models on WebGPU.
 *
 * @module
 */
export * from "./lib/errors.ts";
export { type AdapterFacts, Device, type DeviceOptions, openDevice } from "./lib/gpu/device.ts";
export { loadModel, loadModelFrom, Model } from "./lib/run/model.ts";
