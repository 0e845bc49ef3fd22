// A score that a program gives itself.
import assert from "node:assert/strict";
import { prune } from "../../mod.ts";
import type { OwnMethod } from "../../lib/run/mod.ts";
import type { UnitSaliency } from "../../lib/types/mod.ts";
import { BASE, bitsOf, drive, withShortDemo } from "./helpers/demo_run.ts";

const BARE = { steps: 0, prefinetune: 0, postfinetune: 0 } as const;

Deno.test("a score equal to a method's own gives its bits, another one cuts other units, and the name is kept", async () => {
  await withShortDemo(async ({ model }) => {
    const taylor = await drive(model, { ...BARE, method: "taylor", ranking: "layer" });
    const alike: OwnMethod = { name: "mine", from: ["firstOrder"], score: ({ firstOrder }) => firstOrder };
    const mine = await drive(model, { ...BARE, method: alike, ranking: "layer" });
    assert.equal(bitsOf(mine), bitsOf(taylor));
    let seen: UnitSaliency | null = null;
    const all: OwnMethod = {
      name: "all",
      score(saliency): number[] {
        seen = saliency;
        return [...saliency.activations].map((value, unit) => value * Math.sqrt(saliency.fisher[unit] ?? 0));
      },
    };
    const other = await drive(model, { ...BARE, method: all });
    assert.notDeepEqual(other.result.masks.ffn, mine.result.masks.ffn);
    const { kinds, layers, parameters, weights, fisher, fluctuations } = seen as unknown as UnitSaliency;
    const { logAlpha: { length: count } } = mine.result, { spec } = model;
    const fishers = await drive(model, { ...BARE, method: "fisher" }), { logAlpha } = fishers.result;
    // log α has the ranks of the scores.
    const scores = fisher.map((value, unit) => value / (parameters[unit] ?? NaN));
    const order = [...scores.keys()].sort((a, b) => (scores[a] ?? 0) - (scores[b] ?? 0) || a - b);
    assert.deepEqual(order.map((unit) => logAlpha[unit]), [...order.keys()]);
    for (const list of [kinds, layers, parameters, weights, fluctuations]) assert.equal(list.length, count);
    assert.deepEqual([...new Set(kinds)], ["kv", "ffn"]);
    assert.equal(Math.max(...layers), spec.layers.length - 1);
  });
});

Deno.test("a run by a score of its own resumes with the same name alone, and takes options of one-shot methods", async () => {
  await withShortDemo(async ({ model }) => {
    const path = `${await Deno.makeTempDir()}/checkpoint.safetensors`, checkpoint = { path, every: 1000 };
    const own = (name: string): OwnMethod => ({ name, from: ["firstOrder"], score: ({ firstOrder }) => firstOrder });
    const controller = new AbortController(), { signal } = controller;
    const onScoring = (share: number): void => share > 0.6 ? controller.abort(new Error("enough")) : undefined;
    const how = { ...BARE, rounds: 2, checkpoint };
    await assert.rejects(drive(model, { ...how, method: own("mine"), signal, onScoring }), /enough/);
    const resumed = { ...how, checkpoint: { ...checkpoint, resume: true } };
    await assert.rejects(drive(model, { ...resumed, method: own("yours") }), { code: "mismatch" });
    const rest = await drive(model, { ...resumed, method: own("mine") });
    assert.equal(bitsOf(rest), bitsOf(await drive(model, { ...BARE, rounds: 2, method: own("mine") })));
    await Deno.remove(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  });
});

Deno.test("a score that is not one finite number per unit, or reads what was not measured, and a broken method are refused", async () => {
  await withShortDemo(async ({ model }) => {
    const scores: readonly OwnMethod["score"][] = [
      () => [1, 2],
      ({ weights }) => weights.map(() => NaN),
      ({ fisher }) => fisher,
    ];
    for (const score of scores) {
      const method: OwnMethod = { name: "broken", from: ["weights"], score };
      await assert.rejects(drive(model, { ...BARE, method }), { code: "usage" });
    }
    const score = (): number[] => [];
    const broken: readonly unknown[] = [{ name: "taylor", score }, { name: "", score }, { name: "x" }, { score }, {
      ...{ name: "x", score, from: ["hessian"] },
    }, { name: "x", score, steps: 3 }];
    for (const method of broken) {
      const options = { ...BASE, ...BARE, method } as unknown as Parameters<typeof prune>[1];
      assert.throws(() => prune(model, options), { code: "usage" });
    }
    // Without a measure of gradients alone, rounds would score the whole model each time.
    const method: OwnMethod = { name: "mine", from: ["weights"], score: ({ weights }) => weights };
    assert.throws(() => prune(model, { ...BASE, ...BARE, method, rounds: 2 }), { code: "usage" });
    assert.throws(() => prune(model, { ...BASE, ...BARE, method, schedule: "linear" }), { code: "usage" });
  });
});
