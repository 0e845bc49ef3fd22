// KV caches of layers with a sliding window: rings of pages have the same logits in less memory, and say what they no longer hold.
import assert from "node:assert/strict";
import { CACHE_KEYS } from "../../kernels/mod.ts";
import { DecodeBatch, pagesWithin } from "../../lib/nn/decode/batch.ts";
import { createDecodePass } from "../../lib/nn/decode/pass.ts";
import { pagesIn, WINDOW_PART } from "../../lib/nn/decode/windows.ts";
import { pageBytes } from "../../lib/nn/decode/cache.ts";
import { Device, openDevice } from "../../lib/gpu/device.ts";
import { loadModelFrom, type Model } from "../../lib/model/model.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { assertClose, distance } from "../golden/helpers/golden.ts";
import { someTokens } from "../run/helpers/reference.ts";
import { randomSource } from "../slice/helpers.ts";

const LAYER = { heads: 4, kvHeads: 2, ffn: 24 };
/** A window shorter than a page, none, and one longer than a page. */
const SPEC: DecoderSpec = {
  vocab: 67,
  hidden: 32,
  headDim: 8,
  layers: [{ ...LAYER, window: 7 }, LAYER, { ...LAYER, window: CACHE_KEYS + 9 }],
  normEps: 1e-5,
  rope: { base: 10000, scaling: { kind: "none" } },
  tied: true,
  maxPosition: 1024,
  bosId: null,
  eosIds: [],
  padId: null,
};
/** Longer than both rings, 6 and 7 pages. */
const LENGTH = 450, START = 440;
const TOLERANCE = 1e-5;

/** A convolution in place of the first window. */
const CONVOLVED: DecoderSpec = {
  ...SPEC,
  convolution: { length: 9 },
  layers: [{ heads: 0, kvHeads: 0, ffn: 24, conv: true }, ...SPEC.layers.slice(1)],
};

const CASES = [["texture", "windows", SPEC], ["buffer", "windows", SPEC], [
  "buffer",
  "a convolution",
  CONVOLVED,
]] as const;

for (const [placement, what, spec] of CASES) {
  Deno.test(`rings of pages of ${what} in ${placement}s have the logits of the full forward pass, together and alone`, async () => {
    using opened = await openDevice();
    const device = placement === "texture" ? opened : new Device(opened.gpu, { ...opened.facts, isCpu: false });
    using model = await loadModelFrom(randomSource(spec), { device, baseDtype: "f32" });
    const tokens = someTokens(LENGTH, SPEC.vocab), expected = await model.logits(tokens);
    const check = (t: number, logits: Float32Array): void =>
      assertClose(
        [distance(`logits[${t}]`, logits, expected.subarray(t * SPEC.vocab, (t + 1) * SPEC.vocab))],
        TOLERANCE,
      );

    using pass = createDecodePass(device, model.weights, { capacity: LENGTH });
    // The second part is read in several plans, the first in one, of which the ring keeps the end.
    await pass.prefill(tokens.slice(0, 410));
    await pass.prefill(tokens.slice(410, START));
    const alone: string[] = [];
    for (let t = START; t < LENGTH; t++) {
      const logits = await pass.logits(tokens[t] ?? 0);
      check(t, logits);
      alone.push(logits.join());
    }

    const capacity = LENGTH + 20;
    using batch = new DecodeBatch(device, model.weights, { sequences: 2, capacity });
    const first = batch.open(capacity) ?? assert.fail("no pages");
    await first.prefill(tokens.slice(0, 410));
    await first.prefill(tokens.slice(410, START));
    assert.ok(first.holds(START) && !first.holds(CACHE_KEYS - 4) && !first.holds(START + 1));
    const fork = first.fork(START, { capacity: LENGTH }) ?? assert.fail("no pages");
    for (let t = START; t < LENGTH; t++) {
      const rows = [first, fork].map((sequence) => ({ sequence, token: tokens[t] ?? 0 }));
      const [one, two] = await batch.logits(t % 2 === 0 ? rows : rows.toReversed());
      assert.equal(one?.join(), alone[t - START], `logits[${t}]`);
      assert.equal(two?.join(), alone[t - START], `logits[${t}] of the fork`);
    }
    assert.ok(fork.holds(START), "a fork holds what it was made of");
    fork[Symbol.dispose]();
    first[Symbol.dispose]();
    assert.equal(batch.freePages, Math.min(...[7, undefined, CACHE_KEYS + 9].map((own) => 2 * pagesIn(own, capacity))));
  });
}

Deno.test("a rewind goes back as far as rings hold, and to the beginning from there", async () => {
  using device = await openDevice();
  using model = await loadModelFrom(randomSource(SPEC), { device, baseDtype: "f32" });
  const tokens = someTokens(LENGTH, SPEC.vocab), expected = await model.logits(tokens);
  using pass = createDecodePass(device, model.weights, { capacity: 2 * LENGTH });
  await pass.prefill(tokens);
  const near = LENGTH - WINDOW_PART + 2 * CACHE_KEYS;
  assert.equal(pass.rewind(near), near);
  const logits = await pass.logits(tokens[near] ?? 0);
  assertClose([distance("near", logits, expected.subarray(near * SPEC.vocab, (near + 1) * SPEC.vocab))], TOLERANCE);
  // What lies behind it was overwritten when the sequence was longer.
  assert.equal(pass.rewind(30), 0);
  assert.equal(pass.length, 0);
  await pass.prefill(tokens.slice(0, 40));
  const again = await pass.logits(tokens[40] ?? 0);
  assertClose([distance("again", again, expected.subarray(40 * SPEC.vocab, 41 * SPEC.vocab))], TOLERANCE);
});

Deno.test("caches of layers with a window take its pages, and leave room for more sequences", async () => {
  using device = await openDevice();
  const bytesOf = async (model: Model, capacity: number): Promise<number> => {
    const before = device.bytes;
    using pass = createDecodePass(device, model.weights, { capacity });
    assert.ok(pass.length === 0);
    return await Promise.resolve(device.bytes - before);
  };
  using model = await loadModelFrom(randomSource(SPEC), { device, baseDtype: "f32" });
  const plain = { ...SPEC, layers: SPEC.layers.map(() => LAYER) };
  using other = await loadModelFrom(randomSource(plain), { device, baseDtype: "f32" });
  const [own, usual] = [await bytesOf(model, 1024), await bytesOf(other, 1024)];
  // In textures rows have no padding: keys and values of 2 heads of 8 dims, f32; 16 pages, or rings of 6 and 7. Two more
  // page tables and params of two more windows take less than 1 KiB.
  const page = 2 * 4 * CACHE_KEYS * 16;
  const saved = usual - own, whole = (10 + 9) * page;
  assert.ok(saved <= whole && saved > whole - 1024, `${saved} of ${whole} bytes`);
  const limit = { sequences: 8, capacity: 1024, bytes: 40 * 2 * Math.max(...pageBytes(SPEC)) };
  assert.equal(pagesWithin(device, other.weights, limit), 13);
  assert.equal(pagesWithin(device, model.weights, limit), 13);
  const more = { ...limit, sequences: 1 };
  assert.equal(pagesWithin(device, model.weights, more), 40 - pagesIn(7, 1024) - pagesIn(CACHE_KEYS + 9, 1024));
});
