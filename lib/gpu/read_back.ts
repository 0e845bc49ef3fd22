// Reads GPU buffers back to the CPU, through a staging buffer of bounded size.
import { refuse } from "../core/errors.ts";
import type { DeviceBuffer } from "./types.ts";

/** Part of a buffer. Default: from `byteOffset` (a multiple of 4) to the end. */
export interface BufferRange {
  /** The buffer. */
  readonly buffer: DeviceBuffer;
  /** Start of the part in bytes; default 0. */
  readonly byteOffset?: number;
  /** Length in bytes; default up to the end of the buffer. */
  readonly bytes?: number;
}

/** The device functions needed for reading. */
interface Reader {
  readonly gpu: GPUDevice;
  readonly isDry: boolean;
  createBuffer(label: string, bytes: number, usage: number): DeviceBuffer;
  check(): void;
}

/** Largest staging size in bytes. Adapters limit buffers, and staging needs memory in addition to the data read. */
const MOST_STAGED = 2 ** 26;

/** Part of one range, in whole words. */
interface Span {
  readonly range: number;
  readonly from: number;
  readonly bytes: number;
}

/**
 * Reads ranges in pieces of at most `most` bytes (a multiple of 4), and waits for each piece. If the GPU writes between
 * two pieces, the later piece may contain the new values.
 *
 * @throws CompressoError("gpu") over the budget, or if the device has failed.
 */
export async function readBack(
  device: Reader,
  ranges: readonly BufferRange[],
  { most = MOST_STAGED }: { readonly most?: number } = {},
): Promise<ArrayBuffer[]> {
  const asked = ranges.map(({ buffer, byteOffset = 0, bytes = buffer.bytes - byteOffset }) => ({
    buffer,
    byteOffset,
    bytes,
  }));
  const pieces = piecesOf(asked.map(({ bytes }) => Math.ceil(bytes / 4) * 4), most);
  if (pieces.length === 0) return asked.map(() => new ArrayBuffer(0));
  const size = Math.max(...pieces.map((spans) => spans.reduce((sum, { bytes }) => sum + bytes, 0)));
  using staging = device.createBuffer("read-back", size, 0x01 | 0x08); // MAP_READ | COPY_DST
  // Zeros that nobody writes take no memory, however many they are.
  if (device.isDry) return asked.map(({ bytes }) => new ArrayBuffer(bytes));
  const parts = asked.map((): ArrayBuffer[] => []);
  for (const spans of pieces) {
    const encoder = device.gpu.createCommandEncoder();
    let at = 0;
    for (const { range, from, bytes } of spans) {
      const { buffer, byteOffset } = asked[range] ?? missing();
      encoder.copyBufferToBuffer(buffer.raw, byteOffset + from, staging.raw, at, bytes);
      at += bytes;
    }
    device.gpu.queue.submit([encoder.finish()]);
    const mapped = await mappedRange(device, staging);
    at = 0;
    for (const { range, from, bytes } of spans) {
      const left = (asked[range] ?? missing()).bytes - from;
      parts[range]?.push(mapped.slice(at, at + Math.min(bytes, left)));
      at += bytes;
    }
    staging.raw.unmap();
  }
  return parts.map(joined);
}

/** Splits consecutive ranges of these lengths into pieces of at most `most` bytes. */
function piecesOf(lengths: readonly number[], most: number): Span[][] {
  const pieces: Span[][] = [];
  let room = 0;
  lengths.forEach((length, range) => {
    for (let from = 0; from < length;) {
      if (room === 0) {
        pieces.push([]);
        room = most;
      }
      const bytes = Math.min(room, length - from);
      pieces.at(-1)?.push({ range, from, bytes });
      [from, room] = [from + bytes, room - bytes];
    }
  });
  return pieces;
}

async function mappedRange(device: Reader, staging: DeviceBuffer): Promise<ArrayBuffer> {
  try {
    await staging.raw.mapAsync(0x01);
  } catch (cause) {
    device.check();
    refuse("gpu", "cannot read from the GPU", {
      rule: "its buffers can be mapped",
      value: cause instanceof Error ? cause.message : String(cause),
      fix: "run `compresso doctor`",
      cause,
    });
  }
  device.check();
  return staging.raw.getMappedRange();
}

function joined(parts: readonly ArrayBuffer[]): ArrayBuffer {
  const [first = new ArrayBuffer(0), ...others] = parts;
  if (others.length === 0) return first;
  const all = new Uint8Array(parts.reduce((sum, { byteLength }) => sum + byteLength, 0));
  let at = 0;
  for (const part of parts) {
    all.set(new Uint8Array(part), at);
    at += part.byteLength;
  }
  return all.buffer;
}

function missing(): never {
  throw new Error("a span is of a range that was asked for");
}
