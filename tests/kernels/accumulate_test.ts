// The sum of micro-batches' gradients, bit for bit that of the host, with subnormal numbers, NaN and awkward sizes.
import assert from "node:assert/strict";
import { accumulate } from "../../kernels/mod.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { Plan, u32 } from "../../lib/gpu/plan.ts";
import { random } from "./helpers/cells.ts";

const device: Device = await openDevice();
const LEAST_NORMAL = 2 ** -126;

/** The value as the kernel reads it: a subnormal number is 0. */
function normal(value: number): number {
  return Math.abs(value) < LEAST_NORMAL ? 0 : value;
}

for (const [count, width] of [[1, 64], [63, 64], [200, 128], [1000, 192]] as const) {
  Deno.test(`accumulate adds ${count} values, ${width} a row of workgroups, and nothing beyond them`, async () => {
    const total = random(count + 3, 1), x = random(count + 3, 2);
    const special = [2 ** -127, -(2 ** -149), NaN, Infinity, 3e38, 2 ** -126, 0];
    special.slice(0, count).forEach((value, index) => x[index] = value);
    if (count > 6) [total[5], total[4]] = [-(2 ** -126) * 1.5, 3e38]; // the sums are subnormal, and infinite
    const want = total.map((value, index) =>
      index < count ? normal(Math.fround(normal(value) + normal(x[index] ?? NaN))) : value
    );
    using input = device.uploadBuffer("x", x);
    using sum = device.uploadBuffer("total", total);
    using plan = new Plan(device);
    plan.dispatch(compileKernel(device, accumulate), [input, sum, { params: [u32(count), u32(width)] }], {
      groups: [width / 64, Math.ceil(count / width)],
    });
    await plan.run();
    assert.deepEqual(await device.readFloats(sum, count + 3), want);
  });
}

Deno.test("accumulate leaves no buffer behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
