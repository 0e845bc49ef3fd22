// Matrices of a GGUF's own blocks: values with the bits of the host's decoder, and products against an f64 oracle.
import assert from "node:assert/strict";
import { type FileDtype, fileTexels } from "../../kernels/mod.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { paddedRows, strideOf } from "../../lib/nn/padding.ts";
import { recordEmbedding } from "../../lib/nn/ops.ts";
import { recordLinear } from "../../lib/nn/products/linear.ts";
import { createMatvecScratch } from "../../lib/nn/products/matvec_batch.ts";
import {
  type MatvecInput,
  recordGatedProducts,
  recordResidualProduct,
  recordStoredProducts,
} from "../../lib/nn/products/matvec.ts";
import { createMatrix, type MatrixPlacement } from "../../lib/nn/products/matrix.ts";
import { operand, OperandPool } from "../../lib/nn/products/operand.ts";
import { TENSOR_FORMATS } from "../../lib/formats/gguf/types.ts";
import { assertActivation, assertCells, type Cell, random, ROUND, staleActivation } from "./helpers/cells.ts";
import { FILE_DTYPES, fileWeights } from "./helpers/file_blocks.ts";
import { readTexture } from "./helpers/textures.ts";
import { sharedDevice, withoutSubgroups } from "../device.ts";

const PLACEMENTS = ["texture", "buffer"] as const;

