// Several ranks train with the bits of one process: in one process here, which passes the sums itself.
import assert from "node:assert/strict";
import { dealt, gathered, type Ranks } from "../../lib/ranks/ranks.ts";
import { uniform } from "../../lib/core/random.ts";
import type { Batch } from "../../lib/data/batches.ts";
import { loadModel } from "../../lib/local/load_model.ts";
import { shiftLabels } from "../../lib/nn/pass.ts";
import { IDLE_STATE } from "../../lib/nn/train/step_state.ts";
import { checkAlike } from "../../lib/ranks/alike.ts";
import type { StepKind, TrainerArrays } from "../../lib/run/contract.ts";
import { createShares, type Shares } from "../../lib/run/shares.ts";
import { Trainer } from "../../lib/run/trainer.ts";
import { PROJECTIONS } from "../../lib/spec/decoder.ts";
import { unitTable } from "../../lib/units/table.ts";
import { sharedDevice } from "../device.ts";
import { openGolden } from "../golden/helpers/golden.ts";
import { type LayerInfluence, measureInfluence } from "../../lib/run/methods/influence.ts";
import { saliencyOn } from "../../lib/run/methods/selector.ts";
import { METHODS } from "../../lib/run/methods/all.ts";
import { type OneShotScores, oneShotScores } from "../../lib/run/methods/one_shot_scores.ts";
import { together } from "./helpers/ranks.ts";

const BATCH = 1, SEQ = 24, MICRO_BATCHES = 5;

function batchOf(vocab: number, seed: number, micro = MICRO_BATCHES): Batch {
  const length = micro * BATCH * SEQ;
  const tokens = Uint32Array.from({ length }, (_, i) => Math.floor(vocab * uniform(seed, i)));
  const labels = Int32Array.from(tokens, (token, i) => i % SEQ < 4 ? -100 : token);
  const labelTokens = shiftLabels(labels, { seq: SEQ }).filter((target) => target >= 0).length;
  return { tokens, labels, realTokens: length, labelTokens };
}

Deno.test("ranks train with the bits of one process that adds up as many micro-batches", async () => {
  const device = await sharedDevice();
  const { modelPath } = await openGolden("gqa_f16");
  using model = await loadModel(modelPath, { device, baseDtype: "f32" });
  const table = unitTable(model.spec, ["kv", "ffn", "hidden"]), { vocab } = model.spec;
  const make = (ranks?: Ranks): Trainer => {
    const lora = { rank: 3, alpha: 6, targets: PROJECTIONS, dropout: 0.1 };
    const trainer = new Trainer(model, {
      batch: BATCH,
      accumulate: MICRO_BATCHES,
      seq: SEQ,
      seed: 5,
      lora,
      table,
      ...(ranks ? { ranks } : {}),
    });
    trainer.setLogAlpha(Float32Array.from({ length: table.count }, (_, unit) => 4 * uniform(6, unit) - 1));
    return trainer;
  };
  const run = async (trainer: Trainer): Promise<{ arrays: TrainerArrays; numbers: unknown }> => {
    const kinds: readonly (readonly [StepKind, number])[] = [["lora", 1], ["masks", 1], ["gradual", 1], ["lora", 0.5]];
    for (const [step, [kind, focus]] of kinds.entries()) {
      const state = { ...IDLE_STATE, seed: 11, step, target: 0.1, loraRate: 5e-3, maskRate: 0.1, lambdaRate: 0.1 };
      await trainer.step(kind, batchOf(vocab, step), { state: { ...state, dropout: 0.1, tracking: 1 }, focus });
    }
    return { arrays: await trainer.save(), numbers: await trainer.numbers(0, kinds.length) };
  };
  using alone = make();
  const want = await run(alone);
  for (const size of [2, 4, MICRO_BATCHES]) {
    const trainers = together(size).map((ranks) => make(ranks));
    try {
      for (const got of await Promise.all(trainers.map(run))) {
        assert.ok(
          Object.entries(want.arrays).every(([name, values]) => {
            const own = Object.entries(got.arrays).find(([key]) => key === name)?.[1];
            return values.every((value: number, index: number) => Object.is(value, own?.[index]));
          }),
          `${size} ranks`,
        );
        assert.deepEqual(got.numbers, want.numbers);
      }
    } finally {
      for (const trainer of trainers) trainer[Symbol.dispose]();
    }
  }
});

