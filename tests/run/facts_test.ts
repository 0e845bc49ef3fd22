// Facts by which runs are told apart: what differs in words, and the fact of runs that are learned otherwise than at first.
import assert from "node:assert/strict";
import { differencesOf, learnedAnew } from "../../lib/run/facts.ts";
import { type PruneOptions, resolveOptions } from "../../lib/run/options.ts";
import { decoder } from "../prune/helpers/decoders.ts";

Deno.test("differencesOf() names members that differ, whatever their order, and says what is not there", () => {
  const then = { seed: 1, lora: { rank: 8, alpha: 16, targets: ["q", "v"] }, prompt: null, schedule: "cubic" };
  assert.deepEqual(differencesOf(then, { ...then, lora: { targets: ["q", "v"], alpha: 16, rank: 8 } }), []);
  const now = { seed: 2, lora: { ...then.lora, rank: 4 }, prompt: "Be small.", keptMasks: "one" };
  assert.deepEqual(differencesOf(then, now), [
    "seed: 1 then, 2 now",
    "lora.rank: 8 then, 4 now",
    "prompt: none then, Be small. now",
    "schedule: cubic then, not given now",
    "keptMasks: not given then, one now",
  ]);
});

Deno.test("runs are learned anew where heads fall by groups, and where equal layers have no tracking; others are what they were", () => {
  const grouped = decoder([{ heads: 4, kvHeads: 2, ffn: 16 }]), single = decoder([{ heads: 4, kvHeads: 1, ffn: 16 }]);
  const factOf = (spec: typeof grouped, options: Partial<PruneOptions>): number | undefined =>
    learnedAnew(spec, resolveOptions({ rows: [], sparsity: 0.2, steps: 10, seq: 32, ...options }, spec)).learning;
  assert.equal(factOf(grouped, { layout: "uniform", units: ["heads", "ffn"] }), 2);
  assert.equal(factOf(grouped, { layout: "uniform", units: ["kv", "ffn"], rates: { tracking: 0 } }), 2);
  assert.equal(factOf(grouped, { layout: "uniform", units: ["heads"], method: "magnitude" }), 2);
  for (
    const [spec, options] of [
      [grouped, { layout: "uniform" }],
      [grouped, { units: ["heads", "ffn"] }],
      [grouped, { rates: { tracking: 0 } }],
      [single, { layout: "uniform", units: ["heads", "ffn"] }],
    ] as const
  ) assert.equal(factOf(spec, options), undefined, JSON.stringify(options));
});