for (const dtype of FILE_DTYPES) {
  const { block, bytes: blockBytes } = TENSOR_FORMATS[dtype];

  Deno.test(`rows of ${dtype} are looked up with the bits of the host's decoder, whole or in shards`, async () => {
    const device = await sharedDevice();
    for (const [rows, blocks, maxShardRows] of [[1, 1, 64], [71, 3, 1024], [150, 2, 64]] as const) {
      for (const placement of PLACEMENTS) {
        const cols = blocks * block;
        using w = fileWeights(device, { rows, cols, dtype, seed: blocks, placement, maxShardRows });
        using tokens = device.uploadBuffer("tokens", Uint32Array.from({ length: rows }, (_, row) => rows - 1 - row));
        using x = staleActivation(device, rows, cols);
        using plan = new Plan(device);
        recordEmbedding(plan, w.matrix, { tokens, x }, { rows });
        await plan.run();
        const all = await device.readFloats(x, rows * strideOf(cols));
        for (let row = 0; row < rows; row++) {
          for (let c = 0; c < strideOf(cols); c++) {
            const is = all[row * strideOf(cols) + c], want = c < cols ? w.values[(rows - 1 - row) * cols + c] : 0;
            // −0 of a block of zeros may become 0.
            assert.ok(is === want, `${placement} ${rows} x ${cols}, [${row}, ${c}]: ${is} instead of ${want}`);
          }
        }
      }
    }
  });

  Deno.test(`products of ${dtype} match the oracle in both directions, for all tiles of rows`, async () => {
    const device = await sharedDevice();
    for (const direction of ["forward", "backward"] as const) {
      for (const [m, rows, blocks, placement, rank] of TRIED_MORE.includes(dtype) ? SHAPES : SHAPES.slice(0, 2)) {
        const cols = blocks * block;
        using w = fileWeights(device, { rows, cols, dtype, seed: m, placement, maxShardRows: rank > 0 ? 256 : 64 });
        const [width, depth] = direction === "forward" ? [rows, cols] : [cols, rows];
        const strideX = strideOf(depth), input = random(m * depth, 2), alpha = 0.75;
        const padded = new Float32Array(paddedRows(m) * strideX);
        for (let row = 0; row < m; row++) padded.set(input.subarray(row * depth, (row + 1) * depth), row * strideX);
        const h = random(m * rank, 9), low = random(rank * width, 10), none = new Float32Array(1);
        using x = device.uploadBuffer("x", padded);
        using y = staleActivation(device, m, width);
        using bufferH = device.uploadBuffer("h", rank === 0 ? none : h);
        using bufferLow = device.uploadBuffer("low", rank === 0 ? none : low);
        using pool = new OperandPool(device, placement);
        using plan = new Plan(device);
        const view = operand(plan, pool, x, { rows: m, stride: strideX });
        recordLinear(plan, view, w.matrix, { buffer: y, stride: strideOf(width) }, {
          ...{ rows: m, direction },
          ...(rank === 0 ? {} : {
            low: {
              h: { buffer: bufferH, stride: rank },
              weight: { buffer: bufferLow, stride: direction === "forward" ? rank : width },
              ...{ rank, alpha, pool },
            },
          }),
        });
        await plan.run();
        await assertActivation(device, y, {
          what: `${direction} ${m} x ${rows} x ${cols} in ${placement}s`,
          rows: m,
          cols: width,
          want(row, n): Cell {
            let value = 0, size = 0;
            const add = (term: number): void => {
              value += term;
              size += Math.abs(term);
            };
            for (let k = 0; k < depth; k++) {
              const at = direction === "forward" ? n * cols + k : k * cols + n;
              add((input[row * depth + k] ?? NaN) * (w.values[at] ?? NaN));
            }
            for (let k = 0; k < rank; k++) {
              const at = direction === "forward" ? n * rank + k : k * width + n;
              add(alpha * (h[row * rank + k] ?? NaN) * (low[at] ?? NaN));
            }
            return { value, bound: (depth + rank + 3) * ROUND * size + 1e-30 };
          },
        });
      }
    }
  });

  Deno.test(`a vector times ${dtype} matches the oracle, and each of several has the bits of one alone`, async () => {
    const device = await sharedDevice(), rows = 37, isMore = TRIED_MORE.includes(dtype), pitch = strideOf(rows);
    const assertSame = (is: ArrayLike<number>, want: ArrayLike<number>, what: string): void => {
      for (let n = 0; n < rows; n++) assert.ok(is[n] === want[n], `${what}, ${n}: ${is[n]} instead of ${want[n]}`);
    };
    for (const [blocks, batch, placement, isPlain] of isMore ? CASES : CASES.slice(0, 2)) {
      const cols = blocks * block, stride = strideOf(cols);
      using gate = fileWeights(device, { rows, cols, dtype, seed: 1, placement });
      using up = fileWeights(device, { rows, cols, dtype, seed: 2, placement });
      const mask = random(rows, 3), norm = random(stride, 4), all = random(batch * stride, 5), old = random(pitch, 7);
      const eps = 1e-5;
      using z = device.uploadBuffer("z", mask);
      using weight = device.uploadBuffer("norm", norm);
      using scale = device.uploadBuffer("scale", new Float32Array(pitch).fill(1));
      const run = async (first: number, count: number): Promise<Float32Array[]> => {
        using buffer = device.uploadBuffer("x", all.slice(first * stride, (first + count) * stride));
        using stored = device.createBuffer("stored", 4 * count * pitch);
        using gated = device.createBuffer("gated", 4 * count * pitch);
        using added = device.uploadBuffer("added", new Float32Array(count * pitch).map((_, i) => old[i % pitch] ?? 0));
        const scratch = count > 1 && placement === "texture" ? createMatvecScratch(device, count) : undefined;
        const x: MatvecInput = { buffer, width: cols, batch: count, scratch };
        {
          using plan = new Plan(device);
          const output = scratch?.texture("ffn", rows);
          const record = (): void => {
            recordStoredProducts(plan, x, { parts: [{ matrix: gate.matrix, offset: 0 }], y: stored });
            if (!isMore) return;
            recordGatedProducts(plan, { ...x, norm: { weight, eps } }, {
              ...{ gate: gate.matrix, up: up.matrix, z, y: output ?? gated },
            });
            const next = scratch && { norm: scale, texture: scratch.texture("next", rows) };
            recordResidualProduct(plan, x, { matrix: up.matrix, z, y: added, next });
          };
          if (isPlain) withoutSubgroups(device, record);
          else record();
          await plan.run();
          const flat = output && isMore ? await readTexture(device, output.raw, [pitch / 4, count]) : null;
          const results = isMore ? [stored, added, ...(flat ? [] : [gated])] : [stored];
          const read = await Promise.all(results.map((one) => device.readFloats(one, count * pitch)));
          scratch?.[Symbol.dispose]();
          return flat ? [...read, flat] : read;
        }
      };
      const one = await run(0, 1), many = batch > 1 ? await run(0, batch) : one;
      for (const [i, values] of one.entries()) {
        assertSame(many[i] ?? [], values, `${what(i)} of ${batch}, ${placement}`);
      }
      if (batch > 1) {
        const last = await run(batch - 1, 1), at = (batch - 1) * pitch;
        for (const [i, values] of last.entries()) {
          assertSame(many[i]?.slice(at) ?? [], values, `${what(i)}, the last of ${batch}, ${placement}`);
        }
      }
      const x = all.subarray(0, cols), mean = x.reduce((sum, value) => sum + value * value, 0) / cols;
      const factor = 1 / Math.sqrt(mean + eps), sizes = x.reduce((sum, value) => sum + Math.abs(value), 0);
      /** Codes and minima are summed apart: their terms are at most three times as large as the largest value. */
      const sum = (values: Float32Array, n: number, isNormed: boolean): Cell => {
        let value = 0, most = 0;
        for (let c = 0; c < cols; c++) {
          const w = values[n * cols + c] ?? 0;
          value += w * (x[c] ?? 0) * (isNormed ? factor * (norm[c] ?? 0) : 1);
          most = Math.max(most, Math.abs(w));
        }
        return { value, bound: (2 * cols + 20) * ROUND * 4 * most * sizes * (isNormed ? factor : 1) + 1e-30 };
      };
      const [stored = [], added = [], gated = []] = one;
      const check = (name: string, is: ArrayLike<number>, want: (n: number) => Cell): void =>
        assertCells(Float32Array.from({ length: rows }, (_, n) => is[n] ?? NaN), {
          what: `${name}, ${cols} columns in ${placement}s`,
          rows: 1,
          stride: rows,
          want: (_, n) => want(n),
        });
      check("stored", stored, (n) => sum(gate.values, n, false));
      if (!isMore) continue;
      check("added", added, (n) => {
        const { value, bound } = sum(up.values, n, false), masked = mask[n] ?? 0, before = old[n] ?? 0;
        return {
          value: before + value * masked,
          bound: Math.abs(masked) * bound + 4 * ROUND * (Math.abs(before) + Math.abs(value)),
        };
      });
      check("gated", gated, (n) => {
        const g = sum(gate.values, n, true), u = sum(up.values, n, true), masked = mask[n] ?? 0;
        const silu = g.value / (1 + Math.exp(-g.value)), value = silu * u.value * masked;
        const bound = Math.abs(masked) *
          (1.1 * g.bound * Math.abs(u.value) + Math.abs(silu) * u.bound + 2 * g.bound * u.bound);
        return { value, bound: bound + 16 * ROUND * Math.abs(value) + 1e-30 };
      });
    }
  });

  Deno.test(`a matrix of ${dtype} takes the bytes of its file, up to 3 %`, () => {
    const columns = 2304, { codes, scales } = fileTexels(dtype, columns);
    const bytes = 16 * (codes + scales), file = 4 * columns / block * blockBytes;
    assert.ok(bytes >= file && bytes <= 1.03 * file, `${bytes} instead of ${file}`);
  });
}

