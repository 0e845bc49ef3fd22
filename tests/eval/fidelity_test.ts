// Fidelity of a model to the dense one against KL of whole logits in f64, its windows, vocabularies and memory.
import assert from "node:assert/strict";
import { fidelity, type FidelityResult, readReference } from "../../lib/eval/fidelity.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { type Adapters, loadModelFrom, type Model } from "../../lib/model/model.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { cutModel } from "../../lib/slice/vocabulary/cut_model.ts";
import type { Tokenizer } from "../../lib/text/tokenizer.ts";
import { sharedDevice } from "../device.ts";
import { shortDemo } from "../demo.ts";
import { rejects } from "../refuses.ts";
import { openGoldenModel } from "../run/helpers/reference.ts";

const TEXT = "Mia has 12 red apples and 7 green pears. She gives 5 of the apples to Tom, who counts them twice. "
  .repeat(4);
/** The logits are the same f32 ones; the kernel's exp and log err by some 2⁻²⁰ of them. */
const TOLERANCE = 2e-5;

/** What both models have in common at one token, from whole logits. */
interface Place {
  readonly kl: number;
  readonly isSame: boolean;
  readonly nll: readonly [dense: number, own: number];
  readonly dropped: number;
}

function logSoftmax(logits: readonly number[]): number[] {
  const top = Math.max(...logits), total = Math.log(logits.reduce((sum, value) => sum + Math.exp(value - top), 0));
  return logits.map((value) => value - top - total);
}

/** Reads windows as llama.cpp's perplexity does, one logits call a window and model. */
async function placesOf(
  { dense, own, tokenizer, window, text = TEXT, adapters = {}, kept }: {
    readonly dense: Model;
    readonly own: Model;
    readonly tokenizer: Tokenizer;
    readonly window: number;
    readonly text?: string;
    readonly adapters?: Adapters;
    /** The dense model's id of each own token. */
    readonly kept?: Int32Array;
  },
): Promise<Place[]> {
  const all = [...tokenizer.leading, ...tokenizer.encode(text)], places: Place[] = [];
  const denseId = (id: number): number => kept ? kept[id] ?? NaN : id;
  for (let start = 0; start + window <= all.length; start += window) {
    const tokens = all.slice(start, start + window).map((token, i) => tokenizer.leading[i] ?? token);
    const q = await dense.logits(tokens.map(denseId)), p = await own.logits(tokens, adapters);
    const { vocab } = own.spec, { vocab: denseVocab } = dense.spec;
    for (let at = Math.floor(window / 2); at + 1 < window; at++) {
      const next = tokens[at + 1] ?? NaN, ownLog = logSoftmax([...p.subarray(at * vocab, (at + 1) * vocab)]);
      const denseLog = logSoftmax([...q.subarray(at * denseVocab, (at + 1) * denseVocab)]);
      const common = ownLog.map((_, id) => denseLog[denseId(id)] ?? NaN), inside = logSoftmax(common);
      const first = (values: readonly number[]): number => values.indexOf(Math.max(...values));
      places.push({
        kl: inside.reduce((sum, value, id) => sum + Math.exp(value) * (value - (ownLog[id] ?? NaN)), 0),
        isSame: first(ownLog) === first(inside),
        nll: [-(denseLog[denseId(next)] ?? NaN), -(ownLog[next] ?? NaN)],
        dropped: 1 - common.reduce((sum, value) => sum + Math.exp(value), 0),
      });
    }
  }
  return places;
}

function assertEqual(found: FidelityResult, places: readonly Place[]): void {
  const mean = (of: (place: Place) => number): number =>
    places.reduce((sum, place) => sum + of(place), 0) / places.length;
  const sorted = places.map(({ kl }) => kl).sort((a, b) => a - b), half = places.length >> 1;
  const wanted = {
    kl: mean(({ kl }) => kl),
    klMedian: places.length % 2 ? sorted[half] : ((sorted[half - 1] ?? NaN) + (sorted[half] ?? NaN)) / 2,
    top1: mean(({ isSame }) => Number(isSame)),
    nll: mean(({ nll }) => nll[1]),
    dropped: mean(({ dropped }) => dropped),
  };
  for (const [name, want = NaN] of Object.entries(wanted)) {
    const got = found[name as keyof typeof wanted];
    assert.ok(Math.abs(got - want) <= TOLERANCE * (1 + Math.abs(want)), `${name}: ${got}, expected ${want}`);
  }
  const dense = mean(({ nll }) => nll[0]);
  assert.ok(Math.abs(found.dense.nll - dense) <= TOLERANCE * dense, `dense nll: ${found.dense.nll}, expected ${dense}`);
  assert.equal(found.tokens, places.length);
  assert.ok(Math.abs(found.ratio.ratio - Math.exp(found.nll - found.dense.nll)) < 1e-9);
}

async function demo(device: Device, { layers, baseDtype = "f32" as const }: {
  readonly layers?: number;
  readonly baseDtype?: "f32" | "q8";
} = {}): Promise<{ model: Model; tokenizer: Tokenizer }> {
  const { source, tokenizer } = await openModelFiles("demo");
  assert.ok(tokenizer);
  const spec = { ...source.spec, layers: source.spec.layers.slice(0, layers) };
  return { model: await loadModelFrom({ ...source, spec }, { device, tokenizer, baseDtype }), tokenizer };
}

