// What a device lends and what goes wrong on it: refused allocations leave nothing behind, and are told apart from failures.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { readBack } from "../../lib/gpu/read_back.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { createLora } from "../../lib/nn/lora.ts";
import { createRangeBuffers } from "../../lib/nn/key_ranges.ts";
import { createMaskSlots } from "../../lib/nn/mask_slots.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { createOptimizer } from "../../lib/nn/train/optimizer.ts";
import { SPEC } from "../formats/models.ts";
import { rejects } from "../refuses.ts";

const LORA = { rank: 8, alpha: 16, targets: ["q", "v"] } as const;

Deno.test("where the last buffer does not fit, those before it are given back", async () => {
  const makers: readonly ((device: Device) => Disposable)[] = [
    (device) => createMaskSlots(device, SPEC),
    (device) => createRangeBuffers(device, "trees", { rows: 1000, windows: [undefined, 8] }),
    (device) => createLora(device, SPEC, { ...LORA, trains: true }),
  ];
  for (const make of makers) {
    using roomy = await openDevice();
    using _ = make(roomy);
    using device = await openDevice({ memoryLimit: roomy.bytes - 1 });
    assert.throws(() => make(device), /memory limit/);
    assert.deepEqual([device.liveCount, device.bytes], [0, 0]);
  }
});

Deno.test("LoRA that only infers takes the memory of its parameters, and an optimizer that of its arrays", async () => {
  using device = await openDevice();
  using inferring = createLora(device, SPEC, { ...LORA, trains: false });
  const { bytes } = device;
  using training = createLora(device, SPEC, { ...LORA, trains: true });
  const { params } = training;
  assert.equal(inferring.params.bytes, params.bytes);
  assert.ok(bytes - params.bytes <= 3 * 16, "no gradients");
  assert.equal(device.bytes - bytes, 2 * params.bytes);
  for (const [name, arrays] of [["adamw", 2], ["lion", 1]] as const) {
    const before = device.bytes;
    using _ = createOptimizer(device, name, training);
    assert.equal(device.bytes - before, arrays * params.bytes, name);
  }
});

Deno.test("a limit that is no number refuses everything, and not nothing", async () => {
  using device = await openDevice({ memoryLimit: NaN });
  assert.match(errorOf(() => device.createBuffer("small", 4)).message, /the memory limit is NaN/);
});

Deno.test("a refusal over the limit that was got over is not the reason of a later failure", async () => {
  using device = await openDevice({ memoryLimit: 1024 });
  const refusal = errorOf(() => device.createBuffer("large", 2048));
  assert.equal(device.shortageOf(refusal), "limit");
  assert.equal(device.isBroken, false);
  device.gpu.dispatchEvent(
    new GPUUncapturedErrorEvent("uncapturederror", { error: new GPUValidationError("not this") }),
  );
  assert.equal(device.isBroken, true);
  const failure = errorOf(() => device.check());
  assert.match(failure.message, /not this/);
  assert.equal(device.shortageOf(failure), null);
  assert.equal(device.shortageOf(refusal), "limit");
});

Deno.test("what a failure for want of memory says to do is not to report it, and no more weights are written after it", async () => {
  const { source } = await openModelFiles("demo");
  using device = await openDevice();
  const error = new GPUOutOfMemoryError("no memory left");
  let reads = 0;
  const full: WeightSource = {
    ...source,
    spec: source.spec,
    storedDtype: (name) => source.storedDtype(name),
    read(name, rows): Promise<Float32Array<ArrayBuffer>> {
      if (++reads === 3) device.gpu.dispatchEvent(new GPUUncapturedErrorEvent("uncapturederror", { error }));
      return source.read(name, rows);
    },
  };
  await assert.rejects(
    loadModelFrom(full, { device, baseDtype: "f32" }),
    /no memory left; fix: its memory is full: use a smaller/,
  );
  assert.ok(reads < 6, `${reads} reads`);
});

Deno.test("what is written is not held a second time until something is submitted", async () => {
  using device = await openDevice();
  const data = new Uint8Array(1 << 25), count = 16;
  using buffer = device.createBuffer("large", data.length);
  const before = Deno.memoryUsage().rss;
  for (let write = 0; write < count; write++) {
    device.write(buffer, data);
    await device.settleWrites();
  }
  const grown = Deno.memoryUsage().rss - before;
  assert.ok(grown < 0.5 * count * data.length, `${grown} bytes for ${count} writes of ${data.length}`);
});

function errorOf(work: () => unknown): Error {
  try {
    work();
  } catch (error) {
    if (error instanceof Error) return error;
  }
  throw new Error("nothing was thrown");
}

Deno.test("ranges are read whole however small the pieces are, in order and to the byte", async () => {
  using device = await openDevice();
  const bytes = (count: number, first: number): Uint8Array<ArrayBuffer> =>
    Uint8Array.from({ length: count }, (_, index) => (first + 7 * index) % 251);
  const [long, short] = [bytes(256, 3), bytes(64, 100)];
  using a = device.uploadBuffer("a", long);
  using b = device.uploadBuffer("b", short);
  const ranges = [
    { buffer: a, byteOffset: 8, bytes: 201 },
    { buffer: b, bytes: 0 },
    { buffer: b },
    { buffer: a, byteOffset: 252, bytes: 3 },
  ];
  const wanted = [long.slice(8, 209), new Uint8Array(0), short, long.slice(252, 255)];
  for (const most of [4, 20, 64, 208, 272, 1024]) {
    device.resetPeak();
    const before = device.bytes, read = await readBack(device, ranges, { most });
    assert.deepEqual(read.map((part) => new Uint8Array(part)), wanted, `pieces of ${most}`);
    const staged = device.peakBytes - before; // buffers have multiples of 16 bytes
    assert.ok(staged <= 16 * Math.ceil(most / 16), `${staged} for pieces of ${most}`);
  }
  const read = await device.read(ranges);
  assert.deepEqual(read.map((part) => new Uint8Array(part)), wanted);
});

Deno.test("openDevice() takes the adapter of the GPU object that it is given", async () => {
  const asked: (GPURequestAdapterOptions | undefined)[] = [];
  const gpu: GPU = Object.create(navigator.gpu, {
    requestAdapter: {
      value: (options?: GPURequestAdapterOptions) => (asked.push(options), navigator.gpu.requestAdapter(options)),
    },
  });
  using device = await openDevice({ gpu });
  assert.deepEqual(asked, [{ powerPreference: "high-performance" }]);
  assert.equal(device.isDry, false);
});

Deno.test("where the runtime has no WebGPU, openDevice() names the option that takes one", async () => {
  Object.defineProperty(navigator, "gpu", { value: undefined, configurable: true });
  try {
    await rejects(openDevice(), "gpu", { option: "gpu", value: navigator.userAgent });
  } finally {
    Reflect.deleteProperty(navigator, "gpu");
  }
  using device = await openDevice();
  assert.equal(device.isDry, false);
});