/** Types of all forms of scales and codes, with which more is tried: each kernel takes seconds to compile. */
const TRIED_MORE: readonly FileDtype[] = ["q5_1", "q6_k"];

/** Rows of x, rows of W, blocks of a row, where matrices lie, and the rank of an added product. */
type Shape = readonly [m: number, rows: number, blocks: number, placement: MatrixPlacement, rank: number];
const SHAPES: readonly Shape[] = [
  [9, 67, 2, "texture", 0],
  [65, 130, 1, "buffer", 0],
  [1, 3, 3, "texture", 0],
  [200, 61, 1, "texture", 5],
  [3, 5, 1, "buffer", 3],
];

/** Blocks of a row, vectors, where matrices lie, and whether lanes do not exchange sums. */
const CASES = [
  [2, 4, "texture", false],
  [3, 4, "buffer", false],
  [1, 2, "texture", true],
] as const;

function what(index: number): string {
  return ["stored", "added", "gated"][index] ?? "";
}

Deno.test("a matrix of blocks takes whole blocks only", async () => {
  const device = await sharedDevice();
  for (const [dtype, cols] of [["q8_0", 33], ["q4_k", 288]] as const) {
    assert.throws(() => createMatrix(device, "w", { rows: 4, cols, dtype }), /whole blocks/);
  }
});
