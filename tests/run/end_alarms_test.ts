// Alarms about what a target demands: kinds that it leaves little of, and sparsity that falls only when the masks become hard. As functions, and in a short run.
import assert from "node:assert/strict";
import { loadModel, prune, type PruneOptions, readRows } from "../../mod.ts";
import type { RunOptions, Target } from "../../lib/run/options/options.ts";
import { demoData, parameterCount } from "../../lib/model/mod.ts";
import type { Alarm } from "../../lib/run/mod.ts";
import { defineSchedule, type ScheduleDefinition, type ScheduleInput, steps } from "../../lib/schedule/mod.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { keptBy } from "../../lib/run/methods/kept.ts";
import type { ResolvedOptions } from "../../lib/run/options/options.ts";
import { overseeEnd, overseeHard, oversightOf } from "../../lib/run/monitors/oversee.ts";
import { BASE } from "./helpers/demo_run.ts";
import { resolveMonitors } from "../../lib/run/monitors/alarm.ts";
import { watchCollapse } from "../../lib/run/monitors/collapse.ts";
import { checkFall } from "../../lib/run/monitors/constraint.ts";
import { lookAtMasks } from "../../lib/run/monitors/mask_look.ts";
import { FRESH_MONITORS, watchMasks } from "../../lib/run/monitors/watch.ts";
import { unitTable } from "../../lib/units/table.ts";
import { firstPosition } from "../../lib/run/position.ts";
import { decoder } from "../units/helpers/decoders.ts";
import { judge } from "../../lib/run/monitors/judge.ts";
import { sharedDevice } from "../device.ts";
import type { MaskLook, MonitorState, RunPosition } from "../../lib/run/contract.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";

type Goal = Target;

const setting = { action: "rollback", threshold: 0.95 } as const;
const look = (cut: number, name = "FFN columns"): MaskLook => ({
  layers: [],
  kinds: [{ name: "KV groups", first: 0, count: 15, all: 15, cut: 0.5, share: 0.25 }, {
    name,
    first: 15,
    count: 480,
    all: 480,
    cut,
    share: 0.75,
  }],
  closed: new Uint8Array(495),
  broken: null,
});

Deno.test("a high target may cut a kind but for a quarter of what it leaves, and a usual one but for a twentieth", () => {
  const isFound = (target: number, cut: number): boolean =>
    watchCollapse(look(cut), { target, expected: target, isWarm: true, isHard: false, setting }).length > 0;
  assert.equal(isFound(0.9, 0.97), false); // limit 1 − 0.1 / 4
  assert.equal(isFound(0.9, 0.988), true);
  assert.equal(isFound(0.85, 0.955), false);
  for (const target of [0.1, 0.3, 0.5, 0.8]) {
    assert.equal(isFound(target, 0.951), true);
    assert.equal(isFound(target, 0.949), false);
  }
});

Deno.test("a threshold of the user's own holds at usual targets, with its action", () => {
  const own = { action: "rollback", threshold: 0.6 } as const, at = { target: 0.3, expected: 0.3, isWarm: true };
  const found = (cut: number): ReturnType<typeof watchCollapse> =>
    watchCollapse(look(cut), { ...at, isHard: false, setting: own }).filter(({ key }) => key.includes("FFN"));
  assert.deepEqual([found(0.59).length, found(0.61).length], [0, 1]);
  assert.equal(found(0.61)[0]?.instead, undefined);
});

