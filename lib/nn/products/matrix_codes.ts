// Writes block-quantised rows to a matrix of f16: the GPU computes and rounds the values.
import { codesToHalf } from "../../../kernels/mod.ts";
import { type Device, TEXEL_BYTES } from "../../gpu/device.ts";
import { compileKernel } from "../../gpu/kernel.ts";
import type { CodeRows } from "../../spec/quant.ts";
import { roundUp } from "../padding.ts";
import { type Matrix, type MatrixShard, shardRange } from "./matrix.ts";
import { isTexture } from "./matrix_texels.ts";

/** Values of a texel of f16, and of two words of codes. */
const TEXEL_VALUES = 8;
/** Copies to textures have rows of multiples of this many texels. */
const PITCH_TEXELS = 256 / TEXEL_BYTES;

/** Writes rows from `row0` on, with the bits of `writeRows` of their values, all below 65,520 in size. */
export function writeCodes(device: Device, matrix: Matrix, row0: number, rows: CodeRows): void {
  const { cols, label, dtype } = matrix;
  if (dtype !== "f16") throw new Error(`writeCodes: '${label}' is ${dtype}`);
  for (const { shard, first, end } of shardRange(matrix, row0, rows.codes.length / cols)) {
    writePart(device, { matrix, shard, rows, from: first - row0, to: first - shard.row0, count: end - first });
  }
}

function writePart(device: Device, { matrix: { cols, stride }, shard, rows, from, to, count }: {
  readonly matrix: Matrix;
  readonly shard: MatrixShard;
  readonly rows: CodeRows;
  /** First row of `rows`, and of the shard. */
  readonly from: number;
  readonly to: number;
  readonly count: number;
}): void {
  const [store] = shard.resources;
  if (!store) return;
  const { codes, scales, group, zero, hasMin } = rows, groups = cols / group, { gpu } = device;
  const texels = stride / TEXEL_VALUES, pitch = isTexture(store) ? roundUp(texels, PITCH_TEXELS) : texels;
  const kernel = compileKernel(device, codesToHalf);
  const params = [count, cols / 4, groups, Math.log2(group / TEXEL_VALUES), zero, hasMin ? 1 : 0, pitch, 0];
  using codeBuffer = device.uploadBuffer("codes", codes.subarray(from * cols, (from + count) * cols));
  using scaleBuffer = device.uploadBuffer("scales", scales.subarray(2 * from * groups, 2 * (from + count) * groups));
  using halves = device.createBuffer("halves", count * pitch * TEXEL_BYTES);
  using uniform = device.uploadBuffer("params", Uint32Array.from(params), 0x40 | 0x08); // UNIFORM | COPY_DST
  const encoder = gpu.createCommandEncoder(), pass = encoder.beginComputePass();
  pass.setPipeline(kernel.pipeline);
  pass.setBindGroup(
    0,
    gpu.createBindGroup({
      layout: kernel.layout,
      entries: [codeBuffer, scaleBuffer, halves, uniform].map(({ raw: buffer }, binding) => ({
        binding,
        resource: { buffer },
      })),
    }),
  );
  pass.dispatchWorkgroups(Math.ceil(cols / TEXEL_VALUES / 64), count);
  pass.end();
  if (isTexture(store)) {
    const place = { buffer: halves.raw, bytesPerRow: pitch * TEXEL_BYTES };
    encoder.copyBufferToTexture(place, { texture: store.raw, origin: [0, to] }, [texels, count]);
  } else {
    const rowBytes = texels * TEXEL_BYTES;
    encoder.copyBufferToBuffer(halves.raw, 0, store.raw, to * rowBytes, count * rowBytes);
  }
  gpu.queue.submit([encoder.finish()]);
}
