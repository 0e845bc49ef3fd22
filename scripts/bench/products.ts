// Benchmark cases of matrix products: those of frozen weights, and the thin ones of LoRA.
import { headRowsFor } from "../../lib/nn/head.ts";
import { paddedRows, roundUp, strideOf } from "../../lib/nn/padding.ts";
import { type Direction, recordLinear } from "../../lib/nn/products/linear.ts";
import { type BufferView, operand, OperandPool } from "../../lib/nn/products/operand.ts";
import { type MatmulOptions, recordMatmul } from "../../lib/nn/products/matmul.ts";
import { createMatrix, type ValueDtype, writeRows } from "../../lib/nn/products/matrix.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { activation, DTYPES, type KernelCase, type KernelGroup, noise, type Recorder, type Scale } from "./cases.ts";
import { SMOLLM2 } from "./random_model.ts";

/** y[tokens, out] = x·Wᵀ (forward) or dx[tokens, in] = dy·W (backward). */
interface Shape {
  readonly tokens: number;
  readonly out: number;
  readonly in: number;
}

const DIRECTIONS: readonly Direction[] = ["forward", "backward"];
const RANK = 8;

const { hidden, ffn, vocab } = SMOLLM2;
/** SmolLM2's q and o, gate and up, down. */
const layerShapes = (tokens: number): Shape[] => [
  { tokens, out: hidden, in: hidden },
  { tokens, out: ffn, in: hidden },
  { tokens, out: hidden, in: ffn },
];

const SHAPES: Readonly<Record<Scale, Readonly<Record<string, readonly Shape[]>>>> = {
  full: {
    "1024³": [{ tokens: 1024, out: 1024, in: 1024 }],
    "1 and 8 tokens": [{ tokens: 1, out: ffn, in: hidden }, { tokens: 8, out: ffn, in: hidden }],
    "256 tokens": layerShapes(256),
    "1024 tokens": layerShapes(1024),
    "2048 tokens": layerShapes(2048),
    head: [{ tokens: headRowsFor(vocab, 1024), out: vocab, in: hidden }],
  },
  quick: { "256 tokens": layerShapes(256) },
  tiny: { "16 tokens": [{ tokens: 16, out: 64, in: 32 }] },
};

/** Products of frozen weights, with the same work for peers. */
export function productGroups(scale: Scale): KernelGroup[] {
  return Object.entries(SHAPES[scale]).map(([name, shapes]) => ({
    name: `products, ${name}`,
    cases: DIRECTIONS.flatMap((direction) =>
      shapes.flatMap((shape) => DTYPES.map((dtype) => linear(shape, { direction, dtype })))
    ),
    peerCases: DIRECTIONS.flatMap((direction) =>
      shapes.map((shape) => ({ name: nameOf(shape, direction), kind: "product" as const, direction, ...shape }))
    ),
  }));
}

/** LoRA's products of rank 8, with the bytes that each must move. */
export function loraGroups(scale: Scale): KernelGroup[] {
  const tokens = { full: 1024, quick: 256, tiny: 16 }[scale];
  const shapes = scale === "full" ? [[hidden, hidden], [ffn, hidden]] as const : [[hidden, hidden]] as const;
  return [{ name: "lora", cases: shapes.flatMap(([out, inputs]) => thin({ tokens, out, in: inputs })), peerCases: [] }];
}

function nameOf({ tokens, out, in: inputs }: Shape, direction: Direction): string {
  return direction === "forward" ? `${tokens}×${inputs} · (${out}×${inputs})ᵀ` : `${tokens}×${out} · ${out}×${inputs}`;
}

