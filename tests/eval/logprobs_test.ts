// Log-probabilities of prompts against a softmax of Model.logits in f64, over batches, paddings and numbers of likely tokens.
import assert from "node:assert/strict";
import { tokenLogprobs } from "../../lib/eval/logprobs.ts";
import { rejects } from "../refuses.ts";
import { openGoldenModel, rowOf, someTokens } from "../run/helpers/reference.ts";
import { sharedDevice } from "../device.ts";

// The products sum in the same order for every batch; f32 against f64 in the softmax alone.
const TOLERANCE = 1e-5;

Deno.test("tokenLogprobs() gives each token's log-probability and the most likely ones, for sequences of any lengths", async () => {
  const device = await sharedDevice();
  const { model, adapters } = await openGoldenModel("gqa_llama3", { device });
  using _ = model;
  const { vocab, maxPosition } = model.spec;
  const lengths = [3, 1, 40, 17, 16, 2, 33].map((length) => Math.min(length, maxPosition));
  const sequences = lengths.map((length, index) => someTokens(length + index, vocab).slice(index));
  for (const attached of [{}, { adapters }]) {
    const expected: number[][][] = [];
    for (const tokens of sequences) {
      const logits = await model.logits(tokens, attached.adapters);
      expected.push(tokens.map((_, t) => logSoftmax(rowOf(logits, t, vocab))));
    }
    for (const top of [0, 1, 4]) {
      const found = await tokenLogprobs(model, sequences, { top, ...attached });
      sequences.forEach((tokens, index) => {
        const places = found[index] ?? [];
        assert.equal(places.length, tokens.length + 1);
        assert.deepEqual(places[0], { logprob: null, top: [] });
        for (let t = 1; t <= tokens.length; t++) {
          const p = expected[index]?.[t - 1] ?? [], place = places[t], where = `place ${t} of sequence ${index}`;
          const isNear = (actual: number | null | undefined, id: number | undefined): void =>
            assert.ok(Math.abs((actual ?? NaN) - (p[id ?? -1] ?? NaN)) < TOLERANCE, where);
          if (t === tokens.length) assert.equal(place?.logprob, null, where);
          else isNear(place?.logprob, tokens[t]);
          const order = p.map((_, id) => id).sort((a, b) => (p[b] ?? NaN) - (p[a] ?? NaN) || a - b);
          assert.deepEqual(place?.top.map(({ id }) => id), order.slice(0, top), where);
          for (const { id, logprob } of place?.top ?? []) isNear(logprob, id);
        }
      });
    }
  }
});

Deno.test("tokenLogprobs() gives a token that is the most likely the same bits in both places", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("mha_linear", { device });
  using _ = model;
  const [first] = await tokenLogprobs(model, [[5, 9, 3]], { top: 1 });
  const next = first?.at(-1)?.top[0]?.id ?? 0;
  const [longer] = await tokenLogprobs(model, [[5, 9, 3, next]], { top: 1 });
  assert.equal(longer?.[3]?.logprob, longer?.[3]?.top[0]?.logprob);
  assert.equal(longer?.[3]?.top[0]?.id, next);
});

Deno.test("tokenLogprobs() takes a whole context and refuses what it cannot read", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("mha_linear", { device, spec: { maxPosition: 20 } });
  using _ = model;
  const [places] = await tokenLogprobs(model, [someTokens(20, model.spec.vocab)]);
  assert.equal(places?.length, 21);
  for (
    const [bad, code] of [[[], "input"], [someTokens(21, model.spec.vocab), "input"], [
      [model.spec.vocab],
      "input",
    ]] as const
  ) {
    await rejects(tokenLogprobs(model, [[1], bad]), code);
  }
  await rejects(tokenLogprobs(model, [[1]], { top: model.spec.vocab + 1 }), "usage", { value: 102 });
  const stop = new AbortController();
  stop.abort(new Error("enough"));
  await assert.rejects(tokenLogprobs(model, [[1]], { signal: stop.signal }), /enough/);
});

function logSoftmax(row: Float32Array): number[] {
  const top = row.reduce((a, b) => Math.max(a, b), -Infinity);
  const total = row.reduce((sum, logit) => sum + Math.exp(logit - top), 0);
  return [...row].map((logit) => logit - top - Math.log(total));
}
