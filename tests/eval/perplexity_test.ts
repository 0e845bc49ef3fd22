// Perplexity against the plain definition in f64, its windows, batches and errors.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { type Adapters, loadModelFrom, type Model } from "../../lib/model/model.ts";
import { perplexity, type PerplexityOptions, type WindowLoss } from "../../lib/eval/perplexity.ts";
import { type Refusal, rejects } from "../refuses.ts";
import { nllReference, openDemo, openGoldenModel, someTokens } from "../run/helpers/reference.ts";
import { sharedDevice } from "../device.ts";

// The reference takes the same f32 logits, only its log-sum-exp is f64.
const NLL_TOLERANCE = 1e-5;

Deno.test("perplexity equals that of the logits of every window, whatever the batch", async () => {
  const device = await sharedDevice();
  for (const name of ["gqa_llama3", "mha_linear"] as const) {
    const { model, adapters } = await openGoldenModel(name, { device });
    using _ = model;
    const window = 13, tokens = someTokens(5 * window + 4, model.spec.vocab);
    for (const attached of [{}, { adapters }]) {
      const expected = await meanReference(model, tokens, { window, ...attached });
      for (const batch of [1, 2, 5, 64, undefined]) {
        const actual = await perplexity(model, tokens, { window, ...(batch ? { batch } : {}), ...attached });
        assert.ok(
          Math.abs(actual.nll - expected) <= NLL_TOLERANCE * expected,
          `${name}, batch ${batch}: ${actual.nll}, expected ${expected}`,
        );
        assert.deepEqual(
          [actual.tokens, actual.windows, actual.perplexity],
          [5 * (window - 1), 5, Math.exp(actual.nll)],
        );
      }
    }
  }
});

Deno.test("perplexity() measures the first windows only where maxWindows says so, and tells how far it is", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("gqa_f16", { device });
  using _ = model;
  const tokens = someTokens(40, model.spec.vocab), seen: [number, number][] = [];
  const onProgress = (windows: number, total: number): void => void seen.push([windows, total]);
  const actual = await perplexity(model, tokens, { window: 8, maxWindows: 3, batch: 2, onProgress });
  assert.deepEqual(actual, await perplexity(model, tokens.slice(0, 24), { window: 8, batch: 2 }));
  assert.deepEqual(seen, [[2, 3], [3, 3]]);
});

Deno.test("windows that are known are not run again, and the others come out the same to the last bit", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("gqa_f16", { device });
  using _ = model;
  const tokens = someTokens(60, model.spec.vocab);
  for (const options of [{ window: 8, batch: 3 }, { window: 10, stride: 4, batch: 2 }]) {
    const seen: WindowLoss[] = [];
    const whole = await perplexity(model, tokens, { ...options, onWindow: (place, loss) => seen[place] = loss });
    assert.deepEqual(seen, whole.perWindow);
    const all = seen.map((_, place) => place);
    for (const places of [[0], [0, 1, 2], [1, 3, 6], all]) {
      const known = new Map(seen.map((loss, place) => [place, loss] as const).filter(([at]) => places.includes(at)));
      const added: number[] = [], onWindow = (place: number): void => void added.push(place);
      assert.deepEqual(await perplexity(model, tokens, { ...options, known, onWindow }), whole);
      assert.deepEqual(added, all.filter((place) => !known.has(place)));
    }
  }
  const known = new Map([0, 1, 2].map((place) => [place, { nll: 0, tokens: 7 }]));
  const run = model.tokenLosses.bind(model);
  let runs = 0;
  model.tokenLosses = (...args) => (runs++, run(...args));
  const actual = await perplexity(model, tokens, { window: 8, batch: 3, known });
  assert.equal(runs, 2, "one of three batches is known");
  assert.deepEqual(actual.perWindow.slice(0, 3), [...known.values()]);
});