Deno.test("masks that hold a high target, and hard ones, only warn of a collapse, and name what keeps more of the kind", () => {
  const settings = resolveMonitors();
  const alarmOf = (
    given: { expected: number; isHard: boolean; of?: Pick<ResolvedOptions, "method" | "size"> },
    name?: string,
  ): Alarm | undefined => {
    const found = watchCollapse(look(0.99, name), { target: 0.9, isWarm: true, setting, ...given });
    return judge(found, { settings, step: 28, halvings: 0, goodStep: 20 }).alarms[0];
  };
  const held = alarmOf({ expected: 0.897, isHard: false });
  assert.equal(held?.action, "warn");
  assert.match(
    held?.message ?? "",
    /99\.0 % of the FFN columns are cut, limit 97\.5 %, target 90\.0 %, which they hold$/,
  );
  const named = (alarm: Alarm | undefined): string[] => (alarm?.options ?? []).map(({ option }) => option);
  assert.deepEqual(named(held), ["steps", "sparsity", "rules.minimum.ffn"]);
  const sized = { method: "gradual", size: { parameters: 9 } } as const,
    once = { method: "taylor", size: null } as const;
  const adviceTo = (of: typeof sized | typeof once): string[] => named(alarmOf({ expected: 0.897, isHard: false, of }));
  assert.deepEqual(adviceTo(sized).slice(0, 3), ["steps", "size.parameters", "size.bytes"]);
  assert.ok(!adviceTo(sized).includes("sparsity"));
  assert.ok(!adviceTo(once).includes("steps"));
  assert.ok(named(alarmOf({ expected: 0.9, isHard: false }, "KV groups")).includes("rules.minimum.heads"));
  // Hard masks are chosen at the target, or at one of the last few.
  assert.equal(alarmOf({ expected: 0.85, isHard: true })?.action, "warn");
  const lost = alarmOf({ expected: 0.95, isHard: false });
  assert.equal(lost?.action, "rollback");
  assert.deepEqual(named(lost).filter((option) => option !== "sparsity"), ["rates.mask", "rules.minimum.ffn"]);
});

Deno.test("masks that leave a high target later are another alarm than those that hold it, and not told again as such", () => {
  const settings = resolveMonitors(), table = unitTable(decoder([{ heads: 1, kvHeads: 1, ffn: 8 }]), ["ffn"]);
  let state: MonitorState = firstPosition({ epoch: 0, index: 0 }).monitors;
  const told = (expected: number): (string | undefined)[] => {
    const sight = { look: look(0.99), table, target: 0.9, least: 0.9, expected };
    const of = { method: "compresso", layout: "compact", size: null } as const;
    const watched = watchMasks(state, { ...sight, isWarm: true, isLoose: false, isHard: false, of }, settings);
    state = watched.state;
    return watched.found.map(({ instead }) => instead);
  };
  assert.deepEqual([0.897, 0.898, 0.95, 0.96, 0.9].map(told), [["warn"], [], [undefined], [], []]);
});

Deno.test("a kind that the target itself takes nearly all of does not collapse, nor one of which a few layers alone may lose units", () => {
  const groups = (cut: number): MaskLook => ({
    ...look(0),
    kinds: [{ name: "KV groups", first: 0, count: 90, all: 90, cut, share: 0.247 }],
  });
  const at = { target: 0.24, expected: 0.24, isWarm: true, isHard: false, setting };
  assert.deepEqual(watchCollapse(groups(0.972), at), []);
  assert.equal(watchCollapse(groups(0.998), at)[0]?.instead, "warn"); // as the target has it
  assert.equal(watchCollapse(groups(0.972), { ...at, target: 0.1, expected: 0.24 })[0]?.instead, undefined);
  const layer = { heads: 4, kvHeads: 2, ffn: 8 };
  const lost = (protect: readonly number[]): string[] => {
    const table = unitTable(decoder([layer, layer, layer, layer]), ["kv", "ffn"], { protect });
    const slots = new Float32Array(table.layout.count).fill(1),
      { slotFirst, slotCount, ranges: { ffn: { first: groups } } } = table;
    for (let unit = 0; unit < groups; unit++) {
      slots.fill(0, slotFirst[unit], (slotFirst[unit] ?? 0) + (slotCount[unit] ?? 0));
    }
    const arrays = { logAlpha: new Float32Array(table.count), maskMoments: new Float32Array(0), slots };
    const seen = lookAtMasks(table, arrays, { learned: null });
    assert.deepEqual(seen.kinds.map(({ name, count, all, cut }) => [name, count, all, cut]), [
      ["KV groups", groups, 8, 1],
      ["FFN columns", 4 * groups, 32, 0],
    ]);
    assert.ok(Math.abs(seen.kinds.reduce((sum, { share }) => sum + share, 0) - (4 - protect.length) / 4) < 1e-9);
    return watchCollapse(seen, { ...at, target: 0.1, expected: 0.1 }).map(({ key }) => key);
  };
  assert.deepEqual(lost([0, 1, 2]), []);
  assert.deepEqual(lost([0]), ["collapse KV groups"]);
});

