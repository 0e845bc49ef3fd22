// Rows by an index, both ways, and the parts of a plan that a run may leave out.
import assert from "node:assert/strict";
import { openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { recordCopyRows } from "../../lib/nn/ops.ts";

const device = await openDevice();

for (const [total, first, rows, width] of [[1, 0, 1, 1], [7, 2, 5, 63], [40, 8, 17, 65], [33, 0, 33, 576]] as const) {
  Deno.test(`copyRows() gathers and scatters rows ${first} to ${first + rows - 1} of an order of ${total}, ${width} wide`, async () => {
    const stride = strideOf(width), at = (row: number, c: number): number => row * stride + c;
    const order = Uint32Array.from({ length: total }, (_, i) => (i * 23 + 5) % total);
    assert.equal(new Set(order).size, total);
    const values = Float32Array.from({ length: total * stride }, (_, i) => i + 1);
    using orderBuffer = device.uploadBuffer("order", order);
    using x = device.uploadBuffer("x", values);
    using chunk = device.uploadBuffer("chunk", new Float32Array(total * stride).fill(-1));
    using back = device.uploadBuffer("back", new Float32Array(total * stride).fill(-1));
    using plan = new Plan(device);
    recordCopyRows(plan, { order: orderBuffer, x, y: chunk }, { rows, width, first, direction: "gather" });
    recordCopyRows(plan, { order: orderBuffer, x: chunk, y: back }, { rows, width, first, direction: "scatter" });
    await plan.run();
    const [gathered, scattered] = [
      await device.readFloats(chunk, total * stride),
      await device.readFloats(back, total * stride),
    ];
    const wanted = order.subarray(first, first + rows);
    for (let row = 0; row < total; row++) {
      for (let c = 0; c < stride; c++) {
        const source = wanted[row];
        assert.equal(gathered[at(row, c)], source === undefined ? -1 : values[at(source, c)], `gathered ${row}, ${c}`);
        const isWritten = wanted.includes(row);
        assert.equal(scattered[at(row, c)], isWritten ? values[at(row, c)] : -1, `scattered ${row}, ${c}`);
      }
    }
  });
}

Deno.test("a plan leaves out its optional parts while their condition does not hold", async () => {
  using source = device.uploadBuffer("source", Float32Array.of(1, 2, 3, 4));
  using target = device.createBuffer("target", 16);
  using plan = new Plan(device);
  let isWanted = false;
  plan.clear(target);
  plan.optional(() => isWanted, () => plan.copy(source, target, { bytes: 8 }));
  plan.copy(source, target, { bytes: 4, sourceOffset: 12, targetOffset: 12 });
  await plan.run();
  assert.deepEqual([...await device.readFloats(target, 4)], [0, 0, 0, 4]);
  isWanted = true;
  await plan.run();
  assert.deepEqual([...await device.readFloats(target, 4)], [1, 2, 0, 4]);
});
