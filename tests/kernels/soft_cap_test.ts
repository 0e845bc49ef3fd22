// Soft caps of logits, alone and within the cross-entropy, against f64 oracles, and the oracle against finite differences.
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { recordSoftCap } from "../../lib/nn/ops.ts";
import { CROSS_ENTROPY, recordObjective } from "../../lib/nn/train/objective.ts";
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

const LOSS_SCALE = 1 / 7;

const bent = (x: number, cap: number): number => cap * Math.tanh(x / cap);

/** Loss of a row, and its gradient. */
function lossOf(logits: ArrayLike<number>, target: number, cap: number): { loss: number; gradient: Float64Array } {
  const y = Float64Array.from(logits, (x) => bent(x, cap)), top = Math.max(...y);
  const total = y.reduce((sum, value) => sum + Math.exp(value - top), 0);
  const gradient = y.map((value, c) =>
    (Math.exp(value - top) / total - (c === target ? 1 : 0)) * (1 - (value / cap) ** 2)
  );
  return { loss: Math.log(total) + top - (y[target] ?? NaN), gradient };
}

Deno.test("the gradient of cross-entropy with a soft cap is that of finite differences", () => {
  const logits = random(7, 1).map((value) => 3 * value);
  assertGradient((moved) => lossOf(moved, 4, 2.5).loss, logits, {
    what: "logits",
    gradient: Array.from(lossOf(logits, 4, 2.5).gradient),
  });
});

Deno.test("cross-entropy with a soft cap gives loss and gradient for every size", async () => {
  using device: Device = await openDevice();
  for (const [rows, vocab] of [[1, 1], [3, 63], [2, 64], [5, 257], [2, 1030]] as const) {
    for (const cap of [1.5, 30]) {
      const logits = dense(rows, vocab, { seed: vocab, size: 6 }), stride = strideOf(vocab);
      const targets = Int32Array.from({ length: rows }, (_, row) => row === 1 ? -1 : (7 * row) % vocab);
      using state = stateBuffer(device, { lossScale: LOSS_SCALE });
      using targetBuffer = device.uploadBuffer("targets", targets);
      using buffer = device.uploadBuffer("logits", lay(logits.values, { rows, cols: vocab, stride, fill: 11 }));
      using loss = device.createBuffer("loss", 4 * rows);
      using plan = new Plan(device);
      const io = { targets: targetBuffer, state, logits: buffer, loss };
      recordObjective(plan, CROSS_ENTROPY, io, { rows, vocab, firstRow: 0, gradient: true, cap });
      await plan.run();
      const wanted = Array.from(
        targets,
        (target, row) => lossOf(logits.values.subarray(row * vocab, (row + 1) * vocab), target, cap),
      );
      const what = `${rows} × ${vocab}, cap ${cap}`;
      // Some drivers' tanh is good to 1e-5 of 1, which is the error of a logit over its cap.
      const error = 2e-5 * cap + 1e-5;
      assertValues(await device.readFloats(loss, rows), {
        what: `loss of ${what}`,
        want: (row): Cell =>
          (targets[row] ?? -1) < 0 ? { value: 0, bound: 0 } : { value: wanted[row]?.loss ?? NaN, bound: 2 * error },
      });
      assertCells(await device.readFloats(buffer, rows * stride), {
        what: `gradient of ${what}`,
        rows,
        stride,
        want(row, column): Cell {
          if (column >= vocab || (targets[row] ?? -1) < 0) return { value: 0, bound: 0 };
          const value = (wanted[row]?.gradient[column] ?? NaN) * LOSS_SCALE;
          return {
            value,
            bound: 2 * error * LOSS_SCALE * (1 / vocab + Math.abs(wanted[row]?.gradient[column] ?? 0)) + 1e-6,
          };
        },
      });
    }
  }
});

Deno.test("recordSoftCap() bends the first values in place and no others, and is finite for large ones", async () => {
  using device: Device = await openDevice();
  for (const count of [1, 63, 64, 65, 1000]) {
    const values = random(count + 3, 5).map((value, i) => i % 7 === 0 ? 1e6 * value : 20 * value), cap = 12;
    using x = device.uploadBuffer("x", Float32Array.from(values));
    using plan = new Plan(device);
    recordSoftCap(plan, x, { count, cap });
    await plan.run();
    assertValues(await device.readFloats(x, count + 3), {
      what: `${count} values`,
      want(i): Cell {
        const value = Math.fround(values[i] ?? NaN);
        return i < count ? { value: bent(value, cap), bound: 2e-5 * cap } : { value, bound: 0 };
      },
    });
  }
});