Deno.test("with a stride windows slide, and each token but the first counts once, with what its window has before it", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("gqa_f16", { device });
  using _ = model;
  const tokens = someTokens(31, model.spec.vocab);
  for (const [window, stride] of [[10, 4], [10, 10], [8, 7], [40, 3]] as const) {
    let sum = 0, count = 0, windows = 0;
    // As in transformers' documentation, "Perplexity of fixed-length models".
    for (let begin = 0, seen = 0; seen < tokens.length; begin += stride, windows++) {
      const end = Math.min(begin + window, tokens.length), fresh = Math.max(seen - begin, 1);
      sum += await nllReference(model, tokens.slice(begin, end), { from: fresh });
      count += end - begin - fresh;
      seen = end;
    }
    const actual = await perplexity(model, tokens, { window, stride, batch: 3 });
    const what = `window ${window}, stride ${stride}: ${actual.nll}, expected ${sum / count}`;
    assert.ok(Math.abs(actual.nll - sum / count) <= NLL_TOLERANCE * actual.nll, what);
    assert.equal(actual.tokens, count);
    if (stride < window) assert.equal(count, tokens.length - 1);
    assert.equal(actual.perWindow.reduce((total, { tokens }) => total + tokens, 0), count);
    assert.ok(actual.windows <= windows);
    const first = await perplexity(model, tokens, { window, stride, maxWindows: 1 });
    assert.ok(Math.abs((first.perWindow[0]?.nll ?? NaN) - (actual.perWindow[0]?.nll ?? NaN)) < 1e-4);
  }
});

Deno.test("each window begins with the leading ids, among its tokens and not counted, and all tokens behind them are predicted", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("gqa_f16", { device });
  using _ = model;
  const tokens = someTokens(31, model.spec.vocab);
  for (const leading of [[3], [3, 5]]) {
    for (const stride of [undefined, 4]) {
      const own = 10 - leading.length, step = stride ?? own;
      let sum = 0, count = 0;
      for (
        let begin = 0, seen = 0;
        stride === undefined ? begin + own <= tokens.length : seen < tokens.length;
        begin += step
      ) {
        const end = Math.min(begin + own, tokens.length), from = leading.length + seen - begin;
        sum += await nllReference(model, [...leading, ...tokens.slice(begin, end)], { from });
        count += end - seen;
        seen = end;
      }
      const actual = await perplexity(model, tokens, { window: 10, leading, batch: 3, ...(stride ? { stride } : {}) });
      assert.equal(actual.tokens, count);
      assert.ok(
        Math.abs(actual.nll - sum / count) <= NLL_TOLERANCE * actual.nll,
        `${leading} ${stride}: ${actual.nll}`,
      );
      assert.notEqual(actual.digest, (await perplexity(model, tokens, { window: 10 })).digest);
    }
  }
  const demo = await openDemo(device), { tokenizer } = demo;
  demo.model[Symbol.dispose]();
  const encode = (): number[] => tokens;
  using begun = await loadModelFrom(model.source, { device, tokenizer: { ...tokenizer, encode, leading: [3] } });
  assert.deepEqual(
    { ...await perplexity(begun, "any", { window: 10 }), bitsPerByte: null },
    await perplexity(model, tokens, { window: 10, leading: [3] }),
  );
});

Deno.test("perplexity of the demo model takes the first characters of a text, without special tokens", async () => {
  const device = await sharedDevice();
  const demo = await openDemo(device);
  using model = demo.model;
  const { tokenizer } = demo;
  const text =
    "Answer the question.\nStory: Sam met the bee. Tom went to Rome. Eva took the axe. Where is Tom?\nin Rome\n".repeat(
      3,
    );
  const tokens = tokenizer.encode(text.slice(0, 150));
  const actual = await perplexity(model, text, { window: 16, limitChars: 150 });
  assert.deepEqual(actual, await perplexity(model, tokens, { window: 16 }));
  // The digest is of what the windows read: not of what is dropped behind them, but of each token within.
  const digestOf = async (ids: readonly number[]): Promise<string> =>
    (await perplexity(model, ids, { window: 16, maxWindows: 1 })).digest;
  assert.equal(await digestOf(tokens), await digestOf(tokens.slice(0, 20)));
  assert.notEqual(await digestOf(tokens), await digestOf([tokens[1] ?? 0, ...tokens.slice(1)]));
  assert.notDeepEqual(actual, await perplexity(model, text, { window: 16 }));
  const expected = await meanReference(model, tokens, { window: 16 });
  assert.ok(Math.abs(actual.nll - expected) <= NLL_TOLERANCE * expected, `${actual.nll}, expected ${expected}`);
});

