// Matrices that hold random blocks of a GGUF, with the values that the host decodes.
import assert from "node:assert/strict";
import { type FileDtype, scalesOfBlock } from "../../../kernels/mod.ts";
import { randomU32 } from "../../../lib/core/random.ts";
import { dequantize } from "../../../lib/formats/gguf/dequant.ts";
import { TENSOR_FORMATS } from "../../../lib/formats/gguf/types.ts";
import type { Device } from "../../../lib/gpu/device.ts";
import { createMatrix, type Matrix, type MatrixPlacement } from "../../../lib/nn/products/matrix.ts";
import { StoredWriter } from "../../../lib/nn/products/matrix_stored.ts";

/** The types of file blocks. */
export const FILE_DTYPES: readonly FileDtype[] = ["q4_0", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"];

/** Blocks whose scales are of either sign, some of them 0 or subnormal. */
export function randomBlocks(dtype: FileDtype, count: number, seed: number): Uint8Array<ArrayBuffer> {
  const { halves, scales } = scalesOfBlock(dtype);
  const raw = new Uint16Array(count * halves).map((_, i) => randomU32(seed, i));
  for (let block = 0; block < count; block++) {
    for (const [i, place] of scales.entries()) {
      const draw = randomU32(seed + 1, block, i), sign = draw & 0x8000;
      const size = block % 9 === 1 ? 0 : block % 9 === 2 ? draw & 0x3ff : 0x1000 + draw % 0x1800;
      raw[block * halves + place] = sign | size;
    }
  }
  return new Uint8Array(raw.buffer);
}

/** A matrix of random blocks. */
export interface FileWeights extends Disposable {
  readonly matrix: Matrix;
  /** What the host decodes, row-major. */
  readonly values: Float32Array;
}

/** Makes a matrix; its rows are written in two pieces. */
export function fileWeights(
  device: Device,
  { rows, cols, dtype, seed, ...options }: {
    readonly rows: number;
    readonly cols: number;
    readonly dtype: FileDtype;
    readonly seed: number;
    readonly placement?: MatrixPlacement;
    readonly maxShardRows?: number;
  },
): FileWeights {
  const { block, bytes: size } = TENSOR_FORMATS[dtype], rowBytes = cols / block * size;
  const bytes = randomBlocks(dtype, rows * cols / block, seed), values = new Float32Array(rows * cols);
  dequantize(bytes, dtype, { out: values, at: 0 });
  const matrix = createMatrix(device, dtype, { rows, cols, dtype, ...options });
  using writer = new StoredWriter(device);
  const first = Math.min(rows, 68);
  assert.ok(writer.write(matrix, 0, { type: dtype, bytes: bytes.slice(0, first * rowBytes) }));
  if (first < rows) assert.ok(writer.write(matrix, first, { type: dtype, bytes: bytes.slice(first * rowBytes) }));
  return { matrix, values, [Symbol.dispose]: () => matrix[Symbol.dispose]() };
}
