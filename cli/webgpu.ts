// The WebGPU implementation that verbs run on: Deno's own, or that of a module which `--webgpu` names.
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { type CompressoError, refusal } from "../lib/core/errors.ts";
import { isObject } from "../lib/core/guards.ts";
import { type Device, openDevice } from "../lib/gpu/device.ts";
import type { DeviceOptions } from "../lib/gpu/types.ts";

/** Declaration of the option, for the whole program. */
export const WEBGPU_OPTION = [
  "--webgpu <module>",
  "WebGPU implementation instead of Deno's: a module that exports gpu or create(), such as npm:webgpu (Dawn)",
] as const;

let chosen: string | undefined;
let loaded: Promise<GPU> | undefined;

/** Sets the module that this process takes WebGPU from: `--webgpu`. */
export function setWebgpu(module: string | undefined): void {
  [chosen, loaded] = [module, undefined];
}

/** Opens the device by the chosen implementation. */
export async function openDeviceHere(options: Pick<DeviceOptions, "memoryLimit"> = {}): Promise<Device> {
  return await openDevice({ ...options, ...await chosenWebgpu() });
}

/** The chosen implementation; nothing for Deno's. Throws `CompressoError("gpu")` if the module exports no implementation. */
export async function chosenWebgpu(): Promise<Pick<DeviceOptions, "gpu">> {
  return chosen === undefined ? {} : { gpu: await (loaded ??= webgpuOf(chosen)) };
}

/** WebGPU's entry point from a module: a path, or an address that Deno imports. Its code runs with the permissions of this process. */
async function webgpuOf(module: string): Promise<GPU> {
  const address = /^[a-z]{2,}:/.test(module) ? module : pathToFileURL(resolve(module)).href;
  try {
    const { gpu, create }: Readonly<Record<string, unknown>> = await import(address);
    const made: unknown = gpu ?? (typeof create === "function" ? create([]) : undefined);
    if (isGpu(made)) return made;
  } catch (cause) {
    throw unusable(module, cause instanceof Error ? cause.message : String(cause), cause);
  }
  throw unusable(module, "it exports neither");
}

function isGpu(value: unknown): value is GPU {
  return isObject(value) && typeof value.requestAdapter === "function";
}

function unusable(module: string, value: string, cause?: unknown): CompressoError {
  return refusal("gpu", `cannot take WebGPU from ${module}`, {
    rule: "a module that exports gpu, or create() that returns it",
    value,
    fix: "check its name and Deno's permissions: a native one needs --allow-ffi",
    cause,
  });
}
