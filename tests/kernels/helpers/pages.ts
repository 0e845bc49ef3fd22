// The page table of a sequence that has all pages of its caches.
import type { Device } from "../../../lib/gpu/device.ts";
import { pagesOf } from "../../../lib/nn/decode/cache.ts";
import type { PageTable } from "../../../lib/nn/products/matvec.ts";

/** A table of one sequence that has the first pages. */
export function createPageTable(device: Device, capacity: number): PageTable & Disposable {
  const perRow = pagesOf(capacity);
  const buffer = device.uploadBuffer("pages", Uint32Array.from({ length: perRow }, (_, page) => page));
  return { buffer, perRow, [Symbol.dispose]: () => buffer[Symbol.dispose]() };
}
