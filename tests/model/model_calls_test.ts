// Calls on one model that overlap: each has the numbers of a call alone, whatever the others ask for.
import assert from "node:assert/strict";
import { benchModels } from "../../lib/bench/models.ts";
import { loadModel, prune } from "../../mod.ts";
import { generate } from "../../lib/generate/generate.ts";
import { createSequence } from "../../lib/generate/sequence.ts";
import { rejects } from "../refuses.ts";
import { BASE } from "../run/helpers/demo_run.ts";
import { openGoldenModel, someTokens } from "../run/helpers/reference.ts";
import { sharedDevice } from "../device.ts";

Deno.test("a call behind the end of its model is refused, and leaves nothing", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("gqa_llama3", { device });
  const tokens = someTokens(5, model.spec.vocab), waiting = model.logits(tokens);
  model[Symbol.dispose]();
  model[Symbol.dispose]();
  await rejects(waiting, "usage");
  assert.equal(device.liveCount, 0);
  const calls = [
    () => model.logits(tokens),
    () => model.hiddenStates(tokens),
    () => model.tokenLosses(tokens, tokens, { batch: 1 }),
    () => model.lossAndGradients({ tokens, labels: tokens }),
    () => generate(model, tokens, { maxTokens: 1 }).next(),
    () => createSequence(model).generate(tokens, { maxTokens: 1 }).next(),
    () => benchModels([{ name: "a", model }], { prompt: 2, tokens: 2 }),
  ];
  for (const call of calls) await rejects(call, "usage");
  assert.equal(device.liveCount, 0);
  device.check();
});

Deno.test("a model that is disposed under a call is freed behind it, and the call gives its result", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("gqa_llama3", { device });
  const tokens = someTokens(5, model.spec.vocab), want = await model.logits(tokens);
  const states = await model.hiddenStates(tokens), { loss } = await model.lossAndGradients({ tokens, labels: tokens });
  const text = generate(model, tokens, { maxTokens: 2 }), { value: first } = await text.next();
  const under = [
    model.logits(tokens),
    model.hiddenStates(tokens),
    model.lossAndGradients({ tokens, labels: tokens }),
  ] as const;
  await Promise.resolve(); // the first of them begins
  model[Symbol.dispose]();
  assert.ok(device.liveCount > 0);
  const [logits, hidden, gradients] = await Promise.all(under);
  assert.deepEqual([logits, hidden, gradients.loss], [want, states, loss]);
  assert.ok(device.liveCount > 0, "the text is not over");
  assert.equal((await text.next()).done, false);
  await text.return("stop");
  assert.notEqual(first, undefined);
  assert.equal(device.liveCount, 0);
  device.check();
});

Deno.test("a run keeps the weights of a model that is disposed before it, and no other run may begin on it", async () => {
  const device = await sharedDevice();
  const model = await loadModel("demo", { device });
  {
    using run = prune(model, { ...BASE, steps: 2 });
    for await (const { step } of run) if (step === 1) model[Symbol.dispose]();
    assert.equal(run.result().sparsity.target, BASE.sparsity);
    assert.ok(device.liveCount > 0);
  }
  assert.equal(device.liveCount, 0);
  using other = prune(model, { ...BASE, steps: 2 });
  await rejects(async () => {
    for await (const _ of other) assert.fail("a step was done");
  }, "usage");
  assert.equal(device.liveCount, 0);
});

Deno.test("a call works on its input as it was, whatever the caller does with the arrays until its turn", async () => {
  const device = await sharedDevice();
  const { model, adapters } = await openGoldenModel("gqa_llama3", { device });
  using _ = model;
  const { vocab } = model.spec, tokens = someTokens(6, vocab), labels = [...tokens], next = [...tokens.slice(1), -1];
  const own = structuredClone(adapters), { head } = own.masks ?? {}, matrix = own.lora?.weights.values().next().value;
  assert.ok(head && matrix);
  const calls = [
    () => model.logits(tokens, own),
    () => model.tokenLosses(tokens, labels, { batch: 2, adapters: own }),
    () => model.nextLogprobs(tokens, next, { batch: 1, top: 2, adapters: own }),
  ];
  const want: unknown[] = [];
  for (const call of calls) want.push(await call());
  const waiting = calls.map((call) => call());
  head.fill(0);
  matrix.fill(1);
  tokens.fill(0);
  tokens.push(vocab);
  labels.fill(1);
  next.fill(-1);
  assert.deepEqual(await Promise.all(waiting), want);
});

Deno.test("tokens, labels and a batch that do not fit each other are refused by their numbers", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("gqa_llama3", { device });
  using _ = model;
  const tokens = someTokens(6, model.spec.vocab), short = tokens.slice(1);
  for (const batch of [0, 4, 1.5, -1, NaN, 12]) {
    const message = { value: [6, batch] };
    await rejects(model.tokenLosses(tokens, tokens, { batch }), "usage", message);
    await rejects(model.nextLogprobs(tokens, tokens, { batch, top: 1 }), "usage", message);
  }
  await rejects(model.tokenLosses(tokens, short, { batch: 1 }), "input", { value: [6, 5] });
  await rejects(model.tokenLosses(short, tokens, { batch: 1 }), "input", { value: [5, 6] });
  const [rows, columns] = [[tokens.slice(0, 3), tokens.slice(3)], [[0, 1], [2, 3], [4, 5]]];
  await rejects(model.lossAndGradients({ tokens: rows, labels: columns }), "input", { value: [2, 3] });
  device.check();
});

Deno.test("calls that overlap give what they give one by one, of equal and of other shapes, and an error is that call's own", async () => {
  const device = await sharedDevice();
  const { model, adapters } = await openGoldenModel("gqa_llama3", { device });
  using _ = model;
  const { vocab } = model.spec, first = someTokens(12, vocab), second = first.toReversed(), short = first.slice(0, 5);
  const next = (tokens: readonly number[]): number[] => [...tokens.slice(1), -1];
  const calls = [
    () => model.logits(first),
    () => model.logits(second),
    () => model.logits(short, adapters),
    () => model.tokenLosses(first, first, { batch: 1 }),
    () => model.tokenLosses(second, second, { batch: 2 }),
    () => model.nextLogprobs(first, next(first), { batch: 1, top: 2 }),
    () => model.nextLogprobs(second, next(second), { batch: 1, top: 3 }),
  ];
  const alone: unknown[] = [];
  for (const call of calls) alone.push(await call());
  const aborted = AbortSignal.abort(new Error("not this one"));
  const [failed, ...together] = await Promise.allSettled([
    model.tokenLosses(first, first, { batch: 1, signal: aborted }),
    ...calls.map((call) => call()),
  ]);
  assert.match(String(failed.status === "rejected" && failed.reason), /not this one/);
  together.forEach((result, index) => {
    assert.deepEqual(result.status === "fulfilled" ? result.value : result.reason, alone[index], `call ${index}`);
  });
});