Deno.test("what is cut at once at the end is told from the threshold on, with its cause", () => {
  const at = { target: 0.3, expected: 0.168, hard: 0.301 }, loose = { isLoose: true, isHard: false, threshold: 0.01 };
  const [found] = checkFall(at, loose);
  assert.match(
    found?.message ?? "",
    /expected sparsity 16\.8 % .*, target 30\.0 %; 13\.3 % were cut at once .*frozen units or targets of single layers kept/,
  );
  assert.match(found?.change ?? "", /freeze less/);
  assert.match(checkFall({ ...at, expected: 0.402 }, loose)[0]?.message ?? "", /10\.\d % came back at once/);
  assert.doesNotMatch(checkFall(at, { ...loose, isLoose: false })[0]?.message ?? "", /frozen/);
  assert.match(checkFall(at, { ...loose, isLoose: false, isHard: true })[0]?.change ?? "", /more steps/);
  assert.deepEqual(checkFall(at, { ...loose, threshold: 0.2 }), []);
  assert.deepEqual(checkFall({ ...at, expected: 0.295 }, loose), []);
  // Masks that overshoot as they were expected to are hard off the target: another alarm.
  assert.deepEqual(checkFall({ ...at, expected: 0.37, hard: 0.372 }, loose), []);
});

Deno.test("what a loss was before much was cut at once says nothing of the losses after it", () => {
  const spec = decoder([{ heads: 4, kvHeads: 4, ffn: 40 }]), table = unitTable(spec, ["kv", "ffn"]);
  const given = { rows: [], sparsity: 0.2, steps: 60, seq: 64, units: ["kv", "ffn"] } as const;
  const monitors: MonitorState = { ...FRESH_MONITORS, losses: { last: [2, 2, 2, 2], lowest: 2 } };
  const after = (at: Partial<RunPosition>, more: Partial<RunOptions> = {}): MonitorState["losses"] => {
    const options = resolveOptions({ ...given, ...more }, spec);
    const { position } = overseeHard(
      { ...firstPosition({ epoch: 0, index: 0 }), stageStep: 60, target: 0.2, monitors, ...at },
      { look: look(0.2), hard: 0.2, isSkipped: false },
      oversightOf(options, table, { steps: 60 }),
    );
    return position.monitors.losses;
  };
  assert.deepEqual(after({ expected: 0.199 }), monitors.losses);
  assert.deepEqual(after({ expected: 0.02 }), FRESH_MONITORS.losses);
  // Also where nobody wants to hear of the cut, where a size takes more than the schedule came to, and where no step was made.
  assert.deepEqual(after({ expected: 0.02 }, { monitors: { constraint: { action: "off" } } }), FRESH_MONITORS.losses);
  assert.deepEqual(after({ expected: 0.02, target: 0.02 }), FRESH_MONITORS.losses);
  assert.deepEqual(after({ expected: null, stageStep: 0, leftOut: 60 }), FRESH_MONITORS.losses);
});

