// Tuning by drivers that fail: the run goes on with the tiles that are right, and within its time.
import assert from "node:assert/strict";
import { openDevice } from "../../lib/gpu/device.ts";
import { tuningOf } from "../../lib/gpu/tuning.ts";
import { tuneProducts } from "../../lib/nn/products/tune.ts";
import type { Product } from "../../lib/nn/products/variants.ts";
import { fakeClock, FORWARD, SPEC, tunedPlaces } from "./helpers/tuning.ts";

/** What drivers do with a kernel that is too much for them. */
const FAILURES: Readonly<Record<string, (gpu: GPUDevice, to: GPUComputePipelineDescriptor) => GPUProgrammableStage>> = {
  "cannot compile": (_gpu, { compute }) => ({ ...compute, entryPoint: "none" }),
  "silently does not run": (gpu) => ({
    module: gpu.createShaderModule({ code: "@compute @workgroup_size(1) fn main() {}" }),
  }),
};

for (const [failure, stage] of Object.entries(FAILURES)) {
  Deno.test(`tuneProducts() does without a tile that the driver ${failure}, and the device stays whole`, async () => {
    using own = await openDevice();
    const { gpu } = own, compile = gpu.createComputePipeline.bind(gpu);
    const seen: Product[] = [], places: number[] = [], labels: string[] = [];
    // Kernels are compiled in the order of the tiles, the default's first.
    gpu.createComputePipeline = (descriptor) => {
      const label = descriptor.label ?? "", isProduct = /^product-(?!pack)/.test(label);
      if (isProduct && !labels.includes(label)) labels.push(label);
      return compile(label === labels[1] ? { ...descriptor, compute: stage(gpu, descriptor) } : descriptor);
    };
    const measure = fakeClock(
      own,
      (product, place) => (seen.push(product), places.push(place), place === 1 ? 0.001 : 1),
    );
    // The second time there are other products of the same kernels.
    for (const rows of [256, 350]) {
      const { measured, left } = await tuneProducts(own, SPEC, { ...FORWARD, rows, measure });
      assert.deepEqual([measured, left], [3, 0]);
    }
    assert.deepEqual(tunedPlaces(own, seen), seen.map(() => 0));
    assert.ok(labels.length > 2, `${labels.length} kernels`);
    assert.equal(places.includes(1), false);
    if (own.facts.isCpu) assert.ok(places.includes(2)); // elsewhere the bits of another tile may differ
    assert.equal(own.isBroken, false);
  });
}

Deno.test("tuneProducts() compiles no further tile when its time is over", async () => {
  using own = await openDevice();
  const { gpu } = own, compile = gpu.createComputePipeline.bind(gpu);
  let compiled = 0;
  gpu.createComputePipeline = (descriptor) => {
    if (/^product-(?!pack)/.test(descriptor.label ?? "")) compiled++;
    for (const end = performance.now() + 3000; performance.now() < end;);
    return compile(descriptor);
  };
  const measure = fakeClock(own, () => 1);
  const { measured, left } = await tuneProducts(own, SPEC, { ...FORWARD, budgetSeconds: 2, measure });
  assert.deepEqual([measured, left, compiled], [0, 3, 1]);
  assert.equal(tuningOf(own).size, 0);
});
