// The monitors of a run as functions: what raises an alarm and what does not, settings, and what follows. Without a GPU.
import { alarmSettings } from "../../lib/run/monitors/alarm_setting.ts";
import assert from "node:assert/strict";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import type { RecordView } from "../../lib/schedule/definition.ts";
import { momentFloats } from "../../lib/masks/learner.ts";
import { leastUniform, tableOf, uniformBlocks } from "../../lib/units/uniform.ts";
import type { UnitKind } from "../../lib/units/kinds/all.ts";
import { unitTable } from "../../lib/units/table.ts";
import { type Finding, resolveMonitors } from "../../lib/run/monitors/alarm.ts";
import { watchCollapse, watchLayers } from "../../lib/run/monitors/collapse.ts";
import { checkHard, largestUnit, watchConstraint } from "../../lib/run/monitors/constraint.ts";
import { lowerRate, NO_LOSSES, watchLoss } from "../../lib/run/monitors/divergence.ts";
import { judge, stopError } from "../../lib/run/monitors/judge.ts";
import { brokenNumbers } from "../../lib/run/monitors/find_cause.ts";
import { brokenUnit, lookAtMasks } from "../../lib/run/monitors/mask_look.ts";
import { watchMemory } from "../../lib/run/monitors/memory.ts";
import { goodState, keptStates, oversee, oversightOf } from "../../lib/run/monitors/oversee.ts";
import { fresh, FRESH_MONITORS } from "../../lib/run/monitors/watch.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { resolveRates } from "../../lib/run/options/rates.ts";
import { firstPosition } from "../../lib/run/position.ts";
import { aimOf } from "../../lib/run/step.ts";
import type { LossHistory, MaskLook, RunPosition, RunState, StepRecord } from "../../lib/run/contract.ts";
import { recordView, type Steering } from "../../lib/run/steering.ts";
import { checkRefusal, type Refusal, refuses } from "../refuses.ts";

const setting = (threshold: number): { action: "warn"; threshold: number } => ({ action: "warn", threshold });
const spec: DecoderSpec = {
  vocab: 64,
  hidden: 16,
  headDim: 4,
  layers: [{ heads: 4, kvHeads: 4, ffn: 32 }, { heads: 4, kvHeads: 4, ffn: 32 }],
  normEps: 1e-5,
  rope: { base: 10_000, scaling: { kind: "none" } },
  tied: true,
  maxPosition: 64,
  bosId: 1,
  eosIds: [2],
  padId: null,
};

/** Losses one after the other; whether the last one raises an alarm. */
function diverges(losses: readonly number[], threshold = 0.5): boolean {
  let history: LossHistory = NO_LOSSES, isFound = false;
  for (const loss of losses) {
    const watched = watchLoss(history, loss, {
      chance: Math.log(49152),
      stage: "prune",
      setting: setting(threshold),
    });
    history = watched.history;
    isFound = watched.found.length > 0;
  }
  return isFound;
}

Deno.test("a loss diverges when its mean has risen half the way to a guess, not by single spikes or by what pruning costs", () => {
  assert.equal(diverges([2, 2, 2, 2, 7, 7, 7, 7]), true); // limit 2 + (10.8 − 2) / 2 = 6.4
  assert.equal(diverges([2, 2, 2, 2, 6, 6, 6, 6]), false);
  assert.equal(diverges([2, 2, 2, 2, 15]), false);
  // Also where it runs away before there were four losses.
  assert.equal(diverges([2, 7, 7, 7, 7]), true);
  assert.equal(diverges([2, 2, 7, 7, 7, 7]), true);
  assert.equal(diverges([2, 6, 6, 6, 6, 6]), false);
  assert.equal(diverges([2, 2, 2, 2, 6, 6, 6, 6], 0.3), true);
  assert.equal(diverges([11, 11, 11, 11, 11, 11]), false); // a model that was never better
  assert.equal(diverges([9, 8, 7]), false);
});

Deno.test("of a model that is hardly better than a guess the loss may rise by a nat", () => {
  const near = (loss: number): boolean => diverges([10.4, 10.4, 10.4, 10.4, loss, loss, loss, loss]); // a guess is 10.8
  assert.equal(near(11.3), false);
  assert.equal(near(11.5), true);
});

