// Texts decoded together, against the same texts alone: lengths, ends, draws, and those who come and go.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { type FinishReason, generate, type GenerateOptions } from "../../lib/generate/generate.ts";
import { generateMany, type ManyRequest } from "../../lib/generate/many.ts";
import { createTextBatch } from "../../lib/generate/text_batch.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { loadModelFrom, type Model } from "../../lib/model/model.ts";
import { pageBytes } from "../../lib/nn/decode/cache.ts";
import { refuses, rejects } from "../refuses.ts";
import { UNEVEN } from "../formats/models.ts";
import { openGoldenModel, someTokens } from "../run/helpers/reference.ts";
import { randomSource } from "../slice/helpers.ts";
import { sharedDevice } from "../device.ts";

interface Read {
  readonly tokens: number[];
  readonly reason: FinishReason;
}

async function read(text: AsyncGenerator<number, FinishReason, undefined>): Promise<Read> {
  const tokens: number[] = [];
  for (let next = await text.next();; next = await text.next()) {
    if (next.done) return { tokens, reason: next.value };
    tokens.push(next.value);
  }
}

async function alone(model: Model, requests: readonly ManyRequest[]): Promise<Read[]> {
  const all: Read[] = [];
  for (const { prompt, ...options } of requests) all.push(await read(generate(model, prompt, options)));
  return all;
}

async function load(eosIds: readonly number[] = []): Promise<Model> {
  return await loadModelFrom(randomSource({ ...UNEVEN, eosIds }), { device: await sharedDevice(), baseDtype: "f16" });
}

const prompt = (length: number, factor: number): number[] =>
  someTokens(length, UNEVEN.vocab).map((id) => (id * factor) % UNEVEN.vocab);

Deno.test("texts of many kinds are the same together and alone, more of them than are decoded at once", async () => {
  using model = await load();
  const [end = 0] = (await alone(model, [{ prompt: prompt(4, 3), maxTokens: 6 }]))[0]?.tokens.slice(4) ?? [];
  using ending = await load([end]);
  const room = ending.spec.maxPosition;
  const requests: ManyRequest[] = [
    { prompt: prompt(4, 3), maxTokens: 20 },
    { prompt: prompt(1, 1), maxTokens: 1 },
    { prompt: prompt(room - 3, 5), maxTokens: 9 },
    { prompt: prompt(9, 7), maxTokens: 12 },
    { prompt: prompt(2, 9), maxTokens: 30, endTokens: prompt(40, 1) },
  ];
  const drawn: ManyRequest[] = [
    { prompt: prompt(5, 2), maxTokens: 9, temperature: 1, seed: 7 },
    { prompt: prompt(5, 2), maxTokens: 9, temperature: 1, seed: 8, topK: 5 },
    { prompt: prompt(3, 4), maxTokens: 12, temperature: 0.7, topP: 0.8, repetitionPenalty: 1.3, seed: 7 },
    { prompt: prompt(3, 5), maxTokens: 12, frequencyPenalty: 1.5, presencePenalty: 0.5 },
    { prompt: prompt(3, 4), maxTokens: 5 },
  ];
  for (const all of [requests, drawn, [...requests, ...drawn]]) {
    const expected = await alone(ending, all);
    assert.deepEqual(await generateMany(ending, all, { sequences: 3 }), expected);
    assert.deepEqual(await generateMany(ending, all), expected);
  }
  const reasons = new Set((await alone(ending, requests)).map(({ reason }) => reason));
  assert.deepEqual([...reasons].sort(), ["context", "end", "length"]);
});

Deno.test("texts of a model with biases and norms of heads are the same together and alone, with masks", async () => {
  for (const name of ["gqa_bias", "qwen3"] as const) {
    const { model, adapters } = await openGoldenModel(name, { device: await sharedDevice() });
    using _ = model;
    const all = [3, 8, 1].map((length, index) => ({ prompt: someTokens(length, 60), maxTokens: 4 + index }));
    const expected: Read[] = [];
    for (const { prompt, ...options } of all) {
      expected.push(await read(generate(model, prompt, { ...options, adapters })));
    }
    assert.deepEqual(await generateMany(model, all, { adapters }), expected);
  }
});

