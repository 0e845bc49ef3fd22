// Generation with the KV cache against full recomputation of every token, its stop rules, draws and errors.
import assert from "node:assert/strict";
import type { Device } from "../../lib/gpu/device.ts";
import { createDecodePass } from "../../lib/nn/decode/pass.ts";
import { prefillRows } from "../../lib/nn/decode/prefill.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { type FinishReason, generate, type GenerateOptions } from "../../lib/generate/generate.ts";
import { generateText, streamText } from "../../lib/generate/text.ts";
import { sampleToken } from "../../lib/generate/sampling.ts";
import { loadModelFrom, type Model } from "../../lib/model/model.ts";
import { refuses, rejects } from "../refuses.ts";
import { assertClose, distance, type GoldenName } from "../golden/helpers/golden.ts";
import { randomSource, SPEC, UNEVEN } from "../formats/models.ts";
import { tokenizerOf } from "../text/fixtures.ts";
import { argmax, greedyReference, openDemo, openGoldenModel, rowOf, someTokens } from "../run/helpers/reference.ts";
import { sharedDevice } from "../device.ts";

const NAMES: readonly GoldenName[] = ["gqa_llama3", "mha_linear", "mqa_bf16_sharded", "gqa_f16"];
// Both paths are f32 with other orders of summation; the golden tests hold each within this of f64.
const LOGIT_TOLERANCE = 1e-4;

for (const name of NAMES) {
  Deno.test(`greedy tokens of ${name} equal those of full recomputation, bare and with masks and LoRA`, async () => {
    const device = await sharedDevice();
    const { model, adapters } = await openGoldenModel(name, { device });
    using _ = model;
    for (const length of [1, 2, 33]) {
      const prompt = someTokens(length, model.spec.vocab);
      for (const attached of [{}, { adapters }]) {
        const actual = await all(model, prompt, { maxTokens: 8, ...attached });
        assert.deepEqual(actual, await greedyReference(model, prompt, { maxTokens: 8, ...attached }));
      }
    }
    const plain = await all(model, [5, 9, 3], { maxTokens: 8 });
    assert.notDeepEqual(await all(model, [5, 9, 3], { maxTokens: 8, adapters }), plain, "adapters change the tokens");
  });
}

Deno.test("logits at every position equal those of the batched forward, behind any length of prefill", async () => {
  const device = await sharedDevice();
  for (const name of ["gqa_llama3", "mha_linear"] as const) {
    const { model } = await openGoldenModel(name, { device });
    using _ = model;
    const { vocab } = model.spec, tokens = someTokens(40, vocab);
    const expected = await model.logits(tokens);
    for (const start of [0, 1, 32]) {
      using pass = createDecodePass(device, model.weights, { capacity: tokens.length });
      await pass.prefill(tokens.slice(0, start));
      assert.equal(pass.length, start);
      const distances = [];
      for (let t = start; t < tokens.length; t++) {
        const logits = await pass.logits(tokens[t] ?? 0);
        distances.push(distance(`${name} from ${start}, logits[${t}]`, logits, rowOf(expected, t, vocab)));
      }
      assertClose(distances, LOGIT_TOLERANCE);
      await assert.rejects(pass.logits(0), /capacity 40/);
    }
  }
});

Deno.test("a prompt longer than a binding holds is read in slices, as if the slices had been given", async () => {
  const device = await sharedDevice();
  const limits = { maxStorageBufferBindingSize: 2 ** 27, maxBufferSize: 2 ** 28, maxTextureDimension2D: 16384 };
  const tall = { limits: { ...device.limits, ...limits, maxComputeWorkgroupsPerDimension: 65535 } };
  const narrow: DecoderSpec = { ...SPEC, hidden: 16, headDim: 4, layers: [{ heads: 1, kvHeads: 1, ffn: 20 }] };
  const rowsOf = (isCpu: boolean, limits: Partial<Device["limits"]> = {}): number =>
    prefillRows({ limits: { ...tall.limits, ...limits }, facts: { ...device.facts, isCpu } }, narrow);
  assert.deepEqual([rowsOf(false), rowsOf(true)], [4096, 4096]);
  assert.deepEqual([rowsOf(false, { maxTextureDimension2D: 999 }), rowsOf(true, { maxTextureDimension2D: 999 })], [
    4096,
    992,
  ]);
  assert.equal(rowsOf(false, { maxComputeWorkgroupsPerDimension: 1000 }), 992);
  assert.equal(rowsOf(false, { maxStorageBufferBindingSize: 4 * 64 * 1000 }), 992);

  // As wide as a texture takes on a CPU adapter: 512 tokens of it fill the binding of 128 MiB that WebGPU promises.
  const spec: DecoderSpec = { ...narrow, layers: [{ heads: 1, kvHeads: 1, ffn: 65_024 }], maxPosition: 1 << 17 };
  const most = prefillRows(device, spec), capacity = most + 150;
  using model = await loadModelFrom(randomSource(spec), { device });
  const tokens = someTokens(capacity, spec.vocab), last = tokens.pop() ?? 0;
  const logits: Float32Array[] = [];
  for (const slices of [[tokens], [tokens.slice(0, most), tokens.slice(most)]]) {
    using pass = createDecodePass(device, model.weights, { capacity });
    for (const slice of slices) await pass.prefill(slice);
    assert.equal(pass.length, capacity - 1);
    logits.push(await pass.logits(last));
  }
  assert.deepEqual(logits[0], logits[1]);
});

