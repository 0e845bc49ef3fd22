// Several ranks train with the bits of one process: in one process here, which passes the sums itself.
import assert from "node:assert/strict";
import { addInto, dealt, rangeOf, type Ranks } from "../../lib/core/ranks.ts";
import { uniform } from "../../lib/core/random.ts";
import type { Batch } from "../../lib/data/batches.ts";
import { loadModel } from "../../lib/disk/load_model.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { shiftLabels } from "../../lib/nn/pass.ts";
import { IDLE_STATE } from "../../lib/nn/train/step_state.ts";
import { checkAlike } from "../../lib/run/alike.ts";
import type { StepKind, TrainerArrays } from "../../lib/run/contract.ts";
import { createTrainer, type Trainer } from "../../lib/run/trainer.ts";
import { PROJECTIONS } from "../../lib/spec/decoder.ts";
import { unitTable } from "../../lib/units/units.ts";
import { openGolden } from "../golden/helpers/golden.ts";

/** Ranks in one process: each call is answered once all have made it. */
function together(size: number): Ranks[] {
  let calls: { readonly rank: number; readonly value: unknown; readonly resolve: (all: unknown[]) => void }[] = [];
  const meet = async <T>(rank: number, value: T): Promise<T[]> =>
    await new Promise<unknown[]>((resolve) => {
      calls.push({ rank, value, resolve });
      if (calls.length < size) return;
      const met = calls.sort((a, b) => a.rank - b.rank);
      calls = [];
      for (const { resolve } of met) resolve(met.map(({ value }) => value));
    }) as T[];
  return Array.from({ length: size }, (_, rank) => ({
    rank,
    size,
    async sum(parts): Promise<Float32Array<ArrayBuffer>> {
      const all = (await meet(rank, parts)).flat(), total = new Float32Array(all[0]?.length ?? 0);
      for (const part of all) addInto(total, part);
      return total;
    },
    textOf: async (from, text) => (await meet(rank, text))[from] ?? "",
  }));
}

const BATCH = 1, SEQ = 24, MICRO_BATCHES = 5;

function batchOf(vocab: number, seed: number): Batch {
  const length = MICRO_BATCHES * BATCH * SEQ;
  const tokens = Uint32Array.from({ length }, (_, i) => Math.floor(vocab * uniform(seed, i)));
  const labels = Int32Array.from(tokens, (token, i) => i % SEQ < 4 ? -100 : token);
  const labelTokens = shiftLabels(labels, { seq: SEQ }).filter((target) => target >= 0).length;
  return { tokens, labels, realTokens: length, labelTokens };
}

Deno.test("ranks train with the bits of one process that adds up as many micro-batches", async () => {
  using device = await openDevice();
  const { modelPath } = await openGolden("gqa_f16");
  using model = await loadModel(modelPath, { device, baseDtype: "f32" });
  const table = unitTable(model.spec, ["kv", "ffn", "hidden"]), { vocab } = model.spec;
  const make = (ranks?: Ranks): Trainer => {
    const lora = { rank: 3, alpha: 6, targets: PROJECTIONS, dropout: 0.1 };
    const trainer = createTrainer(model, {
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
  for (const size of [1, 2, 3, MICRO_BATCHES]) {
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

Deno.test("rangeOf() deals all items out in order, and each of as many ranks or fewer has one", () => {
  for (const [count, size] of [[5, 1], [5, 2], [5, 3], [5, 5], [8, 3]] as const) {
    const ranges = Array.from({ length: size }, (_, rank) => rangeOf(count, { rank, size }));
    assert.deepEqual(ranges.map(({ start }) => start), [0, ...ranges.slice(0, -1).map(({ end }) => end)]);
    assert.equal(ranges.at(-1)?.end, count);
    assert.ok(ranges.every(({ start, end }) => end > start));
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
