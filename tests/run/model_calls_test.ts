// Calls on one model that overlap: each has the numbers of a call alone, whatever the others ask for.
import assert from "node:assert/strict";
import { openDevice } from "../../lib/gpu/device.ts";
import { openGoldenModel, someTokens } from "./helpers/reference.ts";

Deno.test("a call behind the end of its model is refused, and leaves nothing", async () => {
  using device = await openDevice();
  const { model } = await openGoldenModel("gqa_llama3", { device });
  const waiting = model.logits(someTokens(5, model.spec.vocab));
  model[Symbol.dispose]();
  await assert.rejects(waiting, /it is not disposed before its calls are over/);
  assert.equal(device.liveCount, 0);
});

Deno.test("calls that overlap give what they give one by one, of equal and of other shapes, and an error is that call's own", async () => {
  using device = await openDevice();
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
