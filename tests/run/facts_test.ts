// Facts by which runs are told apart: what differs in words, what decides nothing, and the fact of runs that are learned otherwise than at first.
import assert from "node:assert/strict";
import { finishedRun } from "../../cli/verbs/prune/run_folder.ts";
import { differences } from "../../lib/experiment/identity.ts";
import { differencesOf, type RunIdentity } from "../../lib/core/identity.ts";
import { readCheckpoint, writeCheckpoint } from "../../lib/run/checkpoint.ts";
import { idleFacts, learnedAnew, pastDifferences } from "../../lib/run/facts.ts";
import { METHODS } from "../../lib/run/methods/names.ts";
import type { PruneOptions } from "../../lib/run/options/options.ts";
import { firstPosition } from "../../lib/run/run_parts.ts";
import type { UnitKind } from "../../lib/units/units.ts";
import type { RunPosition, TrainerArrays } from "../../lib/run/contract.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { decoder } from "../units/helpers/decoders.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";

/** What a checkpoint holds besides its position; no fact hangs on it. */
const none = new Float32Array(0);
const arrays: TrainerArrays = {
  ...{ lora: none, loraM: none, loraV: none, logAlpha: none },
  ...{ maskMoments: none, constraint: none, slots: none, written: none },
};

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
  assert.deepEqual(differencesOf({ schedule: "cubic, the default" }, then), differencesOf({ schedule: "cubic" }, then));
  const idle = ["lora", "prompt", "schedule"];
  assert.deepEqual(differencesOf(then, now, { idle }), ["seed: 1 then, 2 now", "keptMasks: not given then, one now"]);
});

Deno.test("runs are learned anew where heads fall by groups, equal layers have no tracking or least widths are no whole groups or blocks; others are what they were", () => {
  const grouped = decoder([{ heads: 4, kvHeads: 2, ffn: 16 }]), single = decoder([{ heads: 4, kvHeads: 1, ffn: 16 }]);
  const factOf = (spec: typeof grouped, options: Partial<PruneOptions>): number | undefined =>
    learnedAnew(spec, resolveOptions({ rows: [], sparsity: 0.2, steps: 10, seq: 32, ...options }, spec)).learning;
  assert.equal(factOf(grouped, { layout: "uniform", units: ["heads", "ffn"] }), 2);
  assert.equal(factOf(grouped, { layout: "uniform", units: ["kv", "ffn"], rates: { tracking: 0 } }), 2);
  assert.equal(factOf(grouped, { layout: "uniform", units: ["heads"], method: "magnitude" }), 2);
  assert.equal(factOf(grouped, { rules: { minimum: { heads: 3 } } }), 2);
  assert.equal(factOf(grouped, { rules: { minimum: { ffn: 5 }, align: 2 } }), 2);
  for (
    const [spec, options] of [
      [grouped, { rules: { minimum: { heads: 2, ffn: 6 }, align: 2 } }],
      [grouped, { method: "gradual", rules: { minimum: { heads: 3 } } }],
      [grouped, { units: ["heads"], rules: { minimum: { heads: 3 } } }],
      [grouped, { layout: "uniform" }],
      [grouped, { units: ["heads", "ffn"] }],
      [grouped, { rates: { tracking: 0 } }],
      [single, { layout: "uniform", units: ["heads", "ffn"] }],
    ] as const
  ) assert.equal(factOf(spec, options), undefined, JSON.stringify(options));
});

Deno.test("the warm-up of a method without one tells neither checkpoints nor cells apart, another rate does", async () => {
  const identity = (method: string, rates: Readonly<Record<string, number>>): RunIdentity => ({
    method,
    rates: JSON.stringify(rates),
  });
  const position = firstPosition({ epoch: 0, index: 0 });
  await inTemporaryFolder(async (folder) => {
    for (const method of METHODS) {
      const path = `${folder}/${method}.safetensors`, steps = method === "compresso" || method === "gradual";
      await writeCheckpoint(path, { identity: identity(method, { lora: 1, warmup: 0.7 }), position, arrays, kept: [] });
      const read = (rates: Readonly<Record<string, number>>): Promise<unknown> =>
        readCheckpoint(path, { identity: identity(method, rates) });
      if (steps) await assert.rejects(read({ lora: 1, warmup: 0.4 }), /rates\.warmup: 0\.7 then, 0\.4 now/);
      else await read({ lora: 1, warmup: 0.4 });
      await assert.rejects(read({ lora: 2, warmup: 0.4 }), /rates\.lora: 1 then, 2 now/);
      const cell = (warmup: string): Readonly<Record<string, string>> => ({
        method: JSON.stringify(method),
        "rates.warmup": warmup,
      });
      assert.equal(differences(cell("0.7"), cell("0.4")), steps ? "rates.warmup: 0.7 then, 0.4 now" : null);
      assert.deepEqual(idleFacts(method), steps ? [] : ["rates.warmup"]);
    }
  });
});