Deno.test("bits per byte are over the text of the predicted tokens, with and without a stride and leading ids", async () => {
  const { model, tokenizer } = await openDemo(await sharedDevice());
  using _ = model;
  const tokens = tokenizer.encode("Mia saw two red dogs, and Tom saw one. ".repeat(2));
  const bytesOf = (ids: readonly number[]): number => new TextEncoder().encode(tokenizer.decode(ids)).length;
  const window = 8, whole = Math.floor(tokens.length / window) * window;
  const starts = Array.from({ length: whole / window }, (_, index) => index * window);
  const firsts = starts.reduce((sum, at) => sum + bytesOf(tokens.slice(at, at + 1)), 0);
  const bytes = [
    [{ window }, bytesOf(tokens.slice(0, whole)) - firsts],
    [{ window, stride: 3 }, bytesOf(tokens) - bytesOf(tokens.slice(0, 1))],
    // One token of each window is the leading one, so each has a token less of the text, and predicts all of them.
    [{ window: window + 1, leading: [1] }, bytesOf(tokens.slice(0, whole))],
  ] as const;
  for (const [options, expected] of bytes) {
    const { nll, tokens: count, bitsPerByte } = await perplexity(model, tokens, options);
    assert.ok(Math.abs((bitsPerByte ?? NaN) - nll * count / Math.LN2 / expected) < 1e-9, JSON.stringify(options));
  }
  const { model: mute } = await openGoldenModel("gqa_f16", { device: await sharedDevice() });
  using __ = mute;
  assert.equal((await perplexity(mute, someTokens(20, mute.spec.vocab), { window: 8 })).bitsPerByte, null);
});

Deno.test("limitChars counts code points", async () => {
  const device = await sharedDevice();
  const { model: bare } = await openGoldenModel("gqa_f16", { device });
  using _ = bare;
  const demo = await openDemo(device);
  demo.model[Symbol.dispose]();
  const encoded: string[] = [];
  const tokenizer = { ...demo.tokenizer, encode: (text: string): number[] => (encoded.push(text), [1, 2, 3, 4]) };
  using model = await loadModelFrom(bare.source, { device, tokenizer });
  for (const limitChars of [1, 2, 3, 9]) await perplexity(model, "a😀b", { window: 2, limitChars });
  assert.deepEqual(encoded, ["a", "a😀", "a😀b", "a😀b"]);
});

Deno.test("perplexity() refuses what it cannot measure", async () => {
  const device = await sharedDevice();
  const { model, adapters } = await openGoldenModel("gqa_f16", { device });
  using _ = model;
  const tokens = someTokens(20, model.spec.vocab);
  const refused = (
    text: string | number[],
    options: PerplexityOptions,
    [code, message]: [CompressoError["code"], Refusal],
  ): Promise<void> => rejects(perplexity(model, text, options), code, message);
  await refused(tokens, { window: 21 }, ["input", { value: 20, names: 21 }]);
  await refused([], { window: 2 }, ["input", { value: 0 }]);
  await refused("text", { window: 2 }, ["input", { names: "tokenizer.json" }]);
  for (const window of [1, 2.5, 129]) await refused(tokens, { window }, ["usage", { names: 128 }]);
  for (const stride of [0, 1.5, 5]) await refused(tokens, { window: 4, stride }, ["usage", { names: [1, 4] }]);
  await refused(tokens, { window: 3, leading: [1, 2, 3] }, ["usage", { names: 4 }]);
  await refused(tokens, { window: 9, leading: [1], stride: 9 }, ["usage", { names: 8 }]);
  await refused([3], { window: 4, stride: 2 }, ["input", { value: 1 }]);
  await refused(tokens, { window: 4, limitChars: 9 }, ["usage", { names: "limitChars" }]);
  await refused(tokens, { window: 4, batch: 0 }, ["usage", { value: 0 }]);
  await refused(tokens, { window: 4, maxWindows: 0 }, ["usage", { names: "maxWindows" }]);
  await refused([...tokens, model.spec.vocab], { window: 3 }, ["input", { value: 83 }]);
  const weights = new Map([...adapters.lora.weights].map(([key, values]) => [key, values.map(() => NaN)]));
  await refused(tokens, { window: 4, adapters: { lora: { ...adapters.lora, weights } } }, ["numeric", {
    value: [1, "NaN"],
  }]);
  const reason = new Error("enough");
  await assert.rejects(perplexity(model, tokens, { window: 4, signal: AbortSignal.abort(reason) }), reason);
});

async function meanReference(
  model: Model,
  tokens: readonly number[],
  { window, adapters }: { readonly window: number; readonly adapters?: Adapters },
): Promise<number> {
  const windows = Math.floor(tokens.length / window);
  let sum = 0;
  for (let index = 0; index < windows; index++) {
    const part = tokens.slice(index * window, (index + 1) * window);
    sum += await nllReference(model, part, { from: 1, ...(adapters ? { adapters } : {}) });
  }
  return sum / (windows * (window - 1));
}