Deno.test("layers of different shapes, some without attention or FFN, generate as they compute", async () => {
  const spec: DecoderSpec = { ...UNEVEN, bosId: null };
  const device = await sharedDevice();
  using model = await loadModelFrom(randomSource(spec), { device, baseDtype: "f32" });
  const prompt = someTokens(9, spec.vocab);
  assert.deepEqual(
    await all(model, prompt, { maxTokens: 20 }),
    await greedyReference(model, prompt, { maxTokens: 20 }),
  );
});

Deno.test("generation ends before an end token, after maxTokens and where the context is full", async () => {
  const device = await sharedDevice();
  const prompt = [5, 9, 3, 11, 20];
  const { model } = await openGoldenModel("mha_linear", { device, spec: { eosIds: [] } });
  using _ = model;
  const tokens = await all(model, prompt, { maxTokens: 30 });
  assert.equal(tokens.length, 30);
  assert.deepEqual(await all(model, prompt, { maxTokens: 1 }), tokens.slice(0, 1));
  for (const at of [0, 1, 6]) { // the first token; within the first groups
    const end = tokens[at] ?? -1;
    const { model: ending } = await openGoldenModel("mha_linear", { device, spec: { eosIds: [999, end] } });
    using _ending = ending;
    assert.deepEqual(await all(ending, prompt, { maxTokens: 30 }), tokens.slice(0, tokens.indexOf(end)));
  }
  const { model: short } = await openGoldenModel("mha_linear", { device, spec: { eosIds: [], maxPosition: 12 } });
  using _short = short;
  assert.deepEqual(await all(short, prompt, { maxTokens: 30 }), tokens.slice(0, 7));
});

Deno.test("generation says why it ended", async () => {
  const device = await sharedDevice();
  const prompt = [5, 9, 3, 11, 20];
  const { model } = await openGoldenModel("mha_linear", { device, spec: { eosIds: [], maxPosition: 12 } });
  using _ = model;
  const run = async (maxTokens: number, endTokens: readonly number[]): Promise<[number[], FinishReason]> => {
    const tokens = generate(model, prompt, { maxTokens, endTokens }), ids: number[] = [];
    for (let next = await tokens.next();; next = await tokens.next()) {
      if (next.done) return [ids, next.value];
      ids.push(next.value);
    }
  };
  const [ids, reason] = await run(7, []);
  assert.equal(reason, "length");
  assert.deepEqual(await run(8, []), [ids, "context"]);
  const end = ids[4] ?? -1;
  assert.deepEqual(await run(8, [end]), [ids.slice(0, ids.indexOf(end)), "end"]);
});

Deno.test("a repetition penalty changes the most likely token as the definition says", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("gqa_llama3", { device, spec: { eosIds: [] } });
  using _ = model;
  const prompt = [5, 9, 3], repetitionPenalty = 1.7, expected = [...prompt];
  for (let step = 0; step < 10; step++) {
    const scores = rowOf(await model.logits(expected), expected.length - 1, model.spec.vocab).slice();
    for (const id of new Set(expected)) {
      const score = scores[id] ?? NaN;
      scores[id] = score < 0 ? score * repetitionPenalty : score / repetitionPenalty;
    }
    expected.push(argmax(scores));
  }
  const actual = await all(model, prompt, { maxTokens: 10, repetitionPenalty });
  assert.deepEqual(actual, expected.slice(prompt.length));
  assert.notDeepEqual(actual, await all(model, prompt, { maxTokens: 10 }));
});

