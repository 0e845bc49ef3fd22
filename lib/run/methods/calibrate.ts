// Statistics of a model's activations on calibration data: the forward passes and the buffers that accumulate them.
import type { DeviceBuffer } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";
import type { ObservedInput } from "../../nn/context.ts";
import { headStride, strideOf } from "../../nn/padding.ts";
import { partialFloats, recordColumnStats, rowBlocks } from "../../nn/ops.ts";
import { createPass, recordForward, shiftLabels } from "../../nn/pass.ts";
import { unpadHeads } from "../../nn/weights.ts";
import { ROW_BLOCK } from "../../../kernels/mod.ts";
import type { ActivationStats, ChannelStats } from "../../masks/baselines_activations.ts";
import type { Batch } from "../../data/batches.ts";
import type { Model } from "../../model/model.ts";

/** Options of {@link calibrate}. */
export interface CalibrateOptions {
  /** Calibration data; all batches have `batch` · `seq` tokens. */
  readonly batches: Iterable<Batch>;
  /** Sequences of a batch. */
  readonly batch: number;
  /** Tokens of a sequence with its padding. */
  readonly seq: number;
  /** Stops the work. */
  readonly signal?: AbortSignal;
}

/**
 * Mean and sum of squared deviations of every input channel of o_proj and down_proj. They are taken over the tokens
 * before labels, which a loss sees: no padding, instructions or prompts. All masks are 1, without LoRA.
 *
 * The statistics stay on the GPU until the last batch. A running update (Chan et al. 1979) keeps them exact for large
 * means.
 */
export async function calibrate(model: Model, options: CalibrateOptions): Promise<ActivationStats> {
  const { device, weights, spec } = model, { batches, batch, seq, signal } = options, rows = batch * seq;
  const owned: DeviceBuffer[] = [];
  const floats = (label: string, count: number): DeviceBuffer => {
    const buffer = device.createBuffer(`calibration ${label}`, 4 * count);
    owned.push(buffer);
    return buffer;
  };
  using pass = createPass(device, weights, { batch, seq });
  const context = pass.plan();
  using plan = context.plan;
  try {
    const widest = Math.max(1, ...spec.layers.flatMap(({ heads, ffn }) => [heads * headStride(spec.headDim), ffn]));
    const keep = floats("rows", rows), counts = floats("counts", 1 + rowBlocks(rows));
    const partial = floats("partial", 2 * partialFloats({ rows, width: widest }));
    const found: { layer: number; of: ObservedInput["of"]; width: number; stats: DeviceBuffer }[] = [];
    recordForward({
      ...context,
      observe: (_, layer, { of, buffer, width }) => {
        const stats = floats("statistics", 2 * strideOf(width));
        found.push({ layer, of, width, stats });
        plan.section("statistics");
        recordColumnStats(plan, { x: buffer, keep, counts, partial, stats }, { rows, width });
      },
    });
    plan.finish();
    let tokens = 0;
    for (const data of batches) {
      signal?.throwIfAborted();
      const { flags, blocks, kept } = keptRows(data, { rows, seq });
      device.write(pass.act.tokens, data.tokens);
      device.write(keep, flags);
      device.write(counts, Uint32Array.from([tokens, ...blocks]));
      await plan.run(signal ? { signal } : {});
      tokens += kept;
    }
    const stats = await readStats(device, found.map(({ stats }) => stats));
    const layers = spec.layers.map((): { o: ChannelStats | null; down: ChannelStats | null } => ({
      o: null,
      down: null,
    }));
    found.forEach(({ layer, of, width }, index) => {
      const values = stats[index] ?? new Float32Array(2 * strideOf(width)), own = layers[layer];
      const part = (first: number): Float32Array => {
        const stored = values.subarray(first, first + width);
        if (of === "down") return stored.slice();
        const logical = (spec.layers[layer]?.heads ?? 0) * spec.headDim;
        return unpadHeads(spec, stored, { shape: [1, width], logical: [1, logical] });
      };
      if (own) own[of] = { mean: part(0), squares: part(strideOf(width)) };
    });
    return { tokens, layers };
  } finally {
    for (const buffer of owned) buffer[Symbol.dispose]();
  }
}

/** Which rows are followed by a label: flags [rows], and their count in each block of {@link ROW_BLOCK}. */
function keptRows(
  { labels }: Batch,
  { rows, seq }: { readonly rows: number; readonly seq: number },
): { readonly flags: Uint32Array<ArrayBuffer>; readonly blocks: number[]; readonly kept: number } {
  const flags = Uint32Array.from(shiftLabels(labels, { seq }), (label) => label >= 0 ? 1 : 0);
  const blocks = new Array<number>(rowBlocks(rows)).fill(0);
  flags.forEach((flag, row) => blocks[Math.floor(row / ROW_BLOCK)] = (blocks[Math.floor(row / ROW_BLOCK)] ?? 0) + flag);
  return { flags, blocks, kept: blocks.reduce((sum, count) => sum + count, 0) };
}

async function readStats(device: Device, buffers: readonly DeviceBuffer[]): Promise<Float32Array[]> {
  if (buffers.length === 0) return [];
  const parts = await device.read(buffers.map((buffer) => ({ buffer, bytes: buffer.bytes })));
  return parts.map((bytes) => new Float32Array(bytes));
}
