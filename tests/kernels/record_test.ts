// The ring of step records that the host reads now and then.
import assert from "node:assert/strict";
import { record } from "../../kernels/mod.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { Plan, u32 } from "../../lib/gpu/plan.ts";
import { createStepState, IDLE_STATE, writeStepState } from "../../lib/nn/train/step_state.ts";
import { STALE } from "./helpers/cells.ts";

Deno.test("record writes metrics and constraint to the slot of the step, and wraps around", async () => {
  const slots = 3;
  using device = await openDevice();
  using metrics = device.createBuffer("metrics", 32);
  using constraint = device.createBuffer("constraint", 32);
  using state = createStepState(device);
  using ring = device.uploadBuffer("ring", new Float32Array(16 * slots + 4).fill(STALE));
  using plan = new Plan(device);
  plan.dispatch(compileKernel(device, record), [metrics, constraint, state, ring, { params: [u32(slots)] }], {
    groups: [1],
  });
  const wanted = new Float32Array(16 * slots + 4).fill(STALE);
  for (const step of [4, 5, 6, 7]) {
    const row = Float32Array.from({ length: 16 }, (_, index) => 100 * step + index);
    device.write(metrics, row.subarray(0, 8));
    device.write(constraint, row.subarray(8));
    writeStepState(device, state, { ...IDLE_STATE, step });
    await plan.run();
    wanted.set(row, 16 * (step % slots));
    assert.deepEqual(await device.readFloats(ring, wanted.length), wanted);
  }
});