Deno.test("the order of units tells no runs apart, nor older ones that kept it, and other units do", async () => {
  const options = (units: readonly UnitKind[]): PruneOptions => ({ rows: [], sparsity: 0.2, steps: 10, units });
  const spec = { maxPosition: 512 }, { units } = resolveOptions(options(["layers", "ffn", "kv"]), spec);
  assert.deepEqual(units, ["kv", "ffn", "layers"]);
  const position = firstPosition({ epoch: 0, index: 0 });
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/older.safetensors`;
    await writeCheckpoint(path, { identity: { units: "layers,ffn,kv" }, position, arrays, kept: [] });
    await readCheckpoint(path, { identity: { units: units.join(",") } });
    const other = readCheckpoint(path, { identity: { units: "heads,ffn,layers" } });
    await assert.rejects(other, /units: layers,ffn,kv then, heads,ffn,layers now/);
    const older = { ...resolveOptions(options(units), spec), units: units.toReversed() };
    await Deno.writeTextFile(`${folder}/run.json`, JSON.stringify({ options: older, layers: [] }));
    await Deno.writeTextFile(`${folder}/model.gguf`, "");
    const found = (now: readonly UnitKind[]): ReturnType<typeof finishedRun> =>
      finishedRun(folder, { now: resolveOptions(options(now), spec), inputs: () => Promise.resolve({}) });
    assert.deepEqual((await found(["ffn", "kv", "layers"]))?.options.units, units.toReversed());
    await assert.rejects(found(["ffn", "kv"]), /units: \["layers","ffn","kv"\] then, \["kv","ffn"\] now/);
  });
});

Deno.test("what differs of stages that are over is told, and what is yet to come is not", () => {
  const then = { method: "compresso", prefinetune: 10, steps: 150, postfinetune: 60 };
  const at = (now: object, stage: number, stageStep: number, begun: "" | "hard" = ""): string[] =>
    pastDifferences(then, { ...then, ...now }, { stage, stageStep, begun: begun === "" ? null : begun });
  assert.deepEqual(at({ postfinetune: 200 }, 2, 30), []);
  assert.deepEqual(at({ postfinetune: 20 }, 2, 30), ["postfinetune: 60 then, 20 now"]);
  assert.deepEqual(at({ postfinetune: 200 }, 3, 0), ["postfinetune: 60 then, 200 now"]);
  assert.deepEqual(at({ prefinetune: 0, steps: 300 }, 1, 7), ["prefinetune: 10 then, 0 now"]);
  assert.deepEqual(at({ steps: 300 }, 1, 150, "hard"), ["steps: 150 then, 300 now"]);
  assert.deepEqual(at({ steps: 21 }, 1, 20), []);
  assert.deepEqual(at({ steps: 20 }, 1, 20), ["steps: 150 then, 20 now"], "it would end half-way");
  assert.deepEqual(at({ postfinetune: 20 }, 2, 20), []);
  const hard = { sparsity: 0.5, keptMasks: "one" };
  assert.deepEqual(at(hard, 1, 20), []);
  for (const [stage, stageStep, begun] of [[1, 150, "hard"], [2, 0, ""]] as const) {
    assert.deepEqual(at(hard, stage, stageStep, begun), [
      "sparsity: not given then, 0.5 now",
      "keptMasks: not given then, one now",
    ]);
  }
  // Rates that pruning steps alone use; LoRA's are of the last stage too.
  const rates = (facts: object): object => ({ rates: JSON.stringify({ lora: 1, mask: 0.1, warmup: 0.4, ...facts }) });
  const ruled = (now: object, stage: number): string[] =>
    pastDifferences({ ...then, ...rates({}) }, { ...then, ...rates(now) }, { stage, stageStep: 0, begun: null });
  assert.deepEqual(ruled({ lora: 2, postfinetune: 1, mask: 0.2, warmup: 0.1 }, 1), []);
  const slower = pastDifferences({ ...then, ...rates({ postfinetune: 1 }) }, {
    ...then,
    ...rates({ lora: 2, postfinetune: 2 }),
  }, {
    ...{ stage: 2, stageStep: 0, begun: null },
  });
  assert.deepEqual(slower, [], "the last stage's rate is that of LoRA, unless it has its own");
  assert.deepEqual(
    pastDifferences({ ...then, ...rates({ postfinetune: 1 }) }, { ...then, ...rates({ lora: 2, postfinetune: 1 }) }, {
      ...{ stage: 2, stageStep: 0, begun: null },
    }),
    ["rates.lora: 1 then, 2 now"],
  );
  assert.deepEqual(ruled({ lora: 2, mask: 0.2, warmup: 0.1 }, 2), [
    "rates.mask: 0.1 then, 0.2 now",
    "rates.warmup: 0.4 then, 0.1 now",
  ]);
  const others = { method: "gradual", calibration: "b", start: "constant", ranking: "layer", rules: '{"align":8}' };
  assert.deepEqual(at({ ...others, layout: "uniform" }, 1, 0), []);
  const started = ["method: compresso then, gradual now", "start: not given then, constant now"];
  assert.deepEqual(at({ ...others, layout: "uniform" }, 1, 1), [...started, "calibration: not given then, b now"]);
  assert.deepEqual(at({ ...others, layout: "uniform" }, 2, 0).map((line) => line.split(":")[0]), [
    ...["method", "start", "calibration", "rules", "ranking", "layout"],
  ]);
  assert.deepEqual(at({ layout: "padded" }, 2, 0), [], "what becomes of the widths is yet to come");
  assert.deepEqual(at({ method: "taylor" }, 0, 0), ["method: compresso then, taylor now"]);
  assert.deepEqual(at({ method: "gradual" }, 0, 0), []);
  const oneShot = { ...then, method: "flap", rules: '{"protect":[1,0]}' };
  const sameRules = { ...oneShot, rules: '{"protect":[0,1]}' };
  assert.deepEqual(pastDifferences(oneShot, sameRules, { stage: 1, stageStep: 9, begun: null }), []);
  assert.deepEqual(
    pastDifferences(oneShot, { ...oneShot, method: "random", calibration: "b" }, {
      ...{ stage: 0, stageStep: 0, begun: "hard" },
    }),
    ["method: flap then, random now", "calibration: not given then, b now"],
  );
  assert.deepEqual(
    pastDifferences(oneShot, { ...oneShot, steps: 140, postfinetune: 70 }, { stage: 2, stageStep: 0, begun: null }),
    [],
  );
  assert.deepEqual(pastDifferences(oneShot, { ...oneShot, steps: 300 }, { stage: 1, stageStep: 9, begun: null }), []);
  assert.deepEqual(pastDifferences(oneShot, { ...oneShot, sparsity: 1 }, { stage: 1, stageStep: 0, begun: null }), [
    "sparsity: not given then, 1 now",
  ]);
  assert.deepEqual(
    pastDifferences(oneShot, { ...oneShot, steps: 300 }, { stage: 2, stageStep: 0, begun: null }),
    ["steps: 150 then, 300 now"],
  );
});

Deno.test("a checkpoint whose recovery is over is refused where that may have other steps", async () => {
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/checkpoint.safetensors`;
    const identity: RunIdentity = { method: "compresso", prefinetune: 1, steps: 2, postfinetune: 3 };
    const position = { ...firstPosition({ epoch: 0, index: 0 }), stage: 3 };
    await writeCheckpoint(path, { identity, position, arrays, kept: [] });
    await readCheckpoint(path, { identity });
    const rates = JSON.stringify({ lora: 1 }), schedule = "linear";
    await writeCheckpoint(path, { identity: { ...identity, rates, schedule }, position, arrays, kept: [] });
    for (
      const [now, said] of [
        [{ postfinetune: 9 }, "postfinetune: 3 then, 9 now"],
        [{ rates: JSON.stringify({ lora: 2 }) }, "rates.lora: 1 then, 2 now"],
        [{ schedule: "cosine" }, "schedule: linear then, cosine now"],
      ] as const
    ) {
      await assert.rejects(
        readCheckpoint(path, { identity: { ...identity, rates, schedule, ...now }, mayDiffer: Object.keys(now) }),
        new RegExp(`what may differ is yet to come; got: ${said}; fix: give the same as in what is over`),
      );
    }
  });
});

