// Sequences that are decoded together, against the same sequences decoded alone, and what they may take.
import assert from "node:assert/strict";
import { Device, openDevice } from "../../lib/gpu/device.ts";
import { CACHE_KEYS } from "../../kernels/mod.ts";
import { DecodeBatch, sequencesAtOnce } from "../../lib/nn/decode/batch.ts";
import { createDecodePass } from "../../lib/nn/decode/pass.ts";
import { loadModelFrom, type Model } from "../../lib/model/model.ts";
import { UNEVEN } from "../formats/models.ts";
import { randomSource } from "../slice/helpers.ts";
import { openGoldenModel, someTokens } from "../run/helpers/reference.ts";
import { sharedDevice } from "../device.ts";

/** Prompts of different lengths, some past one page of the caches. */
function prompts(count: number, vocab: number): number[][] {
  const lengths = [5, CACHE_KEYS + 3, 1, 12, 2, CACHE_KEYS, 3, 9, 4, 7];
  return Array.from(
    { length: count },
    (_, index) => someTokens(lengths[index % lengths.length] ?? 1, vocab).map((id) => (id * (index + 1)) % vocab),
  );
}

/** Logits of tokens behind a prompt, token by token, as text: bits that differ give another text. */
async function alone(model: Model, prompt: readonly number[], next: readonly number[]): Promise<string[]> {
  using pass = createDecodePass(model.device, model.weights, { capacity: prompt.length + next.length });
  await pass.prefill(prompt.slice(0, -1));
  const seen: string[] = [];
  for (const token of [prompt.at(-1) ?? 0, ...next.slice(0, -1)]) seen.push((await pass.logits(token)).join());
  return seen;
}

async function together(
  batch: DecodeBatch,
  all: readonly { readonly prompt: readonly number[]; readonly next: readonly number[] }[],
): Promise<string[][]> {
  const open = all.map(({ prompt, next }) => batch.open(prompt.length + next.length) ?? assert.fail("no pages"));
  for (const [index, sequence] of open.entries()) await sequence.prefill(all[index]?.prompt.slice(0, -1) ?? []);
  const seen: string[][] = all.map(() => []), length = Math.max(...all.map(({ next }) => next.length));
  for (let t = 0; t < length; t++) {
    // Those that have ended leave; the others go on in fewer rows, from the last to the first.
    const rows = open.flatMap((sequence, index) => {
      const { prompt = [], next = [] } = all[index] ?? {};
      const token = t === 0 ? prompt.at(-1) ?? 0 : next[t - 1] ?? 0;
      return t < next.length ? [{ sequence, token, index }] : [];
    }).reverse();
    const logits = await batch.logits(rows);
    rows.forEach(({ index }, row) => seen[index]?.push(logits[row]?.join() ?? ""));
  }
  open.forEach((sequence) => sequence[Symbol.dispose]());
  return seen;
}

const DEVICES = {
  texture: openDevice,
  buffer: async () => {
    const { gpu, facts } = await openDevice();
    return new Device(gpu, { ...facts, isCpu: false });
  },
};

for (const placement of ["texture", "buffer"] as const) {
  Deno.test(`logits of sequences together are the bits of each alone, weights in ${placement}s`, async () => {
    using device = await DEVICES[placement]();
    // Kernels over buffers take long to compile; matvec_test.ts has every storage and larger batches.
    const isBuffer = placement === "buffer";
    const spec = isBuffer ? { ...UNEVEN, layers: UNEVEN.layers.slice(0, 1) } : UNEVEN;
    for (const baseDtype of isBuffer ? ["f16"] as const : ["f32", "f16", "q8", "q4"] as const) {
      using model = await loadModelFrom(randomSource(spec), { device, baseDtype });
      assert.equal(model.weights.embedding.placement, placement);
      for (const count of isBuffer ? [2] : [1, 3, 10]) {
        const all = prompts(count, UNEVEN.vocab).map((prompt, index) => ({
          prompt,
          next: someTokens(2 + index % 3, UNEVEN.vocab),
        }));
        using batch = new DecodeBatch(device, model.weights, { sequences: count, capacity: 80 });
        const pages = batch.freePages, seen = await together(batch, all);
        assert.equal(batch.freePages, pages);
        for (const [index, { prompt, next }] of all.entries()) {
          assert.deepEqual(seen[index], await alone(model, prompt, next), `${baseDtype}, ${index} of ${count}`);
        }
      }
    }
  });
}

for (const name of ["gqa_bias", "qwen3", "opt", "opt_residual", "gemma2", "mistral_window", "lfm2"] as const) {
  Deno.test(`logits of ${name} are the same bits together and alone`, async () => {
    const device = await sharedDevice();
    const { model } = await openGoldenModel(name, { device });
    using _ = model;
    const { vocab } = model.spec;
    const all = prompts(3, vocab).map((prompt) => ({ prompt: prompt.slice(-30), next: someTokens(3, vocab) }));
    using batch = new DecodeBatch(device, model.weights, { sequences: 3, capacity: 80 });
    const seen = await together(batch, all);
    for (const [index, { prompt, next }] of all.entries()) {
      assert.deepEqual(seen[index], await alone(model, prompt, next), `${index}`);
    }
  });
}