Deno.test("frozen units that keep masks from the target raise one alarm, when the masks become hard", async () => {
  const { rows } = await readRows(demoData("train"), { limit: 32 });
  const device = await sharedDevice();
  using model = await loadModel("demo", { device });
  const constraints = async (parts: ScheduleDefinition): Promise<Alarm[]> => {
    using run = prune(model, {
      rows,
      schedule: defineSchedule(parts),
      sparsity: 0.3,
      steps: 4,
      prefinetune: 0,
      postfinetune: 1,
      batch: 1,
      seq: 64,
      prompt: null,
      rates: { warmup: 0.5 },
    });
    const told: Alarm[] = [];
    for await (const { alarms } of run) told.push(...alarms.filter(({ monitor }) => monitor === "constraint"));
    return told;
  };
  const frozen = await constraints({
    freeze: ({ layers, step }) =>
      step < 1 ? [] : layers.flatMap((_, layer) => [{ layer, kind: "ffn" }, { layer, kind: "heads" }]),
  });
  assert.deepEqual(frozen.map(({ step, action }) => [step, action]), [[4, "warn"]]);
  assert.match(frozen[0]?.message ?? "", /target 30\.0 %; \d+\.\d % were cut at once .*frozen units/);
  // The others can still make up for a layer that is frozen.
  assert.deepEqual(await constraints({ freeze: () => [{ layer: 1, kind: "ffn" }] }), []);
});

Deno.test("a schedule that ends beside what was asked for is told so, and what a size takes all the same", async () => {
  const device = await sharedDevice();
  using model = await loadModel("demo", { device });
  const { rows } = await readRows(demoData("train"), { limit: 64 });
  const base = { rows, steps: 8, prefinetune: 0, postfinetune: 0, batch: 1, seq: 80, prompt: null } as const;
  const alarmsOf = async (
    goal: Goal & Pick<PruneOptions, "rates">,
    schedule?: ScheduleDefinition,
  ): Promise<string[]> => {
    using run = prune(model, { ...base, ...goal, ...(schedule ? { schedule: defineSchedule(schedule) } : {}) });
    for await (const _ of run) { /* to its end */ }
    return run.result().alarms.filter(({ monitor }) => monitor === "constraint").map(({ message }) => message);
  };
  const end = ({ step }: ScheduleInput): boolean => step === 1;
  const low: ScheduleDefinition = { sparsity: ({ progress }) => 0.1 * progress };
  const size = { size: { parameters: Math.floor(0.8 * parameterCount(model.spec)) } };
  const [asked, ...others] = await alarmsOf({ sparsity: 0.3 }, low);
  assert.match(asked ?? "", /last target is 10\.0 %, and 30\.0 % was asked for; hard sparsity is 10\.\d %$/);
  assert.deepEqual(others, []);
  assert.deepEqual(await alarmsOf({ sparsity: 0.1 }, low), []);
  // Though λ alone has not held the schedule either.
  const [lagging = "", beside = ""] = await alarmsOf({ sparsity: 0.3, rates: { tracking: 0, warmup: 0.5 } }, low);
  assert.match(lagging, /expected sparsity \d\.\d %, target \d\.\d %, off by more than 1\.0 %/);
  assert.match(beside, /last target is 10\.0 %, and 30\.0 % was asked for/);
  const [taken = ""] = await alarmsOf(size, low);
  assert.match(taken, /last target is 10\.0 %, and the size takes 2\d\.\d %; 1\d\.\d % were cut at once when/);
  const [left = "", ...beyond] = await alarmsOf(size, { end });
  assert.match(left, /and the size takes 2\d\.\d %; hard sparsity is \d+\.\d %$/);
  assert.deepEqual(beyond, [], "said once");
  assert.deepEqual(await alarmsOf(size), []);
  const [unlearned = "", ...more] = await alarmsOf(size, { end: () => true });
  assert.match(
    unlearned,
    /ended the pruning stage before its first step, and 2\d\.\d % were cut at once for the size$/,
  );
  assert.deepEqual(more, []);
  const [smaller = "", ...no] = await alarmsOf(size, { layers: ({ layers }) => layers.map(() => 0.5) });
  assert.match(smaller, /smaller than it was asked to be: hard sparsity 5\d\.\d %, the size takes 2\d\.\d %$/);
  assert.deepEqual(no, []);
});

