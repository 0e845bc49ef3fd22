// Losses beside cross-entropy, and sums of them, against f64 oracles; the oracles against finite differences.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { LOSS_NAMES, type Objective, recordObjective } from "../../lib/nn/train/objective.ts";
import {
  assertCells,
  assertGradient,
  assertValues,
  type Cell,
  dense,
  lay,
  random,
  stateBuffer,
} from "./helpers/cells.ts";

const device: Device = await openDevice();
const LOSS_SCALE = 1 / 7;
const OBJECTIVES: readonly Objective[] = [
  { zLoss: 0.5 },
  { distillation: 1 },
  { crossEntropy: 1, zLoss: 1e-4 },
  { crossEntropy: 0.3, zLoss: 0.01, distillation: 0.7 },
];

interface Row {
  readonly logits: ArrayLike<number>;
  /** Logits of the dense model. */
  readonly dense: ArrayLike<number>;
  readonly target: number;
}

function softmax(logits: ArrayLike<number>): { readonly lse: number; readonly p: Float64Array } {
  const y = Float64Array.from(logits), top = y.reduce((a, b) => Math.max(a, b), -Infinity);
  const lse = top + Math.log(y.reduce((sum, value) => sum + Math.exp(value - top), 0));
  return { lse, p: y.map((value) => Math.exp(value - lse)) };
}

/** The loss of a row, and its gradient by the logits. */
function oracle(
  { logits, dense, target }: Row,
  { crossEntropy = 0, zLoss = 0, distillation = 0 }: Objective,
): { readonly loss: number; readonly gradient: Float64Array } {
  const { lse, p } = softmax(logits), q = softmax(dense);
  const divergence = q.p.reduce((sum, q_, c) => sum + q_ * ((dense[c] ?? NaN) - q.lse - ((logits[c] ?? NaN) - lse)), 0);
  return {
    loss: crossEntropy * (lse - (logits[target] ?? NaN)) + zLoss * lse ** 2 + distillation * divergence,
    gradient: p.map((p_, c) =>
      crossEntropy * (p_ - (c === target ? 1 : 0)) + zLoss * 2 * lse * p_ + distillation * (p_ - (q.p[c] ?? NaN))
    ),
  };
}

Deno.test("the gradient of every objective is that of finite differences", () => {
  const logits = random(7, 1).map((value) => 3 * value), row = { dense: random(7, 2), target: 4 };
  for (const objective of OBJECTIVES) {
    assertGradient((moved) => oracle({ ...row, logits: moved }, objective).loss, logits, {
      what: JSON.stringify(objective),
      gradient: Array.from(oracle({ ...row, logits }, objective).gradient),
    });
  }
});

for (const objective of OBJECTIVES) {
  Deno.test(`recordObjective() gives loss and gradient of ${JSON.stringify(objective)} for every size`, async () => {
    for (const [rows, vocab] of [[1, 1], [65, 63], [3, 64], [4, 65], [2, 257], [3, 1030]] as const) {
      const own = dense(rows, vocab, { seed: vocab, size: 6 }), other = dense(rows, vocab, { seed: 9, size: 4 });
      // A row has no target, and the chunk is not the first.
      const firstRow = 3, targets = Int32Array.from({ length: rows }, (_, row) => row === 1 ? -1 : (7 * row) % vocab);
      const layout = { rows, cols: vocab, stride: strideOf(vocab), fill: 11 },
        wantedTargets = new Int32Array(firstRow + rows);
      wantedTargets.set(targets, firstRow);
      for (const lanes of [8, 256] as const) {
        using state = stateBuffer(device, { lossScale: LOSS_SCALE });
        using targetBuffer = device.uploadBuffer("targets", wantedTargets);
        using logits = device.uploadBuffer("logits", lay(own.values, layout));
        using denseLogits = device.uploadBuffer("dense", lay(other.values, layout));
        using loss = device.createBuffer("loss", 4 * (firstRow + rows));
        using plan = new Plan(device);
        const io = { targets: targetBuffer, state, logits, loss, dense: denseLogits };
        recordObjective(plan, objective, io, { rows, vocab, firstRow, gradient: true, lanes });
        await plan.run();
        const rowOf = (values: Float32Array, row: number): Float32Array =>
          values.subarray(row * vocab, (row + 1) * vocab);
        const wanted = Array.from(targets, (target, row) => {
          return oracle({ logits: rowOf(own.values, row), dense: rowOf(other.values, row), target }, objective);
        });
        const what = `${rows} × ${vocab}, ${lanes} lanes`,
          isLeftOut = (row: number): boolean => (targets[row] ?? -1) < 0;
        // Logits up to 6 and log-sum-exp up to 13: f32's exp and log err by some 2⁻²⁰ of these, their square by 26 times that.
        const error = 2 ** -18, size = 1 + 26 * (objective.zLoss ?? 0);
        assertValues((await device.readFloats(loss, firstRow + rows)).subarray(firstRow), {
          what: `loss of ${what}`,
          want: (row): Cell =>
            isLeftOut(row) ? { value: 0, bound: 0 } : { value: wanted[row]?.loss ?? NaN, bound: 4 * error * size },
        });
        assertCells(await device.readFloats(logits, rows * strideOf(vocab)), {
          what: `gradient of ${what}`,
          rows,
          stride: strideOf(vocab),
          want(row, column): Cell {
            if (column >= vocab || isLeftOut(row)) return { value: 0, bound: 0 };
            const value = (wanted[row]?.gradient[column] ?? NaN) * LOSS_SCALE;
            return { value, bound: error * LOSS_SCALE * size };
          },
        });
      }
    }
  });
}

Deno.test("an objective needs the dense model's logits where a loss compares with them", () => {
  using plan = new Plan(device);
  using buffer = device.createBuffer("all", 256);
  const io = { targets: buffer, state: buffer, logits: buffer, loss: buffer };
  assert.throws(() =>
    recordObjective(plan, { distillation: 1 }, io, { rows: 1, vocab: 1, firstRow: 0, gradient: false })
  );
  assert.deepEqual(LOSS_NAMES, ["crossEntropy", "zLoss", "distillation"]);
});

Deno.test("objectives leave no buffer behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