Deno.test("greedy tokens of sequences together are those of each alone, in groups that overlap", async () => {
  const device = await sharedDevice();
  using model = await loadModelFrom(randomSource(UNEVEN), { device, baseDtype: "f32" });
  const all = prompts(3, UNEVEN.vocab);
  using batch = new DecodeBatch(device, model.weights, { sequences: 3, capacity: 90 });
  const rows = [];
  for (const prompt of all) {
    const sequence = batch.open(90) ?? assert.fail();
    await sequence.prefill(prompt.slice(0, -1));
    rows.push({ sequence, token: prompt.at(-1) ?? 0 });
  }
  assert.equal(batch.open(1), null);
  const groups = await Promise.all([
    batch.next(rows, { count: 4 }),
    batch.next(null, { count: 1 }),
    batch.next(null, { count: 6 }),
  ]);
  for (const [index, prompt] of all.entries()) {
    using pass = createDecodePass(device, model.weights, { capacity: 90 });
    await pass.prefill(prompt.slice(0, -1));
    const expected = await pass.next(prompt.at(-1) ?? 0, { count: 11 });
    assert.deepEqual(groups.flatMap((group) => group[index] ?? []), expected);
    assert.equal(rows[index]?.sequence.length, prompt.length + 10);
  }
  await assert.rejects(batch.next(null, { count: 90 }), /capacity 90/);
  rows[1]?.sequence[Symbol.dispose]();
  await assert.rejects(batch.next(rows, { count: 1 }), /was disposed/);
});

for (const placement of ["texture", "buffer"] as const) {
  Deno.test(`a fork of a sequence has its bits and its pages, which the last of them frees, in ${placement}s`, async () => {
    using device = await DEVICES[placement]();
    const spec = { ...UNEVEN, layers: UNEVEN.layers.slice(0, 2) };
    using model = await loadModelFrom(randomSource(spec), { device, baseDtype: "f16" });
    using batch = new DecodeBatch(device, model.weights, { sequences: 3, capacity: 150, pages: 5 });
    for (const length of [CACHE_KEYS - 1, CACHE_KEYS, CACHE_KEYS + 5]) {
      const prompt = someTokens(length, spec.vocab), next = someTokens(3, spec.vocab);
      const expected = await alone(model, [...prompt, next[0] ?? 0], next);
      const first = batch.open(80) ?? assert.fail("no pages");
      await first.prefill(prompt);
      await batch.logits([{ sequence: first, token: 1 }]); // lies behind the fork
      const fork = first.fork(length, { capacity: 140 }) ?? assert.fail("no pages");
      const whole = Math.floor(length / CACHE_KEYS);
      assert.equal(batch.freePages, 5 - 2 - (3 - whole));
      assert.equal(first.fork(length, { capacity: 150 }), null);
      first.trim(length);
      await assert.rejects(first.prefill([1]), /capacity/);
      const second = first.fork(length, { capacity: length + 1 }) ?? assert.fail("no pages");
      first[Symbol.dispose]();
      second[Symbol.dispose]();
      assert.equal(batch.freePages, 2);
      const seen: string[] = [];
      for (const token of next.map((_, at) => at === 0 ? next[0] ?? 0 : next[at - 1] ?? 0)) {
        seen.push((await batch.logits([{ sequence: fork, token }])).map((row) => row.join())[0] ?? "");
      }
      assert.deepEqual(seen, expected);
      fork[Symbol.dispose]();
      assert.equal(batch.freePages, 5);
    }
  });
}

Deno.test("as many sequences are decoded together as memory and bindings allow, from one to 32", async () => {
  using device = await openDevice();
  using model = await loadModelFrom(randomSource(UNEVEN), { device, baseDtype: "f32" });
  // f32, rows padded to 64; keys and values of three layers, in pages.
  const page = 6 * 4 * CACHE_KEYS * 64, { limits } = device;
  const atOnce = (
    { capacity = 100, bytes, left = Infinity, texels = limits.maxTextureDimension2D }: {
      readonly capacity?: number;
      readonly bytes?: number;
      readonly left?: number;
      readonly texels?: number;
    },
  ): number => {
    const limited = {
      limits: {
        maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
        maxBufferSize: limits.maxBufferSize,
        maxTextureDimension2D: texels,
      },
      memoryLimit: device.bytes + left,
      bytes: device.bytes,
    };
    return sequencesAtOnce(limited, model.weights, { capacity, bytes });
  };
  assert.equal(atOnce({}), 32);
  assert.equal(atOnce({ bytes: 11 * page }), 5);
  assert.equal(atOnce({ bytes: 0 }), 1);
  assert.equal(atOnce({ left: 40 * page }), 10);
  assert.equal(atOnce({ left: 0 }), 1);
  const heads = Math.max(...UNEVEN.layers.map(({ kvHeads }) => kvHeads));
  assert.equal(atOnce({ texels: 1024, capacity: CACHE_KEYS * Math.floor(1024 / heads / 7) }), 7);
  assert.equal(atOnce({ capacity: 50 * CACHE_KEYS, bytes: 120 * page }), 2);
});