Deno.test("texts join and leave between tokens, and those who stay are not disturbed", async () => {
  using model = await load();
  const device = model.device, before = [device.liveCount, device.bytes];
  const requests = [1, 2, 3, 4].map((factor) => ({ prompt: prompt(6, factor), maxTokens: 40 }));
  const expected = await alone(model, requests);
  {
    await using batch = createTextBatch(model, { sequences: 3, capacity: 50 });
    const [first, second, third, fourth] = requests.map(({ prompt, ...options }) => () =>
      batch.generate(prompt, options)
    );
    assert.ok(first && second && third && fourth);
    const running = first();
    const start = await running.next();
    assert.ok(!start.done);
    const tokens = [start.value];
    const left = second(), aborted = new AbortController();
    await left.next();
    const stopped = batch.generate(requests[2]?.prompt ?? [], { maxTokens: 40, signal: aborted.signal });
    await stopped.next();
    aborted.abort(new Error("enough"));
    await assert.rejects(read(stopped), /enough/);
    await left.return("stop"); // gone in the middle
    const others = Promise.all([read(third()), read(fourth())]);
    for (let next = await running.next(); !next.done; next = await running.next()) tokens.push(next.value);
    assert.deepEqual(tokens, expected[0]?.tokens);
    assert.deepEqual(await others, expected.slice(2));
    // The line is empty now: another text begins as the first one did.
    assert.deepEqual(await read(second()), expected[1]);
  }
  assert.deepEqual([device.liveCount, device.bytes], before);
});

Deno.test("texts that come later, several at once too, do not wait for the end of those under way", async () => {
  using model = await load();
  const room = model.spec.maxPosition;
  const all = [
    { prompt: prompt(3, 2), maxTokens: room - 4 },
    { prompt: prompt(1, 3), maxTokens: 60 },
    { prompt: prompt(1, 5), maxTokens: 4 },
  ];
  const expected = await alone(model, all);
  await using batch = createTextBatch(model, { sequences: 3 });
  const [long, second, third] = all.map(({ prompt, ...own }) => () => batch.generate(prompt, own));
  assert.ok(long && second && third);
  const running = long(), first = await running.next(), ends: string[] = [];
  assert.ok(!first.done);
  const [rest, ...others] = await Promise.all([
    read(running).finally(() => ends.push("long")),
    read(second()).finally(() => ends.push("second")),
    read(third()).finally(() => ends.push("third")),
  ]);
  assert.deepEqual([{ ...rest, tokens: [first.value, ...rest.tokens] }, ...others], expected);
  assert.deepEqual(ends, ["third", "second", "long"]);
});

Deno.test("logits of choices are those of a text alone, beside others", async () => {
  using model = await load();
  const seen = async (make: (options: GenerateOptions) => AsyncGenerator<number, FinishReason>): Promise<string[]> => {
    const all: string[] = [];
    await read(make({ maxTokens: 3, onChoice: (id, logits) => void all.push(`${id}: ${logits.join()}`) }));
    return all;
  };
  await using batch = createTextBatch(model, { capacity: 64 });
  const [own] = await Promise.all([
    seen((options) => batch.generate(prompt(4, 2), options)),
    read(batch.generate(prompt(3, 3), { maxTokens: 9 })),
  ]);
  assert.deepEqual(own, await seen((options) => generate(model, prompt(4, 2), options)));
});

