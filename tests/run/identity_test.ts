// What tells runs apart: the options that decide, in one form whatever their order, what differs in words, and what a resumed run may have otherwise.
import assert from "node:assert/strict";
import { finishedRun } from "../../cli/verbs/prune/run_folder.ts";
import { differencesOf, type RunIdentity } from "../../lib/core/identity.ts";
import { memoryFiles } from "../../lib/files/memory.ts";
import { type Checkpoint, readCheckpoint, resumedBy, writeCheckpoint } from "../../lib/run/checkpoint.ts";
import type { RunPosition, TrainerArrays } from "../../lib/run/contract.ts";
import { changesBetween, decidingOptions } from "../../lib/run/identity.ts";
import type { PruneOptions } from "../../lib/run/options/options.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { firstPosition } from "../../lib/run/position.ts";
import type { UnitKind } from "../../lib/units/kinds/all.ts";
import { MADE_SUMMARY } from "../report/made_run.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { refusalOf, refuses } from "../refuses.ts";

const SPEC = { maxPosition: 512 };
const PATH = "checkpoint.safetensors";
/** What a checkpoint holds besides its position; no fact hangs on it. */
const none = new Float32Array(0);
const arrays: TrainerArrays = {
  lora: none,
  loraM: none,
  loraV: none,
  logAlpha: none,
  maskMoments: none,
  constraint: none,
  slots: none,
  written: none,
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
  const idle = ["lora", "prompt", "schedule"];
  assert.deepEqual(differencesOf(then, now, { idle }), ["seed: 1 then, 2 now", "keptMasks: not given then, one now"]);
});

Deno.test("the order of units and of protected layers tells no runs apart, and what decides no bit is left out", async () => {
  const options = (units: readonly UnitKind[], more: Partial<RunOptions> = {}): PruneOptions => ({
    rows: [],
    sparsity: 0.2,
    steps: 10,
    units,
    ...more,
  });
  const deciding = (given: PruneOptions): string => JSON.stringify(decidingOptions(resolveOptions(given, SPEC)));
  const plain = deciding(options(["kv", "ffn", "layers"], { rules: { protect: [0, 3] } }));
  assert.equal(deciding(options(["layers", "ffn", "kv"], { rules: { protect: [3, 0, 3] } })), plain);
  assert.equal(deciding(options(["kv", "ffn", "layers"], { rules: { protect: [0, 3] }, recompute: false })), plain);
  assert.notEqual(deciding(options(["kv", "ffn"], { rules: { protect: [0, 3] } })), plain);
  const { sparsity: _sparsity, ...sized } = options(["kv"]);
  const identity = decidingOptions(resolveOptions({ ...sized, size: { parameters: 9 } }, SPEC));
  assert.deepEqual([identity["size"], identity["sparsity"]], [{ parameters: 9 }, undefined]);
  await inTemporaryFolder(async (folder) => {
    const then = { ...MADE_SUMMARY, options: resolveOptions(options(["kv", "ffn"]), SPEC), inputs: {} };
    await Deno.writeTextFile(`${folder}/run.json`, JSON.stringify(then));
    await Deno.writeTextFile(`${folder}/model.gguf`, "");
    const found = (now: readonly UnitKind[]): ReturnType<typeof finishedRun> =>
      finishedRun(folder, {
        now: () => Promise.resolve(resolveOptions(options(now), SPEC)),
        inputs: () => Promise.resolve({}),
      });
    assert.deepEqual((await found(["ffn", "kv"]))?.options.units, ["kv", "ffn"]);
    await assert.rejects(found(["ffn", "kv", "layers"]), /units: \["kv","ffn"\] then, \["kv","ffn","layers"\] now/);
  });
});

Deno.test("what may differ is named, and method, units and rules may not", () => {
  const then: RunIdentity = { method: "compresso", schedule: "cubic", rates: { lora: 0.5, mask: 0.1 }, seed: 1 };
  const changes = (now: RunIdentity, ...mayDiffer: string[]): readonly string[] =>
    changesBetween(then, { ...then, ...now }, { path: PATH, mayDiffer });
  assert.deepEqual(changes({}), []);
  assert.deepEqual(changes({ schedule: "linear", rates: { mask: 0.1, lora: 0.25 } }, "schedule", "rates"), [
    "rates.lora: 0.5 then, 0.25 now",
    "schedule: cubic then, linear now",
  ]);
  refuses(() => changes({ schedule: "linear" }), "mismatch", {
    value: ["schedule", "cubic", "linear"],
    names: 'mayDiffer: "schedule"',
  });
  const other = refusalOf(() => changes({ seed: 2 }, "rates"), "mismatch", { value: ["seed", 1, 2], names: "out" });
  assert.ok(!other.parts.fix?.includes("mayDiffer"), "no other option allows it");
  refuses(() => changes({}, "sedule"), "usage", { value: "sedule", names: "schedule" });
  refuses(() => changes({ method: "taylor" }, "method"), "usage", { value: "method" });
});

Deno.test("what a checkpoint is taken up with otherwise is kept with it, from the step on at which its state stands", async () => {
  const files = memoryFiles(), first: RunIdentity = { schedule: "cubic", rates: { lora: 0.5 } };
  const at = (step: number): RunPosition => ({ ...firstPosition({ epoch: 0, index: 0 }), stage: 1, step });
  const resumed = async (now: RunIdentity): Promise<Checkpoint> =>
    resumedBy(await readCheckpoint(PATH, { files }), now, {
      path: PATH,
      mayDiffer: ["schedule", "rates"],
      scheduled: () => [],
    });
  await writeCheckpoint(PATH, { identity: first, position: at(12), arrays, kept: [{ position: at(10), arrays }] }, {
    files,
  });
  assert.equal((await resumed(first)).position.changes, undefined);
  const linear = { ...first, schedule: "linear" }, { position, kept } = await resumed(linear);
  const differences = ["schedule: cubic then, linear now"];
  assert.deepEqual(position.changes, [{ step: 12, differences }]);
  assert.deepEqual(kept[0]?.position.changes, [{ step: 10, differences }], "it goes on otherwise from there");
  // As it stands after three more steps, and again with others.
  await writeCheckpoint(PATH, { identity: linear, position: { ...position, step: 15 }, arrays, kept: [] }, { files });
  assert.deepEqual((await resumed({ ...linear, rates: { lora: 0.25 } })).position.changes, [
    { step: 12, differences },
    { step: 15, differences: ["rates.lora: 0.5 then, 0.25 now"] },
  ]);
});

Deno.test("a checkpoint stores arrays with the same numbers once, and reads them back for each state", async () => {
  const files = memoryFiles(),
    position = firstPosition({ epoch: 0, index: 0 }),
    long = Float32Array.from({ length: 999 }, (_, index) => Math.sqrt(index));
  const bytesWith = async (...others: TrainerArrays[]): Promise<number> => {
    const kept = others.map((arrays) => ({ position, arrays }));
    await writeCheckpoint(PATH, { identity: {}, position, arrays: { ...arrays, lora: long }, kept }, { files });
    const found = await readCheckpoint(PATH, { files });
    assert.deepEqual(found.kept, kept);
    assert.deepEqual(found.arrays.lora, long);
    return (await files.info(PATH))?.size ?? 0;
  };
  const alone = await bytesWith(), equal = await bytesWith({ ...arrays, lora: long.slice() });
  assert.ok(equal < alone + 999 * 4, `${equal} bytes with a state that is equal, ${alone} without`);
  assert.ok(await bytesWith({ ...arrays, lora: long.map((x) => x + 1) }) > equal + 900 * 4);
});
