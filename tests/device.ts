// The shared device of a test file. Tests that measure what a device holds open their own.
import { type Device, openDevice } from "../lib/gpu/device.ts";

let shared: Promise<Device> | null = null;

/** A device that all tests of a file share, as each one compiles its kernels anew. It is never closed. */
export function sharedDevice(): Promise<Device> {
  return shared ??= openDevice();
}

/** Records work as on an adapter without subgroups. */
export function withoutSubgroups(device: Device, record: () => void): void {
  const { subgroups } = device;
  Object.defineProperty(device, "subgroups", { configurable: true, value: null });
  record();
  Object.defineProperty(device, "subgroups", { configurable: true, value: subgroups });
}
