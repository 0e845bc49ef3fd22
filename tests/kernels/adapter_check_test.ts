// The check of an adapter: what is right passes, and a kernel that a driver leaves undone does not.
import assert from "node:assert/strict";
import { openDevice } from "../../lib/gpu/device.ts";
import { checkAdapter } from "../../lib/nn/adapter_check.ts";

Deno.test("checkAdapter() finds this adapter right in the main kernels of a forward pass, and frees what it took", async () => {
  using device = await openDevice();
  const checks = await checkAdapter(device);
  assert.deepEqual(checks.map(({ name }) => name), [
    "product",
    "f16 weights",
    "q8 weights",
    "q4 weights",
    "norm",
    "attention",
  ]);
  for (const { name, largestError, bound } of checks) assert.ok(largestError <= bound, `${name}: ${largestError}`);
  assert.equal(device.liveCount, 0);
});

for (
  const [kernel, wrong] of [
    ["product-(?!pack)", ["product", "f16 weights", "q8 weights", "q4 weights"]],
    ["norm_", ["norm"]],
    ["attention", ["attention"]],
  ] as const
) {
  Deno.test(`checkAdapter() finds kernels wrong that do nothing: ${kernel}`, async () => {
    using device = await openDevice();
    const { gpu } = device, compile = gpu.createComputePipeline.bind(gpu);
    const nothing = gpu.createShaderModule({ code: "@compute @workgroup_size(1) fn main() {}" });
    gpu.createComputePipeline = (descriptor) =>
      compile(
        new RegExp(`^${kernel}`).test(descriptor.label ?? "")
          ? { ...descriptor, compute: { module: nothing } }
          : descriptor,
      );
    const checks = await checkAdapter(device);
    assert.deepEqual(checks.flatMap(({ name, largestError, bound }) => largestError <= bound ? [] : [name]), wrong);
  });
}