Deno.test("gradual saliency of a stage that ends before its first step looks at the rows before it cuts to a size", async () => {
  const { rows } = await readRows(demoData("train"), { limit: 32 });
  const device = await sharedDevice();
  using model = await loadModel("demo", { device });
  const parameters = Math.floor(0.85 * parameterCount(model.spec));
  using run = prune(model, {
    ...{ rows, method: "gradual", size: { parameters }, steps: 22, batch: 1, seq: 64, prompt: null },
    schedule: defineSchedule({ end: () => true }),
  });
  for await (const _ of run) { /* to its end */ }
  const { logAlpha, table, masks } = run.result(), kept = keptBy(table, masks);
  const mean = (isKept: boolean): number => {
    const own = [...logAlpha.subarray(table.ranges.ffn.first)].filter((_, unit) =>
      (kept[table.ranges.ffn.first + unit] === 1) === isKept
    );
    return own.reduce((sum, value) => sum + value, 0) / own.length;
  };
  assert.ok(mean(true) > 2 * mean(false) && mean(false) > 0, `${mean(true)} of what stays, ${mean(false)} of the rest`);
  // Per parameter, so that a KV group, which saves 64 times what a column does, ranks among the columns.
  const groups = logAlpha.subarray(0, table.ranges.ffn.first), columns = logAlpha.subarray(table.ranges.ffn.first);
  const [ofGroups, ofColumns] = [groups, columns].map((own) => own.reduce((sum, v) => sum + v, 0) / own.length);
  assert.ok((ofGroups ?? NaN) < 5 * (ofColumns ?? NaN), `${ofGroups} of KV groups, ${ofColumns} of columns`);
});

Deno.test("a run larger than its size by a schedule's end is told of the schedule, and by hooks of these", async () => {
  const { source: { spec } } = await openModelFiles("demo"), table = unitTable(spec, ["kv", "ffn"]);
  const { sparsity: _sparsity, ...base } = BASE;
  const options = { ...resolveOptions({ ...base, size: { parameters: 700_000 } }, spec), sparsity: 0.2 };
  const position = { ...firstPosition({ epoch: 0, index: 0 }), target: options.sparsity };
  const change = (more: Partial<RunPosition>): string | undefined => {
    const oversight = oversightOf(options, table, { steps: 40 });
    const { verdict } = overseeEnd({ ...position, ...more }, { look: look(0.2), hard: 0.2, excess: 12 }, oversight);
    return verdict.alarms.find(({ message }) => message.includes("larger"))?.change;
  };
  assert.match(change({}) ?? "", /let hooks leave the masks/);
  assert.match(change({ leftOut: 2, layerTargets: [0.1, null] }) ?? "", /let the schedule end the stage only/);
});

Deno.test("gradual saliency is held to the targets at which it chose, where the schedule jumps between", async () => {
  const { rows } = await readRows(demoData("train"), { limit: 32 });
  const device = await sharedDevice();
  using model = await loadModel("demo", { device });
  using run = prune(model, {
    ...{ rows, method: "gradual", sparsity: 0.2, steps: 22, batch: 1, seq: 64, prompt: null },
    schedule: defineSchedule({ sparsity: steps([[0, 0], [0.5, "target"]]) }),
  });
  const expected: (number | null)[] = [];
  for await (const record of run) if (record.stage === "prune") expected.push(record.expected);
  assert.ok(expected[10] === 0 && (expected[12] ?? 0) > 0.19, `the jump lies between two choices: ${expected}`);
  assert.deepEqual(run.result().alarms.map(({ message }) => message), []);
});
