// What a model refuses before it works: sequences beyond its context, passes too small for trees, and a call whose signal has fired.
import assert from "node:assert/strict";
import { openDevice } from "../../lib/gpu/device.ts";
import type { TokenTree } from "../../lib/nn/token_tree.ts";
import { createTreeBuilder } from "../../lib/nn/token_tree.ts";
import { refuses, rejects } from "../refuses.ts";
import { openGoldenModel, someTokens } from "../run/helpers/reference.ts";

const CONTEXT = 8;

Deno.test("a sequence longer than the model's context is refused by every call, one that fills it is not", async () => {
  using device = await openDevice();
  const { model } = await openGoldenModel("gqa_llama3", { device, spec: { maxPosition: CONTEXT } });
  using _ = model;
  const calls = (tokens: readonly number[]): (() => Promise<unknown>)[] => [
    () => model.logits(tokens),
    () => model.hiddenStates(tokens),
    () => model.lossAndGradients({ tokens, labels: tokens }),
    () => model.lossAndGradients({ tokens: [tokens, tokens], labels: [tokens, tokens] }),
    () => model.tokenLosses([...tokens, ...tokens], [...tokens, ...tokens], { batch: 2 }),
    () => model.nextLogprobs(tokens, tokens.map(() => -1), { batch: 1, top: 1 }),
  ];
  for (const call of calls(someTokens(CONTEXT, model.spec.vocab))) await call();
  for (const call of calls(someTokens(CONTEXT + 1, model.spec.vocab))) {
    await rejects(call(), "input", { value: 9, names: 8 });
  }
  device.check();
});

Deno.test("a fired signal stops a call with its reason, and leaves nothing but the numbers of the next one", async () => {
  using device = await openDevice();
  const { model, adapters } = await openGoldenModel("gqa_llama3", { device });
  using _ = model;
  const tokens = someTokens(6, model.spec.vocab), signal = AbortSignal.abort(new Error("not any more"));
  const wanted = await model.logits(tokens, adapters);
  await model.release();
  const before = device.liveCount;
  const calls = [
    () => model.logits(tokens, { ...adapters, signal }),
    () => model.hiddenStates(tokens, { ...adapters, signal }),
    () => model.lossAndGradients({ tokens, labels: tokens, ...adapters, signal }),
  ];
  for (const call of calls) await assert.rejects(call, /not any more/, String(call));
  await model.release();
  assert.equal(device.liveCount, before);
  const { signal: alive } = new AbortController();
  assert.deepEqual(await model.logits(tokens, { ...adapters, signal: alive }), wanted);
});

Deno.test("a tree takes a pass of its size and a context of its depth", async () => {
  using device = await openDevice();
  const { model } = await openGoldenModel("gqa_llama3", { device, spec: { maxPosition: CONTEXT } });
  using _ = model;
  const treeOf = (length: number): TokenTree => {
    const builder = createTreeBuilder(), sequence = { prefix: someTokens(length, model.spec.vocab), choice: [3] };
    builder.add(sequence, builder.shared(sequence));
    return builder.finish();
  };
  const tree = treeOf(CONTEXT);
  assert.equal((await model.treeLosses(tree, { rows: CONTEXT })).length, 1);
  for (const rows of [CONTEXT - 1, 0, 8.5, NaN]) {
    await rejects(model.treeLosses(tree, { rows }), "usage", { value: [8, 1, rows] });
  }
  await rejects(model.treeLosses(treeOf(CONTEXT + 1), { rows: 32 }), "input", { value: 9, names: 8 });
  device.check();
});

Deno.test("a tree is not grown by what is no sequence, nor below nodes that the one before it does not have", () => {
  const builder = createTreeBuilder();
  builder.add({ prefix: [1, 2], choice: [3] }, 0);
  refuses(() => builder.add({ prefix: [], choice: [3] }, 0), "input", { value: 0 });
  refuses(() => builder.add({ prefix: [1], choice: [] }, 0), "input", { value: 0 });
  for (const bad of [-1, 1.5, NaN, 2 ** 26]) {
    refuses(() => builder.add({ prefix: [1], choice: [bad] }, 0), "input", { value: bad });
  }
  for (const shared of [2, -1, 0.5]) {
    refuses(() => builder.add({ prefix: [1, 4], choice: [5] }, shared), "usage", { names: [0, 1] });
  }
  assert.deepEqual([builder.nodes, builder.edges], [2, 1], "what was refused has left nothing");
});
