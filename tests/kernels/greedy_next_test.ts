// The greedy choice at the end of a decoding step, against a plain loop.
import assert from "node:assert/strict";
import { greedyNext } from "../../kernels/mod.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { Plan, u32 } from "../../lib/gpu/plan.ts";
import { uniform } from "../../lib/core/random.ts";
import { sharedDevice } from "../device.ts";

const NONE = 0xffffffff;

Deno.test("greedyNext takes the largest logit, the lowest id among equals, for any width", async () => {
  const device = await sharedDevice();
  for (const vocab of [1, 2, 255, 256, 257, 1000, 49153]) {
    const logits = Float32Array.from({ length: vocab }, (_, c) => uniform(7, vocab, c) * 4 - 9); // all negative
    let best = 0;
    logits.forEach((value, c) => best = value > (logits[best] ?? NaN) ? c : best);
    assert.deepEqual(
      await choose(device, logits, { position: 3 }),
      { token: best, pick: best, position: 4 },
      `${vocab}`,
    );
    // The same maximum twice more, in a lane before and a lane after.
    const equal = Float32Array.from(logits, (value, c) => c % 300 === 5 ? 2 : value);
    const first = vocab > 5 ? 5 : best;
    assert.equal((await choose(device, equal, { position: 0 })).pick, first, `${vocab}, with equals`);
    assert.equal((await choose(device, new Float32Array(vocab), { position: 0 })).pick, 0, `${vocab}, all equal`);
  }
});

Deno.test("greedyNext chooses nothing where a logit is NaN or infinite, wherever it stands", async () => {
  const device = await sharedDevice();
  for (const bad of [NaN, Infinity, -Infinity]) {
    for (const at of [0, 255, 256, 700]) {
      const logits = Float32Array.from({ length: 701 }, (_, c) => c === at ? bad : c / 100);
      assert.deepEqual(
        await choose(device, logits, { position: 1 }),
        { token: 0, pick: NONE, position: 2 },
        `${bad} at ${at}`,
      );
    }
  }
});

Deno.test("greedyNext writes nothing past the last position", async () => {
  const device = await sharedDevice();
  const chosen = await choose(device, Float32Array.of(0, 1), { position: 8 });
  assert.deepEqual(chosen, { token: 1, pick: undefined, position: 9 });
});

Deno.test("greedyNext chooses for each row, at its own position", async () => {
  const device = await sharedDevice(), vocab = 5, stride = 64, capacity = 3;
  const logits = new Float32Array(3 * stride).fill(9); // padding is larger than every logit
  [[0, 1, 2, 1, 0], [4, 4, 1, 0, 0], [0, NaN, 0, 0, 0]].forEach((row, index) => logits.set(row, index * stride));
  using input = device.uploadBuffer("logits", logits);
  using tokens = device.createBuffer("tokens", 12);
  using picks = device.createBuffer("picks", 4 * 3 * capacity);
  using at = device.uploadBuffer("position", Uint32Array.of(2, 0, 1));
  using plan = new Plan(device);
  plan.dispatch(compileKernel(device, greedyNext), [input, tokens, picks, at, {
    params: [u32(vocab), u32(capacity), u32(stride)],
  }], { groups: [3] });
  await plan.run();
  const sizes = [[tokens, 3], [picks, 9], [at, 3]] as const;
  const read = (await device.read(sizes.map(([buffer, count]) => ({ buffer, bytes: 4 * count })))).map((bytes) =>
    new Uint32Array(bytes)
  );
  assert.deepEqual(read.map((values) => [...values]), [[2, 0, 0], [0, 0, 2, 0, 0, 0, 0, NONE, 0], [3, 1, 2]]);
});

async function choose(
  device: Device,
  logits: Float32Array<ArrayBuffer>,
  { position }: { readonly position: number },
): Promise<{ token: number | undefined; pick: number | undefined; position: number | undefined }> {
  const capacity = 8;
  using input = device.uploadBuffer("logits", logits);
  using tokens = device.uploadBuffer("tokens", Uint32Array.of(77));
  using picks = device.createBuffer("picks", 4 * capacity);
  using at = device.uploadBuffer("position", Uint32Array.of(position));
  using plan = new Plan(device);
  plan.dispatch(compileKernel(device, greedyNext), [input, tokens, picks, at, {
    params: [u32(logits.length), u32(capacity), u32(logits.length)],
  }], { groups: [1] });
  await plan.run();
  const [token, all, next] = (await device.read([
    { buffer: tokens, bytes: 4 },
    { buffer: picks, bytes: 4 * capacity },
    { buffer: at, bytes: 4 },
  ])).map((bytes) => new Uint32Array(bytes));
  all?.forEach((pick, index) => assert.ok(index === position || pick === 0, `picks[${index}] was written`));
  return { token: token?.[0], pick: all?.[position], position: next?.[0] };
}