Deno.test("fidelity() is the KL of whole logits over the second halves of windows, with and without BOS", async () => {
  const device = await sharedDevice(), { model: dense, tokenizer } = await demo(device);
  const { model: own } = await demo(device, { layers: 4 });
  using _ = dense;
  using __ = own;
  // An odd window, two leading tokens, and a window that leaves a single token to compare.
  for (const [window, leading, text] of [[33, [], TEXT], [32, [1, 7], TEXT], [3, [1], TEXT.slice(0, 20)]] as const) {
    const told = { ...tokenizer, leading };
    const found = await fidelity(own, await readReference(dense, text, { window, tokenizer: told }));
    assertEqual(found, await placesOf({ dense, own, tokenizer: told, text, window }));
    assert.ok(found.kl > 1e-3 && found.kl99 > found.klMedian, `${found.kl}: the models differ`);
  }
});

Deno.test("a model is exactly like itself: KL 0, the same losses, all first choices", async () => {
  const device = await sharedDevice(), { model } = await demo(device, { baseDtype: "q8" });
  using _ = model;
  const found = await fidelity(model, await readReference(model, TEXT, { window: 48, maxWindows: 2 }));
  const { kl, klError, klMedian, kl99, top1, dropped, ratio, nll, dense } = found;
  assert.deepEqual([kl, klError, klMedian, kl99, top1, dropped, ratio.ratio], [0, 0, 0, 0, 1, 0, 1]);
  assert.equal(nll, dense.nll);
});

Deno.test("masks and LoRA are the model's, not the reference's; a head of its own and soft caps count", async () => {
  const device = await sharedDevice(), { tokenizer } = await openModelFiles("demo");
  assert.ok(tokenizer);
  for (const name of ["gqa_f16", "gemma2"] as const) {
    const { model, adapters } = await openGoldenModel(name, { device });
    using _ = model;
    const { vocab } = model.spec, ids = (text: string): number[] => [...text].map((c) => c.charCodeAt(0) % vocab);
    const told: Tokenizer = {
      ...tokenizer,
      encode: ids,
      idToToken: (id) => String(id),
      tokenToId: (token) => Number(token),
    };
    using dense = await loadModelFrom(model.source, { device, tokenizer: told, baseDtype: "f32" });
    const text = TEXT.slice(0, 40);
    const found = await fidelity(model, await readReference(dense, text, { window: 12 }), { adapters });
    assertEqual(found, await placesOf({ dense, own: model, tokenizer: told, window: 12, text, adapters }));
  }
});

Deno.test("a cut vocabulary is compared over the tokens that both have, and the dropped share is told", async () => {
  const device = await sharedDevice(), { model: dense, tokenizer } = await demo(device, { layers: 2 });
  using _ = dense;
  // All tokens of one character, and every third of the others.
  const kept = Int32Array.from({ length: dense.spec.vocab }, (_, id) => id)
    .filter((id) => id % 3 === 0 || id < 2 || [...tokenizer.decode([id])].length <= 1);
  using cut = await cutModel(dense, kept);
  assert.ok(cut.tokenizer && cut.spec.vocab < dense.spec.vocab);
  const { vocab } = cut.spec;
  const reference = await readReference(dense, TEXT, { window: 32, tokenizer: cut.tokenizer, vocab });
  const found = await fidelity(cut, reference);
  assertEqual(found, await placesOf({ dense, own: cut, tokenizer: cut.tokenizer, window: 32, kept }));
  // The layers and kept rows are the same: only the cut tokens' share is lost.
  assert.ok(found.dropped > 0.01 && found.kl < 1e-6, `${found.dropped}, ${found.kl}`);
  await rejects(async () => await fidelity(dense, reference), "mismatch", { value: [dense.spec.vocab, vocab] });
  // The other way round the reference lacks tokens of the text.
  await rejects(readReference(cut, TEXT, { window: 32, tokenizer, vocab: dense.spec.vocab }), "mismatch");
});

Deno.test("two models are compared where the device holds one of them, with the same bits", async () => {
  const { source, tokenizer } = await shortDemo();
  const compare = async (device: Device, order: "both" | "one"): Promise<FidelityResult> => {
    using first = await loadModelFrom(source, { device, tokenizer, baseDtype: "f32" });
    const reference = await readReference(first, TEXT, { window: 16, maxWindows: 1 });
    if (order === "one") first[Symbol.dispose]();
    using second = await loadModelFrom(source, { device, tokenizer, baseDtype: "q8" });
    return await fidelity(second, reference);
  };
  using large = await openDevice();
  const wanted = await compare(large, "both"), both = large.peakBytes;
  large.resetPeak();
  assert.deepEqual(await compare(large, "one"), wanted);
  const one = large.peakBytes;
  assert.ok(one < 0.9 * both, `${one} of ${both} bytes`);
  using small = await openDevice({ memoryLimit: one });
  await rejects(compare(small, "both"), "gpu");
  assert.deepEqual(await compare(small, "one"), wanted);
});

Deno.test("readReference() refuses texts and windows that leave nothing to compare", async () => {
  const device = await sharedDevice(), { model, tokenizer } = await demo(device, { layers: 1 });
  using _ = model;
  await rejects(readReference(model, "", { window: 8 }), "input", { value: 0 });
  await rejects(readReference(model, "Mia", { window: 64 }), "input", { value: tokenizer.encode("Mia").length });
  await rejects(readReference(model, TEXT, { window: 2 }), "usage", { value: 2 });
  await rejects(readReference(model, TEXT, { window: 513 }), "usage", { value: 513 });
  const { source } = model;
  using mute = await loadModelFrom(source, { device, baseDtype: "f32" });
  await rejects(readReference(mute, TEXT, { window: 8 }), "input", { names: "tokenizer.json" });
});