Deno.test("masks collapse to zero by kind beyond the target, and to one after the warm-up", () => {
  const look = (cut: number): MaskLook => ({
    layers: [],
    kinds: [
      { name: "heads", ...{ first: 0, count: 8, all: 8 }, cut: 0.1, share: 0.4 },
      { name: "FFN columns", ...{ first: 8, count: 64, all: 64 }, cut, share: 0.6 },
    ],
    closed: new Uint8Array(72),
    broken: null,
  });
  const at = { target: 0.3, expected: 0.3, isWarm: true, isHard: false, setting: setting(0.95) };
  assert.deepEqual(watchCollapse(look(0.9), at), []);
  const [zero] = watchCollapse(look(0.96), at);
  assert.match(zero?.message ?? "", /collapse to zero: 96\.0 % of the FFN columns are cut, limit 95\.0 %/);
  assert.match(zero?.change ?? "", /⟨rates\.mask⟩/);
  assert.equal(zero?.instead, undefined);
  // Where the target itself is high, more may fall.
  assert.deepEqual(watchCollapse(look(0.96), { ...at, target: 0.95, expected: 0.95 }), []);
  const [one] = watchCollapse(look(0), { ...at, expected: 0.01 });
  assert.match(one?.message ?? "", /collapse to one/);
  assert.match(one?.change ?? "", /⟨rates\.tracking=1⟩/);
  const [hard] = watchCollapse(look(0), { ...at, expected: 0.01, isHard: true });
  assert.match(hard?.change ?? "", /^let the schedule's target come to/, "gradual has no such rates");
  // Chosen before the schedule rose, every third step.
  assert.deepEqual(watchCollapse(look(0), { ...at, least: 0, expected: 0, isHard: true }), []);
  assert.deepEqual(watchCollapse(look(0), { ...at, expected: 0.01, isWarm: false }), []);
});

Deno.test("a layer is dead where all of it is cut, but not one that may be cut whole, is protected, or has a part that is not pruned", () => {
  const layers = [{ heads: 1, ffn: 0.99, sparsity: 1 }, { heads: 1, ffn: 0.9, sparsity: 0.95 }];
  const look: MaskLook = { layers, kinds: [], closed: new Uint8Array(0), broken: null };
  const dead = (kinds: readonly UnitKind[], protect: readonly number[] = []): string[] =>
    watchLayers(look, { table: unitTable(spec, kinds, { protect }), setting: setting(0.98), isHard: false }).map((
      { message, change },
    ) => `${message}: ${change}`);
  const [message, ...others] = dead(["heads", "ffn"]);
  assert.match(
    message ?? "",
    /^layer 0 is dead: 100\.0 % of its heads and 99\.0 % of its FFN columns.*⟨rules\.minimum\.heads⟩, ⟨rules\.minimum\.ffn⟩/,
  );
  const headless = { ...spec, layers: spec.layers.map((layer) => ({ ...layer, heads: 0, kvHeads: 0 })) };
  const [bare] = watchLayers(look, { table: unitTable(headless, ["ffn"]), setting: setting(0.98), isHard: false });
  assert.match(bare?.change ?? "", /least widths \(⟨rules\.minimum\.ffn⟩\)/);
  assert.deepEqual(others, []);
  const sight = { table: unitTable(spec, ["heads", "ffn"]), setting: setting(0.98) };
  // What a run would refuse is not advised.
  const advice = (["uniform", "compact"] as const).map((layout) =>
    watchLayers(look, { ...sight, isHard: true, of: { layout } })[0]?.change
  );
  const least = "set least widths (⟨rules.minimum.heads⟩, ⟨rules.minimum.ffn⟩)";
  assert.deepEqual(advice, [
    least,
    `protect it (⟨rules.protect=0⟩), or ${least}; to cut layers on purpose, add layers to the units`,
  ]);
  // No rate would choose hard masks otherwise, so that going back would not help.
  const instead = [true, false].map((isHard) => watchLayers(look, { ...sight, isHard })[0]?.instead);
  assert.deepEqual(instead, ["warn", undefined]);
  assert.deepEqual(dead(["heads"]), []); // FFNs that are not pruned live
  assert.deepEqual(dead(["heads", "ffn", "layers"]), []);
  assert.deepEqual(dead(["heads", "ffn"], [0]), []);
});

Deno.test("the target binds the whole where no layer has one of its own and nothing is frozen, however a schedule says so", () => {
  const rates = resolveRates(8, {}), table = unitTable(spec, ["ffn"]);
  const at = { step: 7, steps: 8, last: null, method: "compresso", table } as const;
  const isBound = (layers: Steering["layers"]): boolean =>
    aimOf({ target: 0.2, rates, end: false, layers, freeze: [] }, at).isBound;
  assert.deepEqual([null, [null, null], [0.2, null]].map(isBound), [true, true, false]);
  // What gradual saliency chose beside frozen units stays, until it chooses anew.
  const chosen = (step: number, isBound: boolean): boolean => {
    const last = { temperature: 1, noise: 1, isWarm: true, isBound };
    return aimOf({ target: 0.2, rates, end: false, layers: null, freeze: [] }, { ...at, method: "gradual", step, last })
      .isBound;
  };
  assert.deepEqual([5, 6, 7].map((step) => chosen(step, false)), [false, true, false]);
  assert.deepEqual([5, 6, 7].map((step) => chosen(step, true)), [true, true, true]);
});

Deno.test("gradual saliency under the layout uniform is not compared while equal widths alone would pass what it chose at", () => {
  const uneven = { ...spec, layers: spec.layers.map((layer, index) => ({ ...layer, ffn: index === 0 ? 16 : 32 })) };
  const table = tableOf(uneven, { units: ["ffn"], layout: "uniform", rules: {} }), least = leastUniform(table);
  assert.ok(least > 0.15, `${least}`);
  /** Alarms at the last of steps with these targets, where nothing has been cut. */
  const alarms = (targets: readonly number[], layout: "uniform" | "compact"): string[] => {
    const options = resolveOptions(
      { rows: [], method: "gradual", layout, units: ["ffn"], sparsity: 0.2, steps: 8, seq: 32 },
      uneven,
    );
    const record: StepRecord = {
      ...{
        stage: "prune",
        step: 7,
        steps: 8,
        loss: 1,
        target: targets.at(-1) ?? 0,
        expected: 0,
        lambda1: 0,
        lambda2: 0,
      },
      ...{ gradNorm: 1, learningRate: 1e-3, tokens: 1, labelTokens: 1, tokensPerSecond: 1, gpuBytes: 1 },
      ...{ plannedGpuBytes: 1, layers: null, alarms: [] },
    };
    const recent = targets.slice(0, -1).map((target) => recordView({ ...record, target }));
    const aim = { temperature: 1, noise: 1, isWarm: true, isBound: true };
    const look = { layers: [], kinds: [], closed: new Uint8Array(table.count), broken: null };
    const seen = { record, look, broken: null, memory: { bytes: 1, planned: 1, limit: 9 }, goodStep: 1 };
    const position = { ...firstPosition({ epoch: 0, index: 0 }), recent, aim, target: record.target };
    const { verdict } = oversee(position, seen, oversightOf(options, table, { steps: 8 }));
    return verdict.alarms.map(({ monitor }) => monitor);
  };
  assert.deepEqual(alarms([0.1, 0.1, 0.1], "uniform"), []);
  assert.deepEqual(alarms([0.1, 0.1, 0.2], "uniform"), [], "chosen before the jump");
  assert.deepEqual(alarms([0.2, 0.2, 0.2], "uniform"), ["constraint", "collapse"]);
  assert.deepEqual(alarms([0.1, 0.1, 0.1], "compact"), ["constraint", "collapse"]);
});

Deno.test("numbers that are not finite are those of a record, of masks, or both", () => {
  const bare: MaskLook = { layers: [], kinds: [], closed: new Uint8Array(0), broken: null };
  const look = { ...bare, broken: "log α of layer 1 is NaN" };
  assert.equal(brokenNumbers(null, bare), "");
  assert.equal(brokenNumbers(null, look), "not finite: log α of layer 1 is NaN");
});

Deno.test("what is said of losses names the rate that the run takes", () => {
  assert.match(lowerRate("finetune"), /\(⟨rates\.lora⟩, or `finetune\.lora` where a schedule sets it\)/);
  assert.match(lowerRate("prune"), /\(⟨rates\.lora⟩, or `rates\.lora` where a schedule sets it\)/);
  assert.match(lowerRate("postfinetune"), /not given, ⟨rates\.lora⟩, or `postfinetune\.lora` where a schedule/);
  type Of = NonNullable<Parameters<typeof watchLoss>[2]["of"]>;
  const lossIn = (stage: RecordView["stage"], of: Of = { method: "compresso", size: null }): string =>
    [1, 1, 1, 1, 9, 9, 9, 9].reduce<ReturnType<typeof watchLoss>>(
      ({ history }, loss) => watchLoss(history, loss, { chance: 10, stage, setting: setting(0.5), of }),
      { history: NO_LOSSES, found: [] },
    ).found[0]?.change ?? "";
  assert.match(
    lossIn("prune"),
    /⟨rates\.lora⟩.*, or prune in more steps \(⟨steps⟩\) or to a lower ⟨sparsity⟩$/,
  );
  assert.match(lossIn("postfinetune"), /⟨rates\.postfinetune⟩/);
  // What is cut, and how, is named where something is.
  assert.doesNotMatch(lossIn("finetune"), / prune |sparsity/);
  assert.match(
    lossIn("postfinetune", { method: "taylor", size: null }),
    /, or prune to a lower ⟨sparsity⟩$/,
  );
  assert.match(
    lossIn("prune", { method: "gradual", size: { parameters: 9 } }),
    /in more steps \(⟨steps⟩\) or to a larger size \(⟨size\.parameters⟩, ⟨size\.bytes⟩\)$/,
  );
});

Deno.test("the constraint is met to within the threshold while masks are learned, and by hard masks to within a unit", () => {
  const record = (expected: number, target: number): RecordView => ({
    stage: "prune",
    step: 1,
    loss: 1,
    target,
    expected,
    lambda1: 0,
    lambda2: 0,
    gradNorm: 1,
    learningRate: 1,
  });
  const soft = { setting: setting(0.01), isHard: false, unit: 0.001 }, hard = { ...soft, isHard: true };
  assert.deepEqual(watchConstraint([record(0.209, 0.2)], soft), []);
  assert.match(
    watchConstraint([record(0.22, 0.2)], soft)[0]?.message ?? "",
    /expected sparsity 22\.0 %, target 20\.0 %/,
  );
  // Hard masks were chosen at one of the last targets.
  const rising = [record(0.1, 0.1), record(0.1, 0.14), record(0.1, 0.18)];
  assert.deepEqual(watchConstraint(rising, hard), []);
  assert.equal(watchConstraint(rising, soft).length, 1);
  assert.deepEqual(watchConstraint([...rising, record(0.1, 0.2)], hard).map(({ instead }) => instead), ["warn"]);
  assert.deepEqual(checkHard({ target: 0.2, hard: 0.2005 }, { unit: 0.001, layout: "compact" }), []);
  assert.match(
    checkHard({ target: 0.2, hard: 0.19 }, { unit: 0.001, layout: "compact" })[0]?.change ?? "",
    /let the schedule end later/,
  );
  assert.match(
    checkHard({ target: 0.2, hard: 0.21 }, { unit: 0.001, layout: "compact" })[0]?.change ?? "",
    /single layers/,
  );
  assert.match(
    checkHard({ target: 0.2, hard: 0.21 }, { unit: 0.001, layout: "uniform" })[0]?.change ?? "",
    /equal widths/,
  );
  // 2 layers of 4·16·16 + 3·16·32 parameters; a head of 4 has 4·4·16, a column 3·16.
  const total = 2 * (1024 + 1536);
  assert.equal(largestUnit(unitTable(spec, ["heads", "ffn"]), "compact"), 256 / total);
  assert.equal(largestUnit(unitTable(spec, ["ffn"], { align: 8 }), "uniform"), 8 * 2 * 48 / total);
  // Where all layers are cut alike, groups of several heads fall whole: what it says is the largest step that such masks take.
  const grouped = unitTable({ ...spec, layers: spec.layers.map((layer) => ({ ...layer, kvHeads: 2 })) }, ["heads"]);
  const rows = uniformBlocks(grouped).rows.map(({ size }) => size / grouped.total);
  assert.equal(largestUnit(grouped, "uniform"), Math.max(...rows));
  // A group alone falls head by head, so that its last head is the largest.
  const single = unitTable({ ...spec, layers: spec.layers.map((layer) => ({ ...layer, kvHeads: 1 })) }, ["heads"]);
  assert.equal(largestUnit(single, "uniform"), 2 * (2 * 4 * 16 + 2 * 4 * 16) / single.total);
});

Deno.test("what is not finite is named as it lies among a learner's moments", () => {
  const table = unitTable(spec, ["kv", "ffn"]),
    { count, ranges: { ffn: { first: ffnFirst } } } = table,
    unit = ffnFirst + 3;
  const named = (index: number): string | null => {
    const maskMoments = new Float32Array(momentFloats(table));
    maskMoments[index] = Infinity;
    return brokenUnit(table, { logAlpha: new Float32Array(count), maskMoments });
  };
  assert.equal(named(2 * unit + 1), "Adam's moments of log α of FFN column 3 of layer 0");
  assert.equal(named(2 * count + unit), "the running saliency of FFN column 3 of layer 0");
  assert.equal(named(3 * count + unit), "the prior of FFN column 3 of layer 0");
  assert.equal(named(4 * count + 1), "the drift or memory of the running saliency");
});

Deno.test("memory runs out near the limit, unless that was the plan", () => {
  const near = (bytes: number, planned: number, limit: number): Finding | undefined =>
    watchMemory({ bytes: bytes * 2 ** 20, planned: planned * 2 ** 20, limit: limit * 2 ** 20 }, {
      setting: setting(0.95),
    })[0];
  assert.equal(near(97, 97, 100), undefined);
  assert.equal(near(90, 50, 100), undefined);
  assert.equal(near(1e6, 50, Infinity), undefined);
  assert.match(near(96, 50, 100)?.message ?? "", /96 MiB are in use, 50 MiB were planned; the limit is 100 MiB/);
  assert.match(near(96, 50, 100)?.change ?? "", /46 MiB/);
});

Deno.test("a finding raises one alarm until it was gone", () => {
  const found = (key: string): Finding => ({ monitor: "dead-layer", key, message: "", change: "" });
  const first = fresh(FRESH_MONITORS, [found("dead-layer 1")], ["dead-layer"]);
  assert.equal(first.found.length, 1);
  const second = fresh(first.state, [found("dead-layer 1"), found("dead-layer 2")], ["dead-layer"]);
  assert.deepEqual(second.found.map(({ key }) => key), ["dead-layer 2"]);
  assert.deepEqual(fresh(second.state, [], ["divergence"]).state.active, ["dead-layer 1", "dead-layer 2"]);
  const gone = fresh(second.state, [], ["dead-layer"]);
  assert.equal(fresh(gone.state, [found("dead-layer 1")], ["dead-layer"]).found.length, 1);
});

Deno.test("the strongest action is taken, and a run that went back too often stops", () => {
  const settings = resolveMonitors({ "dead-layer": { action: "warn" }, rollbacks: 2 });
  const found: Finding[] = [
    { monitor: "dead-layer", key: "", message: "a layer", change: "protect it" },
    { monitor: "divergence", key: "", message: "a loss", change: "lower it" },
  ];
  const at = { settings, step: 40, halvings: 0, goodStep: 32 };
  const back = judge(found, at);
  assert.equal(back.action, "rollback");
  assert.deepEqual(back.alarms.map(({ action, restored }) => [action, restored]), [["warn", null], ["rollback", 32]]);
  const stop = judge(found, { ...at, halvings: 2 });
  assert.equal(stop.action, "stop");
  const error = stopError(stop);
  assert.equal(error.code, "numeric");
  assert.match(error.parts.fix ?? "", /^lower it; .*export\.replace.*resume, with monitors: "divergence=warn"/);
  assert.match(error.partsAs((path) => `--${path}`).fix ?? "", /^lower it; .*--export\.replace.*--resume/);
  const nan = stopError(
    judge([{ monitor: "nan", key: "", message: "NaN", change: "lower it" }], { ...at, halvings: 2 }),
  );
  assert.doesNotMatch(nan.parts.fix ?? "", /monitors/, "it may not only warn");
  checkRefusal(error, "numeric", { value: 2, names: ["step 40", "divergence"] });
  assert.equal(judge(found.map((one) => ({ ...one, instead: "warn" })), at).action, "warn");
  assert.equal(judge([], at).action, null);
});

Deno.test("a run goes back to the last state with some steps after it that were good", () => {
  const states = [0, 8, 16, 24].map((step): RunState => ({
    position: { ...firstPosition({ epoch: 0, index: 0 }), step } satisfies RunPosition,
    arrays: null as unknown as RunState["arrays"],
  }));
  const goodStep = (step: number): number | undefined => goodState(states, step)?.position.step;
  assert.deepEqual([25, 28, 29, 21, 3].map(goodStep), [16, 16, 24, 16, 0]);
  assert.deepEqual(keptStates(states, 24).map(({ position }) => position.step), [16, 24]);
  assert.deepEqual(keptStates(states.slice(0, 1), 0).length, 1);
});

Deno.test("settings that no monitor has are refused, in programs and on the command line", () => {
  const forbids = (work: () => unknown, pattern: Refusal): void => refuses(work, "usage", pattern);
  forbids(() => resolveMonitors({ loss: { action: "warn" } } as object), { value: "loss" });
  forbids(() => resolveMonitors({ nan: { action: "off" } }), { value: "off" });
  forbids(() => resolveMonitors({ memory: { action: "rollback" } }), { value: "rollback" });
  forbids(() => resolveMonitors({ divergence: { threshold: 0 } }), { value: 0, names: 1 });
  forbids(() => resolveMonitors({ rollbacks: -1 }), { value: -1 });
  forbids(
    () => resolveMonitors({ collapse: { action: "off", threshold: 0.9 } }),
    { value: 0.9 },
  );
  assert.equal(resolveMonitors({ collapse: { action: "off" } }).collapse, null);
  const option = "--on-alarm";
  assert.deepEqual(alarmSettings("nan=stop", { option, before: alarmSettings("constraint=warn:0.02", { option }) }), {
    constraint: { action: "warn", threshold: 0.02 },
    nan: { action: "stop" },
  });
  for (const text of ["nan", "nan=", "loss=warn", "nan=warn", "collapse=warn:2", "collapse=warn:x"]) {
    forbids(() => alarmSettings(text, { option }), {});
  }
});

Deno.test("a look sees the cut of every layer and kind, expected or hard", () => {
  const table = unitTable(spec, ["heads", "ffn"]);
  const logAlpha = new Float32Array(table.count).fill(20);
  logAlpha.fill(-20, table.ranges.ffn.first, table.ranges.ffn.first + 16); // half the columns of layer 0
  const slots = new Float32Array(table.layout.count).fill(1);
  slots.fill(0, table.slotFirst[0] ?? 0, (table.slotFirst[0] ?? 0) + 1); // one head of four of layer 0
  const maskMoments = new Float32Array(2 * table.count);
  const learned = lookAtMasks(table, { logAlpha, maskMoments, slots }, { learned: { temperature: 2 / 3, noise: 1 } });
  const hard = lookAtMasks(table, { logAlpha, maskMoments, slots }, { learned: null });
  const near = (actual: number | undefined, wanted: number): void =>
    assert.ok(Math.abs((actual ?? NaN) - wanted) < 1e-6);
  near(learned.layers[0]?.ffn, 0.5);
  near(learned.layers[0]?.heads, 0);
  near(learned.kinds[1]?.cut, 0.25);
  assert.deepEqual(hard.layers.map(({ heads, ffn }) => [heads, ffn]), [[0.25, 0], [0, 0]]);
  assert.deepEqual(hard.kinds.map(({ name, first, count, cut }) => [name, first, count, cut]), [
    ["heads", 0, 8, 0.125],
    ["FFN columns", 8, 64, 0],
  ]);
  assert.equal(learned.closed.reduce((sum, flag) => sum + flag, 0), 16);
  assert.equal(hard.broken, null);
  logAlpha[1] = -Infinity;
  assert.match(
    lookAtMasks(table, { logAlpha, maskMoments, slots }, { learned: null }).broken ?? "",
    /head 1 of layer 0/,
  );
});
