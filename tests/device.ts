// The shared device of a test file. Tests that measure what a device holds open their own.
import { type Device, openDevice } from "../lib/gpu/device.ts";

let shared: Promise<Device> | null = null;

/** A device that all tests of a file share, as each one compiles its kernels anew. It is never closed. */
export function sharedDevice(): Promise<Device> {
  return shared ??= openDevice();
}