Deno.test("texts wait in order for room in the KV cache, and one that can never fit is refused", async () => {
  using model = await load();
  const page = 2 * pageBytes(model.spec).reduce((sum, layer) => sum + layer, 0);
  const requests = [50, 10, 60, 20].map((maxTokens, index) => ({ prompt: prompt(4, index + 1), maxTokens }));
  const expected = await alone(model, requests);
  // One page: one text at a time.
  assert.deepEqual(await generateMany(model, requests, { cacheBytes: page }), expected);
  await using batch = createTextBatch(model, { cacheBytes: page });
  const [fitting, failing] = await Promise.allSettled([
    read(batch.generate(prompt(4, 1), { maxTokens: 50 })),
    read(batch.generate(prompt(4, 1), { maxTokens: 62 })),
  ]);
  assert.deepEqual(fitting, { status: "fulfilled", value: expected[0] });
  assert.ok(failing.status === "rejected" && failing.reason instanceof CompressoError);
  assert.equal(failing.reason.code, "gpu");
});

Deno.test("under a memory limit texts wait in the order in which they came, and small ones do not overtake a large one", async () => {
  const before = (await sharedDevice()).bytes;
  using free = await load();
  const bytes = free.device.bytes - before;
  const lengths = [50, 110, 5, 5, 5],
    all = lengths.map((maxTokens, index) => ({ prompt: prompt(4, index + 1), maxTokens }));
  const expected = await alone(free, all);
  const page = 2 * pageBytes(free.spec).reduce((sum, layer) => sum + layer, 0);
  // Half of what is left is for the KV cache: two pages. The first text takes one of them, the second needs both.
  using device = await openDevice({ memoryLimit: bytes + 5 * page });
  using model = await loadModelFrom(randomSource({ ...UNEVEN, eosIds: [] }), { device, baseDtype: "f16" });
  await using batch = createTextBatch(model, { sequences: 4 });
  const started: number[] = [];
  const texts = await Promise.all(all.map(async ({ prompt, ...own }, index) => {
    const text = batch.generate(prompt, own), first = await text.next();
    started.push(index);
    assert.ok(!first.done);
    const rest = await read(text);
    return { ...rest, tokens: [first.value, ...rest.tokens] };
  }));
  assert.deepEqual(texts, expected);
  assert.deepEqual(started, [0, 1, 2, 3, 4]);
  assert.ok(device.peakBytes <= device.memoryLimit);
});

Deno.test("texts of one prompt share its pages, during a text and after it, and give them up for others", async () => {
  using model = await load();
  const page = 2 * pageBytes(model.spec).reduce((sum, layer) => sum + layer, 0);
  const requests = [1, 2, 3].map((seed) => ({ prompt: prompt(70, 3), maxTokens: 9, temperature: 1, seed }));
  const other = { prompt: prompt(70, 5), maxTokens: 59 }, again = { prompt: prompt(70, 3), maxTokens: 20 };
  const expected = await alone(model, [...requests, other, again]);
  // A text alone takes two pages. Three of one prompt take one page together, and one each.
  await using batch = createTextBatch(model, { cacheBytes: 4 * page });
  const events: string[] = [];
  const texts = await Promise.all(requests.map(async ({ prompt, ...own }) => {
    const text = batch.generate(prompt, own), first = await text.next();
    events.push("start");
    assert.ok(!first.done);
    const rest = await read(text);
    events.push("end");
    return { ...rest, tokens: [first.value, ...rest.tokens] };
  }));
  assert.deepEqual(texts, expected.slice(0, 3));
  assert.deepEqual(events, ["start", "start", "start", "end", "end", "end"]);
  const later = [again, other, other, again].map(({ prompt, ...own }) => read(batch.generate(prompt, own)));
  const [, , , long, short] = expected;
  assert.deepEqual(await Promise.all(later), [short, long, long, short]);
});

Deno.test("a disposed batch ends its texts, and sizes out of range are refused", async () => {
  using model = await load();
  const batch = createTextBatch(model, { capacity: 60 });
  const text = batch.generate([1, 2], { maxTokens: 40 });
  await text.next();
  await batch[Symbol.asyncDispose]();
  await rejects(read(text), "usage");
  await rejects(read(batch.generate([1, 2], { maxTokens: 1 })), "usage");
  for (const sequences of [0, 33, 1.5]) {
    refuses(() => createTextBatch(model, { sequences }), "usage", { names: [1, 32] });
  }
  refuses(() => createTextBatch(model, { capacity: 0 }), "usage", { value: 0 });
});
