// Prompts on one cache: what is read again, and that the tokens are those of a prompt read at once.
import assert from "node:assert/strict";
import { generate, type GenerateOptions } from "../../lib/generate/generate.ts";
import type { Model } from "../../lib/model/model.ts";
import { createSequence, type Sequence } from "../../lib/generate/sequence.ts";
import { refuses, rejects } from "../refuses.ts";
import { openGoldenModel, someTokens } from "../run/helpers/reference.ts";
import { sharedDevice } from "../device.ts";

async function fresh(model: Model, prompt: readonly number[], options: GenerateOptions): Promise<number[]> {
  return await Array.fromAsync(generate(model, prompt, options));
}

async function next(sequence: Sequence, prompt: readonly number[], maxTokens: number): Promise<number[]> {
  return await Array.fromAsync(sequence.generate(prompt, { maxTokens }));
}

Deno.test("turns on one cache give the tokens of prompts read at once, and read only what is new", async () => {
  const device = await sharedDevice();
  const { model, adapters } = await openGoldenModel("gqa_llama3", { device, spec: { eosIds: [] } });
  using _ = model;
  for (const attached of [{}, { adapters }]) {
    using sequence = createSequence(model, attached);
    let prompt = someTokens(20, model.spec.vocab);
    const reused: number[] = [];
    for (const added of [[7, 3], [50, 2, 9, 4, 4], [8]]) {
      const answer = await next(sequence, prompt, 6);
      assert.deepEqual(answer, await fresh(model, prompt, { maxTokens: 6, ...attached }));
      reused.push(sequence.reused);
      prompt = [...prompt, ...answer, ...added];
    }
    // All but the last token of the answer before.
    assert.deepEqual(reused, [0, 20 + 5, 20 + 6 + 2 + 5]);
  }
});

Deno.test("a prompt that the cache cannot hold gets a larger one, to the end of the context", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("mha_linear", { device, spec: { eosIds: [], maxPosition: 1200 } });
  using _ = model;
  using sequence = createSequence(model);
  const prompt = someTokens(1190, model.spec.vocab);
  for (const [length, reused] of [[500, 0], [505, 500], [520, 0], [900, 520], [1190, 0]] as const) {
    await next(sequence, prompt.slice(0, length), 5);
    assert.equal(sequence.reused, Math.min(reused, length - 1), `${length} tokens`);
  }
  const tokens = sequence.generate(prompt, { maxTokens: 50 }), got: number[] = [];
  for (let step = await tokens.next();; step = await tokens.next()) {
    if (step.done) {
      assert.equal(step.value, "context");
      break;
    }
    got.push(step.value);
  }
  assert.equal(got.length, 10);
  assert.deepEqual(got, await fresh(model, prompt, { maxTokens: 10 }));
});

Deno.test("a prompt that leaves the old one is read from where it does, or from the start where little is alike", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("mha_linear", { device, spec: { eosIds: [] } });
  using _ = model;
  using sequence = createSequence(model);
  const { vocab } = model.spec, long = someTokens(40, vocab);
  await next(sequence, long, 3);
  const cases: readonly (readonly [number[], number])[] = [
    [[...long.slice(0, 30), 1, 2, 3], 30],
    [[...long.slice(0, 30), 1, 2, 3], 32], // the last token is always read
    [[...long.slice(0, 30), 1], 30],
    [[...long.slice(0, 2), ...someTokens(30, vocab).reverse()], 0],
    [[9], 0],
  ];
  for (const [prompt, reused] of cases) {
    assert.deepEqual(await next(sequence, prompt, 3), await fresh(model, prompt, { maxTokens: 3 }));
    assert.equal(sequence.reused, reused);
  }
});

Deno.test("after an abort and an early end the cache goes on", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("mha_linear", { device, spec: { eosIds: [] } });
  using _ = model;
  using sequence = createSequence(model);
  const prompt = someTokens(30, model.spec.vocab);
  for (const temperature of [0, 1]) {
    const abort = new AbortController(), got: number[] = [];
    await assert.rejects(async () => {
      for await (const id of sequence.generate(prompt, { maxTokens: 90, temperature, signal: abort.signal })) {
        if (got.push(id) === 3) abort.abort(new Error("enough"));
      }
    }, /enough/);
    for await (const id of sequence.generate([...prompt, ...got.slice(0, 2)], { maxTokens: 60, temperature })) {
      assert.ok(id >= 0);
      assert.equal(sequence.reused, 31);
      refuses(() => void sequence.generate([], { maxTokens: 0 }), "usage", { names: "maxTokens" });
      await rejects(next(sequence, prompt, 3), "usage", { names: "return()" });
      break;
    }
    assert.deepEqual(await next(sequence, prompt, 5), await fresh(model, prompt, { maxTokens: 5 }));
    assert.equal(sequence.reused, 29);
  }
});

Deno.test("an error gives up the cache, and everything is freed", async () => {
  const device = await sharedDevice();
  const { model, adapters } = await openGoldenModel("gqa_f16", { device, spec: { eosIds: [] } });
  using _ = model;
  const before = [device.liveCount, device.bytes];
  const weights = new Map([...adapters.lora.weights].map(([key, values]) => [key, values.map(() => NaN)]));
  {
    using sequence = createSequence(model, { adapters: { lora: { ...adapters.lora, weights } } });
    await rejects(next(sequence, [5, 9, 3], 5), "numeric", { value: "NaN" });
    assert.deepEqual([device.liveCount, device.bytes], before);
  }
  {
    using sequence = createSequence(model);
    await next(sequence, [5, 9, 3], 5);
    assert.ok(device.liveCount > (before[0] ?? 0));
  }
  assert.deepEqual([device.liveCount, device.bytes], before);
});

Deno.test("a sequence that is disposed within a text ends it before it frees, and gives no more", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("mha_linear", { device, spec: { eosIds: [] } });
  using _ = model;
  const prompt = someTokens(30, model.spec.vocab), before = [device.liveCount, device.bytes];
  // At a pause tokens are read ahead.
  for (const isPending of [true, false]) {
    for (const read of [0, 1, 3]) {
      const sequence = createSequence(model), tokens = sequence.generate(prompt, { maxTokens: 60 });
      for (let count = 0; count < read; count++) await tokens.next();
      const pending = isPending ? tokens.next() : null;
      sequence[Symbol.dispose]();
      await pending?.catch((error) => assert.match(String(error), /the sequence was disposed/));
      const rest = isPending || read > 0 ? await Array.fromAsync(tokens) : [];
      assert.deepEqual(rest, []);
      await rejects(next(sequence, prompt, 3), "usage");
      // What was read ahead ends by itself.
      await device.idle();
      assert.deepEqual([device.liveCount, device.bytes], before);
    }
  }
  assert.equal((await fresh(model, prompt, { maxTokens: 3 })).length, 3);
});
