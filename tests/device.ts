// The device of a test file. Owns it to the file's end; refuses tests that ask what a device of their own has left.
import { type Device, openDevice } from "../lib/gpu/device.ts";

let shared: Promise<Device> | null = null;

/** A device that all tests of a file share, as each one compiles its kernels anew. It is never closed. */
export function sharedDevice(): Promise<Device> {
  return shared ??= openDevice();
}