Deno.test("ranks score units with the bits of one process, by each score that looks at rows", async () => {
  const device = await sharedDevice();
  const { modelPath } = await openGolden("gqa_f16");
  using model = await loadModel(modelPath, { device, baseDtype: "f32" });
  const table = unitTable(model.spec, ["kv", "ffn", "hidden", "layers"]), { vocab } = model.spec;
  const batches = Array.from({ length: 10 }, (_, index) => batchOf(vocab, 40 + index, 1));
  const lora = { rank: 2, alpha: 4, targets: PROJECTIONS };
  const state = { ...IDLE_STATE, seed: 1 };
  const score = async (
    ranks?: Ranks,
  ): Promise<{ all: OneShotScores[]; mean: Float64Array; influence: readonly LayerInfluence[]; looks: number }> => {
    using trainer = new Trainer(model, { batch: BATCH, seq: SEQ, seed: 5, lora, table });
    const all: OneShotScores[] = [];
    let looks = 0;
    const maskGradients = (data: Batch): ReturnType<Trainer["maskGradients"]> => trainer.maskGradients(data, { state });
    for (const method of [METHODS.taylor, METHODS.fisher, METHODS["wanda-sp"], METHODS.flap]) {
      const weightTerms = (data: Batch): ReturnType<Trainer["weightTerms"]> => trainer.weightTerms(data, { state });
      const how = { method, batches, batch: BATCH, seq: SEQ, seed: 1, ranks, weightTerms, maskGradients };
      all.push(await oneShotScores(model, table, { ...how, onBatch: () => looks++ }));
    }
    const parts = { table, ranks, maskGradients };
    const influence = await measureInfluence(model, { batches, batch: BATCH, seq: SEQ, ranks });
    return { all, influence, mean: await saliencyOn(parts, { of: "rows", batches, look: () => looks++ }), looks };
  };
  const want = await score();
  assert.equal(want.looks, 5 * batches.length);
  for (const size of [2, 3]) {
    for (const got of await Promise.all(together(size).map(score))) assert.deepEqual(got, want, `${size} ranks`);
  }
});

Deno.test("gathered() keeps all bits of arrays", async () => {
  const bits = Uint32Array.from([0x7fc00001, 0x80000000, 1, 0x3f800000]), whole = new Float32Array(bits.buffer);
  const values = { some: [1 / 3, null], of: whole.subarray(0, 3), none: new Float32Array(0) };
  for (const all of await Promise.all(together(3).map((ranks) => gathered(ranks, { ...values, rank: ranks.rank })))) {
    assert.deepEqual(all.map(({ rank }) => rank), [0, 1, 2]);
    for (const { some, of, none } of all) {
      assert.deepEqual([some, none], [values.some, values.none]);
      assert.deepEqual([...new Uint32Array(of.buffer)], [...bits.subarray(0, 3)]);
    }
  }
});

Deno.test("createShares() deals evenly in order, and by times where ranks differ, alike on all", async () => {
  const rangesOf = (all: readonly Shares[]): number[] => {
    const ranges = all.map(({ range }) => range);
    assert.deepEqual(ranges.map(({ start }) => start), [0, ...ranges.slice(0, -1).map(({ end }) => end)]);
    return ranges.map(({ start, end }) => end - start);
  };
  for (
    const [count, seconds, first, then] of [
      [6, [1, 1, 1], [2, 2, 2], null],
      [6, [1, 1.2], [3, 3], null], // a step with 4 and 2 would be longer
      [6, [1, 2], [3, 3], [4, 2]],
      [8, [4, 1, 3], [3, 3, 2], [1, 6, 1]],
      [2, [1, 9], [1, 1], null], // one for each rank
    ] as const
  ) {
    const dealt: (readonly number[])[] = [];
    const all = together(seconds.length).map((ranks) =>
      createShares(count, { ranks, onDealt: (counts) => dealt.push(counts) })
    );
    assert.deepEqual(rangesOf(all), first);
    for (let step = 0; step < 16; step++) {
      // The first step compiles kernels.
      await Promise.all(all.map((shares, rank) => {
        const { start, end } = shares.range;
        return shares.add((end - start) * (seconds[rank] ?? 0) + (step === 0 ? 100 : 0));
      }));
      if (step === 6) assert.deepEqual(rangesOf(all), first);
    }
    assert.deepEqual(rangesOf(all), then ?? first);
    assert.deepEqual(dealt, then ? seconds.map(() => then) : []);
  }
});

Deno.test("checkAlike() refuses on all ranks what one of them has otherwise, and names it", async () => {
  const facts = { seed: 1, rates: { lora: 0.1 }, examples: "3 of 4" };
  await Promise.all(together(3).map((ranks) => checkAlike(ranks, facts)));
  const tries = together(3).map((ranks) =>
    checkAlike(ranks, ranks.rank === 1 ? { ...facts, rates: { lora: 0.2 } } : facts)
  );
  for (const tried of tries) {
    await assert.rejects(tried, (error: { code: string; parts: { what: string; value: string } }) => {
      assert.equal(error.code, "mismatch");
      assert.match(error.parts.what, /rank 1 of 3/);
      assert.equal(error.parts.value, 'rates: {"lora":0.2}, on rank 0 {"lora":0.1}');
      return true;
    });
  }
});

Deno.test("dealt() runs each item once on one rank, and gives all results to each in order", async () => {
  const items = Array.from({ length: 23 }, (_, index) => index), want = items.map((item) => [item, item / 3]);
  for (const size of [1, 2, 3, 40]) {
    const ran: number[] = [];
    const run = (item: number): Promise<number> => (ran.push(item), Promise.resolve(item / 3));
    const got = await Promise.all(together(size).map((ranks) => Array.fromAsync(dealt(items.values(), ranks, run))));
    for (const one of got) assert.deepEqual(one, want);
    assert.deepEqual(ran.sort((a, b) => a - b), items, `${size} ranks`);
  }
  assert.deepEqual(await Array.fromAsync(dealt(items, undefined, (item) => Promise.resolve(item / 3))), want);
});
