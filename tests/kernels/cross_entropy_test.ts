// Cross-entropy and its gradient against f64 oracles, the oracle against finite differences.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { CROSS_ENTROPY, recordObjective } from "../../lib/nn/train/objective.ts";
import {
  assertCells,
  assertGradient,
  assertValues,
  type Cell,
  type Dense,
  dense,
  denseOf,
  lay,
  random,
  ROUND,
  STALE,
  stateBuffer,
} from "./helpers/cells.ts";

const device: Device = await openDevice();
const LOSS_SCALE = 1 / 7;
/** Logits of padding columns; if they counted, they would change every loss. */
const PADDING = 11;

interface RowLoss {
  readonly loss: number;
  readonly p: Float64Array;
}

function softmaxLoss(logits: ArrayLike<number>, target: number): RowLoss {
  const values = Float64Array.from(logits), top = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const weights = values.map((value) => Math.exp(value - top));
  const total = weights.reduce((a, b) => a + b, 0);
  return { loss: Math.log(total) + top - (values[target] ?? NaN), p: weights.map((weight) => weight / total) };
}

interface LossCase {
  readonly logits: Dense;
  /** Of the chunk's rows. */
  readonly targets: readonly number[];
  readonly firstRow: number;
  readonly gradient: boolean;
}

/** What the GPU makes of a chunk: logits [rows, stride], and all losses, one row longer than the chunk. */
async function run(
  { logits, targets, firstRow, gradient }: LossCase,
  lanes: 8 | 256 = 8,
): Promise<{ logits: Float32Array; losses: Float32Array }> {
  const { rows, cols: vocab, values } = logits, stride = strideOf(vocab), tokens = firstRow + rows + 1;
  const wanted = new Int32Array(tokens).fill(-1);
  wanted.set(targets, firstRow);
  using state = stateBuffer(device, { lossScale: LOSS_SCALE });
  using targetBuffer = device.uploadBuffer("targets", wanted);
  using logitBuffer = device.uploadBuffer("logits", lay(values, { rows, cols: vocab, stride, fill: PADDING }));
  using loss = device.uploadBuffer("loss", new Float32Array(tokens).fill(STALE));
  using plan = new Plan(device);
  recordObjective(plan, CROSS_ENTROPY, { targets: targetBuffer, state, logits: logitBuffer, loss }, {
    rows,
    vocab,
    firstRow,
    gradient,
    lanes,
  });
  await plan.run();
  return {
    logits: await device.readFloats(logitBuffer, rows * stride),
    losses: await device.readFloats(loss, tokens),
  };
}

async function check(test: LossCase): Promise<void> {
  for (const lanes of [8, 256] as const) await checkLanes(test, lanes);
}

async function checkLanes(test: LossCase, lanes: 8 | 256): Promise<void> {
  const { logits, targets, firstRow, gradient } = test, { rows, cols: vocab } = logits;
  const what = `${rows} × ${vocab} from row ${firstRow}, gradient ${gradient}`;
  const got = await run(test, lanes);
  const wanted = targets.map((target, row) =>
    softmaxLoss(logits.values.subarray(row * vocab, (row + 1) * vocab), target)
  );
  assertValues(got.losses, {
    what: `loss of ${what}`,
    want(token): Cell {
      const row = token - firstRow, target = targets[row];
      if (row < 0 || target === undefined) return { value: STALE, bound: 0 };
      if (target < 0) return { value: 0, bound: 0 };
      const value = wanted[row]?.loss ?? NaN;
      // exp errs by (3 + 2·|x|) ulp, |x| ≤ 8 where it matters, which is the logarithm's absolute error; itself it errs by 2⁻²¹ or 3 ulp.
      return { value, bound: 64 * ROUND + 2 ** -21 + 8 * ROUND * value };
    },
  });
  assertCells(got.logits, {
    what: `logits of ${what}`,
    rows,
    stride: strideOf(vocab),
    want(row, column): Cell {
      const target = targets[row] ?? -1, isPadding = column >= vocab;
      if (!gradient) return { value: isPadding ? PADDING : logits.at(row, column), bound: 0 };
      if (isPadding || target < 0) return { value: 0, bound: 0 };
      const p = wanted[row]?.p[column] ?? NaN;
      // Both exp and the sum of exp err as above; x is log p at most 20 in size.
      const bound = (64 + 4 * Math.abs(Math.log(p))) * ROUND * p + 2 * ROUND * (column === target ? 1 : 0);
      return { value: (p - (column === target ? 1 : 0)) * LOSS_SCALE, bound: bound * LOSS_SCALE + 1e-30 };
    },
  });
}

Deno.test("the gradient of cross-entropy is that of finite differences", () => {
  const logits = random(7, 1).map((value) => 3 * value), target = 4;
  assertGradient((moved) => softmaxLoss(moved, target).loss, logits, {
    what: "logits",
    gradient: softmaxLoss(logits, target).p.map((p, column) => p - (column === target ? 1 : 0)),
  });
});

Deno.test("cross-entropy gives loss and gradient for every vocabulary, without its padding", async () => {
  for (const [rows, vocab] of [[1, 1], [2, 2], [65, 63], [3, 64], [4, 65], [3, 255], [2, 257], [3, 1030]] as const) {
    const logits = dense(rows, vocab, { seed: vocab, size: 6 });
    const targets = Array.from({ length: rows }, (_, row) => (row * 37 + vocab - 1) % vocab);
    await check({ logits, targets, firstRow: 0, gradient: true });
  }
});

Deno.test("cross-entropy leaves rows without a target at loss 0 and gradient 0, and other chunks alone", async () => {
  const logits = dense(5, 83, { seed: 3, size: 4 });
  for (const gradient of [true, false]) {
    await check({ logits, targets: [-1, 0, -1, 82, 41], firstRow: 9, gradient });
    await check({ logits, targets: [-1, -1, -1, -1, -1], firstRow: 0, gradient });
  }
});

Deno.test("cross-entropy loses nothing to an offset that all logits share", async () => {
  // Multiples of 1/32 below 8192: logits and their differences are exact in f32.
  const near = random(4 * 83, 5).map((value) => Math.round(value * 128) / 32);
  for (const offset of [0, 4096, -4096]) {
    const logits = denseOf(4, 83, near.map((value) => value + offset));
    await check({ logits, targets: [0, 5, 82, 40], firstRow: 0, gradient: true });
  }
});

Deno.test("cross-entropy stays finite for huge logits", async () => {
  const values = Float32Array.of(1e30, -1e30, 0, 5, 1e30, -1e30, 0, 5, 1e30, 1e30, 1e30, 1e30, -1e38, 0, -1e38, -1e38);
  const { logits, losses } = await run({
    logits: denseOf(4, 4, values),
    targets: [0, 1, 2, 3],
    firstRow: 0,
    gradient: true,
  });
  const expected = [0, 2e30, Math.log(4), 1e38];
  // The values are f32 themselves; the logarithm errs by 2⁻²¹ or 3 ulp.
  assertValues(losses, {
    what: "losses",
    count: 4,
    want: (row) => ({ value: expected[row] ?? NaN, bound: 2 ** -20 + 8 * ROUND * (expected[row] ?? NaN) }),
  });
  const softmax = [[1, 0, 0, 0], [1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0, 1, 0, 0]];
  assertCells(logits, {
    what: "gradient",
    rows: 4,
    stride: 64,
    want: (row, column) => ({
      value: ((softmax[row]?.[column] ?? 0) - (row === column ? 1 : 0)) * LOSS_SCALE,
      bound: 16 * ROUND,
    }),
  });
});

Deno.test("cross-entropy leaves no buffer behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