Deno.test("what a checkpoint is taken up with otherwise is kept with it, from the step on at which its state stands", async () => {
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/checkpoint.safetensors`;
    const first: RunIdentity = { schedule: "cubic", rates: '{"lora":0.5}' };
    const at = (step: number): RunPosition => ({ ...firstPosition({ epoch: 0, index: 0 }), stage: 1, step });
    await writeCheckpoint(path, { identity: first, position: at(12), arrays, kept: [{ position: at(10), arrays }] });
    assert.equal((await readCheckpoint(path, { identity: first })).position.changes, undefined);
    const linear = { ...first, schedule: "linear" }, mayDiffer = ["schedule", "rates"];
    const { position, kept } = await readCheckpoint(path, { identity: linear, mayDiffer });
    const differences = ["schedule: cubic then, linear now"];
    assert.deepEqual(position.changes, [{ step: 12, differences }]);
    assert.deepEqual(kept[0]?.position.changes, [{ step: 10, differences }], "it goes on otherwise from there");
    // As it stands after three more steps, and again with others.
    await writeCheckpoint(path, { identity: linear, position: { ...position, step: 15 }, arrays, kept: [] });
    const again = await readCheckpoint(path, { identity: { ...linear, rates: '{"lora":0.25}' }, mayDiffer });
    assert.deepEqual(again.position.changes, [
      { step: 12, differences },
      { step: 15, differences: ["rates.lora: 0.5 then, 0.25 now"] },
    ]);
  });
});