function linear(
  shape: Shape,
  { direction, dtype }: { readonly direction: Direction; readonly dtype: ValueDtype },
): KernelCase {
  const { tokens, out, in: inputs } = shape;
  return {
    name: nameOf(shape, direction),
    variant: dtype,
    unit: "flops",
    work: 2 * tokens * out * inputs,
    async setup(device, stack): Promise<Recorder> {
      const matrix = stack.use(createMatrix(device, "w", { rows: out, cols: inputs, dtype }));
      writeRows(device, matrix, 0, noise(out * inputs));
      const [width, depth] = direction === "forward" ? [out, inputs] : [inputs, out];
      const stride = strideOf(depth);
      const x = activation(device, stack, { rows: tokens, width: depth });
      const target = {
        buffer: stack.use(device.createBuffer("y", 4 * paddedRows(tokens) * strideOf(width))),
        stride: strideOf(width),
      };
      const pool = stack.use(new OperandPool(device));
      using copies = new Plan(device);
      const isSharded = matrix.placement === "texture" && matrix.shards.length > 1 && direction === "backward";
      if (!isSharded) {
        const view = operand(copies, pool, x, { rows: tokens, stride });
        await copies.run();
        return (plan) => recordLinear(plan, view, matrix, target, { rows: tokens, direction });
      }
      // As in lib/nn/head.ts: a texture is not as wide as a large vocabulary.
      const views = matrix.shards.map((shard, index) => {
        const columns = [shard.row0, Math.min(roundUp(shard.rows, 64), stride - shard.row0)] as const;
        return operand(copies, pool, x, { rows: tokens, stride, columns, slot: `shard ${index}` });
      });
      await copies.run();
      return (plan) =>
        views.forEach((view, shard) =>
          recordLinear(plan, view, matrix, target, { rows: tokens, direction, shard, accumulate: shard > 0 })
        );
    },
  };
}

function thin({ tokens, out, in: inputs }: Shape): KernelCase[] {
  const formulas = ["h = x·Aᵀ", "y += h·Bᵀ", "dh = dy·B", "dB = dyᵀ·h", "dA = dhᵀ·x", "dx += dh·A"] as const;
  return formulas.map((formula) => {
    // Sizes of the product [m, k] × [k, n].
    const [m, n, k] = {
      "h = x·Aᵀ": [tokens, RANK, inputs],
      "y += h·Bᵀ": [tokens, out, RANK],
      "dh = dy·B": [tokens, RANK, out],
      "dB = dyᵀ·h": [out, RANK, tokens],
      "dA = dhᵀ·x": [RANK, inputs, tokens],
      "dx += dh·A": [tokens, inputs, RANK],
    }[formula] as [number, number, number];
    return {
      name: `lora r=${RANK} ${formula} ${tokens}×${inputs}→${out}`,
      variant: "",
      unit: "bytes",
      work: 4 * (m * k + k * n + m * n * (formula.includes("+=") ? 2 : 1)),
      async setup(device, stack): Promise<Recorder> {
        const pool = stack.use(new OperandPool(device));
        using copies = new Plan(device);
        const read = (width: number, slot: string): BufferView => {
          const buffer = activation(device, stack, { rows: tokens, width });
          return operand(copies, pool, buffer, { rows: tokens, stride: strideOf(width), slot });
        };
        const x = read(inputs, "x"), dy = read(out, "dy");
        await copies.run();
        const h: BufferView = {
          buffer: activation(device, stack, { rows: tokens, width: RANK }),
          stride: strideOf(RANK),
        };
        const lora = stack.use(device.uploadBuffer("lora", noise(RANK * (inputs + out))));
        const a: BufferView = { buffer: lora, stride: inputs };
        const b: BufferView = { buffer: lora, offset: RANK * inputs, stride: RANK };
        const widest = paddedRows(Math.max(tokens, out)) * Math.max(strideOf(inputs), strideOf(out));
        const result = stack.use(device.createBuffer("result", 4 * widest));
        const c = (stride: number): BufferView => ({ buffer: result, stride });
        const operands: Pick<MatmulOptions, "a" | "b" | "c" | "transposeA" | "transposeB" | "accumulate"> = {
          "h = x·Aᵀ": { a: x, b: a, c: c(strideOf(RANK)), transposeB: true },
          "y += h·Bᵀ": { a: h, b, c: c(strideOf(out)), transposeB: true, accumulate: true },
          "dh = dy·B": { a: dy, b, c: c(strideOf(RANK)) },
          "dB = dyᵀ·h": { a: dy, b: h, c: c(RANK), transposeA: true },
          "dA = dhᵀ·x": { a: h, b: x, c: c(inputs), transposeA: true },
          "dx += dh·A": { a: h, b: a, c: c(strideOf(inputs)), accumulate: true },
        }[formula];
        return (plan) => recordMatmul(plan, { ...operands, m, n, k, alpha: 1e-3, pool });
      },
    };
  });
}