Deno.test("everything allocated is freed after the last token, an early break, an abort and an error", async () => {
  const device = await sharedDevice();
  const { model, adapters } = await openGoldenModel("gqa_llama3", { device, spec: { eosIds: [] } });
  using _ = model;
  const before = device.liveCount, bytes = device.bytes;
  const check = (): void => assert.deepEqual([device.liveCount, device.bytes], [before, bytes]);
  await all(model, [5, 9, 3], { maxTokens: 5, adapters });
  check();
  for await (const _token of generate(model, [5, 9, 3], { maxTokens: 50, temperature: 1 })) break;
  check();
  for (const temperature of [0, 1]) {
    const abort = new AbortController(), got: number[] = [];
    await assert.rejects(async () => {
      for await (const token of generate(model, [5, 9], { maxTokens: 400, temperature, signal: abort.signal })) {
        if (got.push(token) === 3) abort.abort(new Error("enough"));
      }
    }, /enough/);
    assert.ok(got.length >= 3 && got.length < 400, `${got.length} tokens before the abort took effect`);
    check();
    const weights = new Map([...adapters.lora.weights].map(([key, values]) => [key, values.map(() => NaN)]));
    await rejects(
      all(model, [5, 9, 3], { maxTokens: 5, temperature, adapters: { lora: { ...adapters.lora, weights } } }),
      "numeric",
      { value: "NaN" },
    );
    check();
  }
});

Deno.test("draws depend on the seed, and at a low temperature the most likely token wins", async () => {
  const device = await sharedDevice();
  const { model, adapters } = await openGoldenModel("gqa_f16", { device, spec: { eosIds: [] } });
  using _ = model;
  const draw = (seed: number, temperature: number): Promise<number[]> =>
    all(model, [5, 9, 3], { maxTokens: 20, temperature, seed, adapters });
  const first = await draw(1, 1);
  assert.deepEqual(await draw(1, 1), first);
  assert.notDeepEqual(await draw(2, 1), first);
  const cold = await draw(1, 1e-4);
  assert.deepEqual(cold, await all(model, [5, 9, 3], { maxTokens: 20, adapters }));
  assert.notDeepEqual(first, cold);
});

Deno.test("sampleToken() draws each token as often as softmax(logits / temperature) says", () => {
  const logits = Float32Array.of(1, -2, 0.5, 1, -200, 3), temperature = 0.7, draws = 20000;
  const weights = [...logits].map((logit) => Math.exp(logit / temperature));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const counts = weights.map(() => 0);
  for (let i = 0; i < draws; i++) {
    const id = sampleToken(logits, { temperature, u: (i + 0.5) / draws });
    counts[id] = (counts[id] ?? 0) + 1;
  }
  // Evenly spaced u hit an interval of length p in p·draws ± 1 points.
  counts.forEach((count, id) => {
    const expected = (weights[id] ?? 0) / total * draws;
    assert.ok(Math.abs(count - expected) <= 1, `token ${id}: ${count} draws, expected ${expected}`);
  });
  assert.equal(sampleToken(logits, { temperature, u: 1 - 2 ** -25 }), 5);
  for (const bad of [NaN, Infinity]) {
    refuses(() => sampleToken(Float32Array.of(0, bad), { temperature, u: 0.5 }), "numeric", { value: "NaN" });
  }
});

Deno.test("an empty prompt stands for BOS where there is one", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("gqa_f16", { device });
  using _ = model;
  assert.deepEqual(await all(model, [], { maxTokens: 6 }), await all(model, [1], { maxTokens: 6 }));
  const { model: without } = await openGoldenModel("gqa_f16", { device, spec: { bosId: null } });
  using _without = without;
  refuses(() => generate(without, [], { maxTokens: 6 }), "input", { names: "BOS" });
});

Deno.test("prompts and options that cannot be used are refused at once", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("gqa_f16", { device });
  using _ = model;
  const { maxPosition, vocab } = model.spec;
  const refused = (prompt: number[], options: Partial<GenerateOptions>): () => unknown => () =>
    generate(model, prompt, { maxTokens: 4, ...options });
  refuses(refused(someTokens(maxPosition, vocab), {}), "input", { value: 128 });
  for (const token of [-1, vocab, 1.5, NaN]) refuses(refused([3, token], {}), "input", { names: [0, 83] });
  for (const maxTokens of [0, -1, 1.5]) refuses(refused([3], { maxTokens }), "usage", { names: "maxTokens" });
  for (const temperature of [-1, NaN]) refuses(refused([3], { temperature }), "usage", { names: 0 });
  refuses(refused([3], { topK: -1 }), "usage", { names: "topK" });
  refuses(refused([3], { seed: -1 }), "usage", { value: -1 });
  refuses(() => generateText(model, "Hello", { maxTokens: 4 }), "input", { names: "tokenizer.json" });
});

