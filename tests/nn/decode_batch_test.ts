// Sequences that are decoded in step, against the full forward pass of each, and what they may take.
import assert from "node:assert/strict";
import { Device, openDevice } from "../../lib/gpu/device.ts";
import { createBatchPass, sequencesAtOnce } from "../../lib/nn/decode/batch.ts";
import { cacheBytes } from "../../lib/nn/decode/cache.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { assertClose, distance } from "../golden/helpers/golden.ts";
import { UNEVEN } from "../formats/models.ts";
import { randomSource } from "../slice/helpers.ts";
import { rowOf, someTokens } from "../run/helpers/reference.ts";

/** As in decode_step_test.ts. */
const TOLERANCE = 1e-4;

const LENGTH = 7;

for (const placement of ["texture", "buffer"] as const) {
  Deno.test(`logits of sequences in step, weights in ${placement}s, equal those of the full forward pass of each`, async () => {
    using opened = await openDevice();
    const { gpu, facts } = opened;
    using device = placement === "texture" ? opened : new Device(gpu, { ...facts, isCpu: false });
    for (const baseDtype of ["f32", "f16", "q8", "q4"] as const) {
      using model = await loadModelFrom(randomSource(UNEVEN), { device, baseDtype });
      assert.equal(model.weights.embedding.placement, placement);
      const sequences = [1, 2, 3].map((factor) =>
        someTokens(LENGTH, UNEVEN.vocab).map((id) => (id * factor) % UNEVEN.vocab)
      );
      using pass = createBatchPass(device, model.weights, { sequences: 3, capacity: LENGTH });
      const expected = await Promise.all(sequences.map((tokens) => model.logits(tokens)));
      const distances = [];
      for (let t = 0; t < LENGTH; t++) {
        const logits = await pass.logits(sequences.map((tokens) => tokens[t] ?? 0));
        assert.equal(pass.length, t + 1);
        for (const [row, own] of logits.entries()) {
          const full = expected[row] ?? assert.fail();
          distances.push(distance(`${placement} ${baseDtype}, ${row}, ${t}`, own, rowOf(full, t, UNEVEN.vocab)));
        }
      }
      assertClose(distances, TOLERANCE);
      await assert.rejects(pass.logits([0, 0, 0]), /8 tokens, capacity 7/);
    }
  });
}

for (const placement of ["texture", "buffer"] as const) {
  Deno.test(`a sequence's logits are the same bits beside others, whichever and however many, weights in ${placement}s`, async () => {
    using opened = await openDevice();
    const { gpu, facts } = opened;
    using device = placement === "texture" ? opened : new Device(gpu, { ...facts, isCpu: false });
    using model = await loadModelFrom(randomSource(UNEVEN), { device, baseDtype: "f16" });
    const tokens = someTokens(LENGTH, UNEVEN.vocab);
    const run = async (others: number, place: number): Promise<string[]> => {
      using pass = createBatchPass(device, model.weights, { sequences: others + 1, capacity: LENGTH });
      const seen: string[] = [];
      for (const [t, token] of tokens.entries()) {
        const row = Array.from({ length: others + 1 }, (_, index) => index === place ? token : (index * 5 + t) % 71);
        seen.push((await pass.logits(row))[place]?.join() ?? "");
      }
      return seen;
    };
    const alone = await run(0, 0);
    for (const [others, place] of [[2, 1], [8, 8], [31, 17]] as const) {
      assert.deepEqual(await run(others, place), alone, `${others} others`);
    }
  });
}

Deno.test("as many sequences are decoded in step as memory and bindings allow, from one to 32", () => {
  // f32, rows padded to 64; keys and values of three layers.
  const layer = 4 * 100 * 64, one = 6 * layer, GIB = 2 ** 30;
  assert.deepEqual(cacheBytes(UNEVEN, 100), [layer, 0, layer, 0, layer]);
  const atOnce = (
    sizes: Partial<Pick<Device, "memoryLimit" | "bytes">> & { binding?: number; asked?: number; capacity?: number },
  ): number => {
    const { memoryLimit = Infinity, bytes = 0, binding = GIB, asked, capacity = 100 } = sizes;
    const limits = { maxStorageBufferBindingSize: binding, maxBufferSize: GIB };
    return sequencesAtOnce({ memoryLimit, bytes, limits }, UNEVEN, { capacity, bytes: asked });
  };
  assert.equal(atOnce({}), 32);
  assert.equal(atOnce({ asked: 5.5 * one }), 5);
  assert.equal(atOnce({ asked: 0 }), 1);
  assert.equal(atOnce({ memoryLimit: 50 * one, bytes: 30 * one }), 10);
  assert.equal(atOnce({ memoryLimit: 50 * one, bytes: 50 * one }), 1);
  assert.equal(atOnce({ binding: 7.5 * layer }), 7);
  assert.equal(atOnce({ capacity: 2 ** 18 }), 2);
});
