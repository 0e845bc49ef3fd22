// Statistics of the inputs of projections over the tokens of several passes, on the GPU until they are read.
import { ROW_BLOCK } from "../../kernels/mod.ts";
import type { Device } from "../gpu/device.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import { type DecoderSpec, headDimOf } from "../spec/decoder.ts";
import type { DecoderContext, ObservedInput } from "./context.ts";
import { partialFloats, recordColumnStats, rowBlocks } from "./ops.ts";
import { strideOf } from "./padding.ts";
import { headWidths, unpadHeads } from "./weights.ts";

/** Mean and Σ (x − mean)² of each channel of an input. */
export interface InputMoments {
  readonly layer: number;
  readonly of: ObservedInput["of"];
  readonly mean: Float32Array;
  readonly squares: Float32Array;
}

/** Statistics under way. Dispose them to free their buffers. */
export interface InputStatistics extends Disposable {
  /** Records the statistics of the inputs of a pass; for `DecoderContext.observe`. */
  readonly observe: NonNullable<DecoderContext["observe"]>;
  /** Chooses the rows that count in the next run: flags [rows], 0 or 1. */
  choose(flags: Uint32Array<ArrayBuffer>): void;
  /** Rows that counted so far, those of the last choice included. */
  readonly count: number;
  /** Forgets all rows so far. */
  clear(): void;
  /** What was found, in the order of recording. */
  read(): Promise<InputMoments[]>;
}

/** Buffers for the statistics of these inputs over passes of `rows` rows. A running update (Chan et al. 1979) keeps them exact for large means. */
export function createInputStatistics(
  device: Device,
  spec: DecoderSpec,
  { rows, of: wanted }: { readonly rows: number; readonly of: readonly ObservedInput["of"][] },
): InputStatistics {
  const owned: DeviceBuffer[] = [];
  const floats = (label: string, count: number): DeviceBuffer => {
    const buffer = device.createBuffer(`calibration ${label}`, 4 * count);
    owned.push(buffer);
    return buffer;
  };
  const widths: Readonly<Record<ObservedInput["of"], readonly number[]>> = {
    attention: [spec.hidden],
    o: spec.layers.map((layer) => layer.conv ? spec.hidden : headWidths(spec, layer).q),
    ffn: [spec.hidden],
    down: spec.layers.map(({ ffn }) => ffn),
  };
  const widest = Math.max(1, ...wanted.flatMap((of) => widths[of]));
  const keep = floats("rows", rows), counts = floats("counts", 1 + rowBlocks(rows));
  const partial = floats("partial", 2 * partialFloats({ rows, width: widest }));
  const found: { layer: number; of: ObservedInput["of"]; width: number; stats: DeviceBuffer }[] = [];
  let count = 0;
  return {
    observe({ plan }, layer, { of, buffer, width }): void {
      if (!wanted.includes(of)) return;
      const stats = floats("statistics", 2 * strideOf(width));
      found.push({ layer, of, width, stats });
      plan.section("statistics");
      recordColumnStats(plan, { x: buffer, keep, counts, partial, stats }, { rows, width });
    },
    choose(flags): void {
      const blocks = new Array<number>(rowBlocks(rows)).fill(0);
      flags.forEach((flag, row) =>
        blocks[Math.floor(row / ROW_BLOCK)] = (blocks[Math.floor(row / ROW_BLOCK)] ?? 0) + flag
      );
      device.write(keep, flags);
      device.write(counts, Uint32Array.from([count, ...blocks]));
      count += blocks.reduce((sum, block) => sum + block, 0);
    },
    get count(): number {
      return count;
    },
    clear(): void {
      for (const { stats } of found) device.write(stats, new Float32Array(stats.bytes / 4));
      count = 0;
    },
    async read(): Promise<InputMoments[]> {
      if (found.length === 0) return [];
      const parts = await device.read(found.map(({ stats: buffer }) => ({ buffer, bytes: buffer.bytes })));
      return found.map(({ layer, of, width }, index) => {
        const values = new Float32Array(parts[index] ?? new ArrayBuffer(8 * strideOf(width)));
        const part = (first: number): Float32Array => {
          const stored = values.subarray(first, first + width);
          const own = spec.layers[layer];
          if (of !== "o" || !own || own.conv) return stored.slice();
          const headDim = headDimOf(spec, own), logical = own.heads * headDim;
          return unpadHeads(headDim, stored, { shape: [1, width], logical: [1, logical] });
        };
        return { layer, of, mean: part(0), squares: part(strideOf(width)) };
      });
    },
    [Symbol.dispose](): void {
      for (const buffer of owned) buffer[Symbol.dispose]();
    },
  };
}