Deno.test("the demo model's text is that of its greedy tokens", async () => {
  const device = await sharedDevice();
  const demo = await openDemo(device);
  using model = demo.model;
  const { tokenizer } = demo;
  const prompt = "Answer the question.\nStory: Sam met the bee. Tom went to Rome. Eva took the axe. Where is Tom?\n";
  const prompted = [...tokenizer.leading, ...tokenizer.encode(prompt)];
  const tokens = await greedyReference(model, prompted, { maxTokens: 12 });
  const pieces: string[] = [];
  for await (const piece of generateText(model, prompt, { maxTokens: 12 })) pieces.push(piece);
  assert.deepEqual(await all(model, prompted, { maxTokens: 12 }), tokens);
  assert.ok(tokens.length > 0, "the demo answers something");
  const text = tokenizer.decode(tokens);
  assert.equal(pieces.join(""), text);
  // A stop string within tokens and across them; what follows it is not generated to its end.
  const stop = text.slice(1, -1), before = [device.liveCount, device.bytes];
  const stopped = generateText(model, prompt, { maxTokens: 12, stop: ["no such text", stop] });
  assert.deepEqual(await stopped.next(), { done: false, value: text.slice(0, 1) });
  assert.deepEqual(await stopped.next(), { done: true, value: "stop" });
  assert.deepEqual([device.liveCount, device.bytes], before);
  refuses(() => generateText(model, prompt, { maxTokens: 12, stop: [""] }), "usage", { option: "stop", value: '""' });
});

Deno.test("a continuation keeps the space that it begins with, an answer and a text from its beginning do not", async () => {
  const tokenizer = await tokenizerOf("sentencepiece");
  const textOf = async (ids: readonly number[], before: readonly number[]): Promise<string> =>
    (await Array.fromAsync(streamText(source(ids), { tokenizer, before }))).join("");
  for (
    const [prompt, whole] of [
      ["The river", "The river carries a stone"],
      ["def f():\n", "def f():\n    return"],
      ["", "The river"],
      ["🌱", "🌱 a stone"],
      ["\uFFFD", "\uFFFD a stone"],
    ] as const
  ) {
    const ids = tokenizer.encode(whole), before = tokenizer.encode(prompt), rest = ids.slice(before.length);
    assert.deepEqual(ids.slice(0, before.length), before);
    const expected = whole.slice(prompt.length);
    assert.equal(await textOf(rest, [...tokenizer.leading, ...before]), expected, whole);
    assert.equal(await textOf(rest, [...before, ...tokenizer.leading]), expected, "special tokens are passed over");
    // Of a prompt that ends within a character nothing comes out.
    for (let end = 0; end <= ids.length; end++) assert.equal(await textOf([], ids.slice(0, end)), "");
  }
  const answer = tokenizer.encode("The river").slice(1);
  assert.equal(await textOf(answer, []), tokenizer.decode(answer));
  assert.equal(await textOf(answer, [100_000]), tokenizer.decode(answer), "a row of the embedding without token");

  async function* source(ids: readonly number[]): AsyncGenerator<number, FinishReason, undefined> {
    yield* ids;
    return await Promise.resolve("length");
  }
});

Deno.test("prompt and continuation together are the text of all tokens", async () => {
  const device = await sharedDevice();
  const tokenizer = await tokenizerOf("sentencepiece"), spec = { ...SPEC, vocab: tokenizer.vocabSize, eosIds: [] };
  using model = await loadModelFrom(randomSource(spec), { device, tokenizer });
  const prompt = "The river", ids = [...tokenizer.leading, ...tokenizer.encode(prompt)];
  let spaces = 0;
  for (let seed = 1; seed <= 24; seed++) {
    const options = { maxTokens: 3, temperature: 1, seed }, tokens = await all(model, ids, options);
    const whole = tokenizer.decode([...ids, ...tokens], { skipSpecial: true });
    if (whole.includes("\uFFFD")) continue; // a run of bytes is told otherwise once it is whole
    const text = (await Array.fromAsync(generateText(model, prompt, options))).join("");
    assert.equal(prompt + text, whole);
    if (text.startsWith(" ")) spaces++;
  }
  assert.ok(spaces > 0, "some continuations begin with a space");
});

async function all(model: Model, prompt: readonly number[], options: GenerateOptions): Promise<number[]> {
  const tokens: number[] = [];
  for await (const token of generate(model, prompt, options)) tokens.push(token);
  return tokens;
}
