// Goals of layers and parts, held units and least widths in the projection: each moves just the units that it may, and is met.
import assert from "node:assert/strict";
import { momentFloats } from "../../lib/masks/learner.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import type { UnitKind } from "../../lib/units/kinds/all.ts";
import type { UnitRules } from "../../lib/units/rules.ts";
import { type UnitTable, unitTable } from "../../lib/units/table.ts";
import { type Refusal, refuses } from "../refuses.ts";
import { aliveOf, decoder, layerSparsityOf, sparsityOf, UNEVEN } from "../units/helpers/decoders.ts";
import { random } from "./helpers/cells.ts";
import { aliveChance, createRig, expected, nameOf, NOISE, type Rig } from "./helpers/mask_rig.ts";

const device: Device = await openDevice();
const DEEP = decoder(Array.from({ length: 5 }, () => ({ heads: 8, kvHeads: 4, ffn: 70 })), { hidden: 36, headDim: 4 });
const KINDS: readonly (readonly UnitKind[])[] = [
  ["kv", "ffn"],
  ["heads", "ffn", "hidden"],
  ["kv", "ffn", "hidden", "layers"],
];
const startOf = (table: UnitTable, seed: number): Float32Array<ArrayBuffer> =>
  random(table.count, seed).map((value) => 3 * value);
const chances = (logAlpha: ArrayLike<number>): Float64Array =>
  Float64Array.from(logAlpha, (alpha) => aliveChance(alpha, NOISE));
const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

/** By how much each unit moved, to f32's rounding of sums of that size. */
function shifts(before: Float32Array, after: Float32Array): number[] {
  return Array.from(after, (value, unit) => Math.round((value - (before[unit] ?? NaN)) * 1e4) / 1e4);
}

function table(kinds: readonly UnitKind[], rules: UnitRules = {}): UnitTable {
  return unitTable(DEEP, kinds, rules);
}

Deno.test("without tracking goals of layers and parts are met, and all else stays where it is", async () => {
  const units = table(["heads", "ffn", "hidden"]), goals = [0.4, null, 0.1, null, null];
  const parts = { attention: [0.2, 0.2, 0.2, 0.2, 0.2], ffn: [0.1, 0.1, 0.1, 0.1, 0.1] };
  for (const start of [startOf(units, 3), new Float32Array(units.count).fill(10)]) {
    const after = async (set: (setup: Rig) => void): Promise<Float32Array> => {
      using setup = createRig(device, units);
      set(setup);
      return (await setup.step({ state: { ...NOISE, target: 0.3 }, logAlpha: start, lambda: [0, 0] })).logAlpha;
    };
    const whole = await after(({ learner }) => learner.setLayerGoals(goals));
    for (const [layer, goal] of goals.entries()) {
      if (goal !== null) assert.ok(Math.abs(layerSparsityOf(units, chances(whole), layer) - goal) < 1e-4, `${layer}`);
    }
    const isFree = (unit: number): boolean =>
      unit >= units.ranges.hidden.first || (goals[units.layer[unit] ?? 0] ?? null) === null;
    whole.forEach((value, unit) => isFree(unit) && assert.equal(value, start[unit], `unit ${unit}`));
    const apart = await after(({ learner }) => learner.setPartGoals(parts));
    for (let layer = 0; layer < DEEP.layers.length; layer++) {
      const { heads = [], kv = [], ffn = [] } = aliveOf(units, chances(apart)).layers[layer] ?? {};
      assert.ok(Math.abs(sum(ffn) / 70 - 0.9) < 1e-4, `${sum(ffn)} columns in layer ${layer}`);
      assert.ok(Math.abs((sum(heads) + sum(kv)) / 12 - 0.8) < 1e-4, `${sum(heads)} heads in layer ${layer}`);
    }
  }
});

Deno.test("a layer with a goal of its own meets it by one shift, and the others the goal of the whole by another", async () => {
  for (const kinds of KINDS) {
    for (const rules of [{}, { protect: [4] }]) {
      const units = table(kinds, rules), start = startOf(units, 1), goals = [0.4, null, 0.1, null, null];
      using setup = createRig(device, units);
      setup.learner.setLayerGoals(goals);
      const state = { ...NOISE, target: 0.3, tracking: 1 };
      const { logAlpha, constraint } = await setup.step({ state, logAlpha: start, lambda: [0, 0] });
      const what = nameOf(units), p = chances(logAlpha);
      goals.forEach((goal, layer) => {
        const reached = layerSparsityOf(units, p, layer);
        if (goal !== null) {
          assert.ok(Math.abs(reached - goal) < 1e-4, `layer ${layer}: ${reached}, not ${goal}: ${what}`);
        }
      });
      assert.ok(Math.abs(sparsityOf(units, p) - 0.3) < 1e-4, `${sparsityOf(units, p)}: ${what}`);
      assert.ok(Math.abs((constraint[7] ?? NaN) - 0.3) < 1e-4);
      const moves = shifts(start, logAlpha),
        isDim = (u: number): boolean => u >= units.ranges.hidden.first && u < units.ranges.layers.first;
      const groups = Map.groupBy(moves.keys(), (u) => {
        const layer = units.layer[u] ?? NaN;
        return !isDim(u) && goals[layer] !== null ? layer : "free";
      });
      assert.equal(groups.size, 3);
      for (const [group, members] of groups) {
        const own = new Set(members.map((u) => moves[u] ?? NaN));
        assert.ok(own.size <= 2, `${group} moved by ${[...own]}: ${what}`); // two where a rounding falls on the edge
        assert.ok(Math.max(...own) - Math.min(...own) < 3e-4, `${group} moved by ${[...own]}: ${what}`);
      }
    }
  }
});

Deno.test("a layer of which attention or FFN alone can be cut meets its goal too, and keeps its order", async () => {
  const goals = [0.2, null, 0, null, null];
  for (const kinds of [["ffn"], ["kv"], ["heads"]] as const) {
    const units = table(kinds), start = startOf(units, 1);
    using setup = createRig(device, units);
    setup.learner.setLayerGoals(goals);
    const { logAlpha } = await setup.step({
      state: { ...NOISE, target: 0.1, tracking: 1 },
      logAlpha: start,
      lambda: [0, 0],
    });
    const what = nameOf(units), p = chances(logAlpha), moves = shifts(start, logAlpha);
    assert.ok(Math.abs(layerSparsityOf(units, p, 0) - 0.2) < 1e-4, `${layerSparsityOf(units, p, 0)}: ${what}`);
    assert.ok(layerSparsityOf(units, p, 2) < 1e-4, `${layerSparsityOf(units, p, 2)}: ${what}`);
    for (const layer of [0, 2]) {
      const own = [...moves.keys()].filter((u) => units.layer[u] === layer).map((u) => moves[u] ?? NaN);
      assert.ok(own.length > 1 && Math.max(...own) - Math.min(...own) < 3e-4, `${own}: ${what}`);
    }
  }
});

Deno.test("goals of attention and FFN are met each, and hidden dims then meet that of the whole", async () => {
  const goals = {
    attention: [0.3, 0.1, null, 0.3, 0.3],
    ffn: [0.2, 0.2, 0.2, null, 0.25],
  };
  for (const kinds of [["kv", "ffn"], ["heads", "ffn", "hidden"]] as const) {
    const units = table(kinds), start = startOf(units, 2);
    using setup = createRig(device, units);
    setup.learner.setPartGoals(goals);
    const { logAlpha } = await setup.step({
      state: { ...NOISE, target: 0.28, tracking: 1 },
      logAlpha: start,
      lambda: [0, 0],
    });
    const p = chances(logAlpha), { layers } = aliveOf(units, p);
    layers.forEach(({ heads, kv, ffn }, layer) => {
      const attention = 1 - (sum(heads) + sum(kv)) / 12, columns = 1 - sum(ffn) / 70;
      const [a, f] = [goals.attention[layer] ?? null, goals.ffn[layer] ?? null];
      if (a !== null) assert.ok(Math.abs(attention - a) < 1e-4, `attention of layer ${layer}: ${attention}, not ${a}`);
      if (f !== null) assert.ok(Math.abs(columns - f) < 1e-4, `FFN of layer ${layer}: ${columns}, not ${f}`);
    });
    assert.ok(Math.abs(sparsityOf(units, p) - 0.28) < 1e-4, `${sparsityOf(units, p)} for ${kinds}`);
  }
});

Deno.test("held units stay, moments and all, and the others meet the goal without them", async () => {
  for (const kinds of KINDS) {
    const units = table(kinds), start = startOf(units, 3), held = Uint8Array.from(start, (_, u) => u % 3 === 0 ? 1 : 0);
    using setup = createRig(device, units);
    setup.learner.setHold(held);
    const dz = random(units.layout.count, 4);
    const options = { dz, lambda: [1, 1] as const };
    const state = { ...NOISE, target: 0.3, tracking: 1, maskRate: 0.05 };
    const first = await setup.step({ state, logAlpha: start, ...options });
    for (let u = 0; u < units.count; u++) {
      const now = first.logAlpha[u] ?? NaN, before = start[u] ?? NaN;
      if (held[u]) assert.deepEqual([now, first.moments[2 * u], first.moments[2 * u + 1]], [before, 0, 0], `unit ${u}`);
      else assert.notEqual(now, before, `unit ${u} did not move`);
    }
    assert.ok(Math.abs(expected(units, first.logAlpha) - 0.3) < 1e-4, nameOf(units));
    // Freed, they move again.
    setup.learner.setHold(null);
    const second = await setup.step({ state, ...options });
    assert.ok([...held.keys()].every((u) => second.logAlpha[u] !== first.logAlpha[u]), nameOf(units));
  }
});

Deno.test("a layer's goal is met by its free units where others of it are held", async () => {
  const units = table(["kv", "ffn"]),
    start = startOf(units, 3),
    held = Uint8Array.from(start, (_, u) => u % 4 === 0 ? 1 : 0);
  using setup = createRig(device, units);
  setup.learner.setHold(held);
  setup.learner.setLayerGoals([null, 0.4, null, null, null]);
  const state = { ...NOISE, target: 0.3, tracking: 1 };
  const { logAlpha } = await setup.step({ state, logAlpha: start, lambda: [0, 0] });
  assert.ok(Math.abs(layerSparsityOf(units, chances(logAlpha), 1) - 0.4) < 1e-4);
  assert.ok(Math.abs(expected(units, logAlpha) - 0.3) < 1e-4);
  logAlpha.forEach((value, u) => held[u] === 0 || assert.equal(value, start[u], `unit ${u}`));
});

Deno.test("without a goal of the whole λ rests and only units with goals are shifted", async () => {
  const units = table(["kv", "ffn"]), start = startOf(units, 5);
  using setup = createRig(device, units);
  setup.learner.setLayerGoals([null, 0.5, null, null, null]);
  const { logAlpha, constraint } = await setup.step({
    state: { ...NOISE, target: -1, tracking: 1, lambdaRate: 1 },
    logAlpha: start,
    lambda: [0.5, 0.25],
  });
  assert.deepEqual([...constraint.subarray(3, 7)], [0.5, 0.25, 0.5, 0]);
  assert.ok(Math.abs(layerSparsityOf(units, chances(logAlpha), 1) - 0.5) < 1e-4);
  assert.ok(Math.abs((constraint[7] ?? NaN) - expected(units, logAlpha)) < 1e-5, "what is reached is recorded");
  logAlpha.forEach((value, u) => units.layer[u] === 1 || assert.equal(value, start[u], `unit ${u}`));
});

Deno.test("no part is expected to become smaller than what must stay of it, and the rest makes up for it", async () => {
  const minimum = { heads: 5, ffn: 40, hidden: 30, layers: 4 };
  // A layer that an earlier run cut whole is none of the least.
  const gone = { ...DEEP, layers: [{ heads: 0, kvHeads: 0, ffn: 0 }, ...DEEP.layers] };
  const again = unitTable(gone, ["layers"], { minimum }), low = new Float32Array(again.count).fill(-4);
  using learner = createRig(device, again);
  const least = await learner.step({ state: { ...NOISE, target: 0.4, tracking: 1 }, logAlpha: low, lambda: [0, 0] });
  assert.ok(sum([...chances(least.logAlpha)]) > minimum.layers - 1e-3, `${[...chances(least.logAlpha)]}`);
  for (
    const [kinds, target] of [[["kv", "ffn"], 0.3], [["heads", "ffn", "hidden"], 0.4], [KINDS[2] ?? [], 0.45]] as const
  ) {
    const units = table(kinds, { minimum }), start = startOf(units, 6);
    // A layer, the hidden dims and the gates that a common shift would cut to the bone.
    for (let u = 0; u < units.count; u++) {
      if (units.layer[u] === 2 || u >= units.ranges.hidden.first) start[u] = (start[u] ?? 0) - 4;
    }
    using setup = createRig(device, units);
    const { logAlpha } = await setup.step({
      state: { ...NOISE, target, tracking: 1 },
      logAlpha: start,
      lambda: [0, 0],
    });
    const p = chances(logAlpha), { layers, hidden } = aliveOf(units, p);
    // Five single heads leave K and V of three groups of two heads; in whole groups they are six.
    const stays = units.kinds.has("heads") ? 5 + 3 : 6 + 3;
    layers.forEach(({ heads, kv, ffn }, layer) => {
      assert.ok(sum(heads) + sum(kv) > stays - 1e-3, `${sum(heads)} and ${sum(kv)} in layer ${layer}: ${kinds}`);
      assert.ok(sum(ffn) > minimum.ffn - 1e-2, `${sum(ffn)} columns in layer ${layer}: ${kinds}`);
    });
    assert.ok(sum(hidden) > minimum.hidden - 1e-2, `${sum(hidden)} dims: ${kinds}`);
    assert.ok(sum(layers.map(({ gate }) => gate)) > minimum.layers - 1e-3, `gates: ${kinds}`);
    assert.ok(Math.abs(sparsityOf(units, p) - target) < 1e-4, `${sparsityOf(units, p)}, not ${target}: ${kinds}`);
    assert.ok(sum(layers[2]?.ffn ?? []) < minimum.ffn + 0.1, "the bound holds layer 2 back");
  }
});

Deno.test("a share `tracking` of the gap to a layer's goal is closed", async () => {
  const units = table(["kv", "ffn"]), start = startOf(units, 7), before = layerSparsityOf(units, chances(start), 3);
  using setup = createRig(device, units);
  setup.learner.setLayerGoals([null, null, null, 0.7, null]);
  for (const tracking of [0.25, 0.75]) {
    const state = { ...NOISE, target: 0.3, tracking };
    const { logAlpha } = await setup.step({ state, logAlpha: start, lambda: [0, 0] });
    const reached = layerSparsityOf(units, chances(logAlpha), 3), wanted = before + tracking * (0.7 - before);
    assert.ok(Math.abs(reached - wanted) < 1e-4, `${reached}, not ${wanted}`);
  }
});

Deno.test("goals of 0 and 1 keep the order of log α, so that a later goal finds it", async () => {
  // A limit as far as the units lie apart, and a little more, leaves room on one side of it alone.
  for (
    const [goals, room] of [[null, 90], [[1, 0, null, null, null], 90], [null, 5], [
      [1, 0, null, null, null],
      5,
    ]] as const
  ) {
    const units = table(["kv", "ffn"]), start = startOf(units, 8).map((value) => 8 * value);
    using setup = createRig(device, units);
    const limit = Math.max(...start) - Math.min(...start) + room;
    const state = { ...NOISE, noise: 0.2, target: 0, tracking: 1, maskRate: 1e-6, limit };
    for (let step = 0; step < 3; step++) {
      setup.learner.setLayerGoals(goals);
      await setup.step({
        state: { ...state, target: step % 2 },
        lambda: [0, 0],
        ...(step === 0 ? { logAlpha: start } : {}),
      });
    }
    setup.learner.setLayerGoals(goals && [0.3, 0.3, null, null, null]);
    const { logAlpha } = await setup.step({ state: { ...state, target: 0.3 }, lambda: [0, 0] });
    const layers = goals ? [[0], [1], [2, 3, 4]] : [[0, 1, 2, 3, 4]];
    for (const own of layers) {
      const members = [...start.keys()].filter((u) => own.includes(units.layer[u] ?? NaN));
      const order = (values: Float32Array): number[] =>
        members.toSorted((a, b) => (values[a] ?? NaN) - (values[b] ?? NaN));
      assert.deepEqual(order(logAlpha), order(start), `layers ${own}`);
    }
    const p = Float64Array.from(logAlpha, (alpha) => aliveChance(alpha, { ...NOISE, noise: 0.2 }));
    assert.ok(Math.abs(sparsityOf(units, p) - 0.3) < 1e-3, `${sparsityOf(units, p)}`);
  }
});

Deno.test("a goal of the whole that free units cannot meet for some steps keeps their order, beside goals of layers and held units", async () => {
  const state = { ...NOISE, noise: 0.2, tracking: 1, maskRate: 1e-6 };
  const beside: readonly (readonly [number, (setup: Rig) => void])[] = [
    // Too much and too little is cut by layers 0 and 1 alone.
    [0.01, ({ learner }) => learner.setLayerGoals([0.5, 0.5, null, null, null])],
    [0.9, ({ learner }) => learner.setLayerGoals([0.05, 0.05, null, null, null])],
    [0.01, ({ learner }) => learner.setHold(Uint8Array.from(learner.table.layer, (layer) => layer < 2 ? 1 : 0))],
  ];
  for (const [target, set] of beside) {
    const units = table(["kv", "ffn"]);
    const start = startOf(units, 8).map((value, u) => 8 * value - ((units.layer[u] ?? 0) < 2 ? 20 : 0));
    using setup = createRig(device, units);
    set(setup);
    for (let step = 0; step < 4; step++) {
      await setup.step({ state: { ...state, target }, lambda: [0, 0], ...(step === 0 ? { logAlpha: start } : {}) });
    }
    setup.learner.setLayerGoals(null);
    setup.learner.setHold(null);
    const { logAlpha } = await setup.step({ state: { ...state, target: 0.5 }, lambda: [0, 0] });
    const free = [...start.keys()].filter((u) => (units.layer[u] ?? 0) >= 2);
    const order = (values: Float32Array): number[] => free.toSorted((a, b) => (values[a] ?? NaN) - (values[b] ?? NaN));
    assert.deepEqual(order(logAlpha), order(start), `target ${target}`);
  }
});

Deno.test("a layer's goal is met by its FFN where its attention is far open, and a gate beside held units does not run away", async () => {
  const state = { ...NOISE, target: 0.3, tracking: 1 };
  const open = table(["kv", "ffn"]), start = startOf(open, 11);
  for (let u = 0; u < open.ranges.ffn.first; u++) start[u] = (start[u] ?? 0) + 70;
  using setup = createRig(device, open);
  setup.learner.setLayerGoals([null, 0.2, null, null, null]);
  const { logAlpha } = await setup.step({ state, logAlpha: start, lambda: [0, 0] });
  const reached = layerSparsityOf(open, chances(logAlpha), 1);
  assert.ok(Math.abs(reached - 0.2) < 1e-4, `${reached}`);
  // All but the gate of layer 2 is held, and cuts more than the goal.
  const gated = table(["kv", "ffn", "layers"]), low = startOf(gated, 12).map((value) => value - 3);
  const gate = gated.layers[2]?.gate ?? NaN;
  using held = createRig(device, gated);
  held.learner.setHold(Uint8Array.from(gated.layer, (layer, unit) => layer === 2 && unit !== gate ? 1 : 0));
  held.learner.setLayerGoals([null, null, 0.05, null, null]);
  for (let step = 0; step < 3; step++) {
    const { logAlpha } = await held.step({ state, lambda: [0, 0], ...(step === 0 ? { logAlpha: low } : {}) });
    assert.ok(Math.abs((logAlpha[gate] ?? NaN) - 50) < 0.1, `gate at ${logAlpha[gate]} after step ${step}`);
  }
});

Deno.test("goals and holds that are taken back leave the bits as they would be without", async () => {
  for (const kinds of KINDS) {
    const units = unitTable(UNEVEN, kinds), start = startOf(units, 9), dz = random(units.layout.count, 10);
    const state = { ...NOISE, target: 0.2, tracking: 1, maskRate: 0.05, lambdaRate: 0.1 };
    using plain = createRig(device, units);
    const want = await plain.step({ state, logAlpha: start, dz, lambda: [1, 0] });
    using setup = createRig(device, units);
    setup.learner.setHold(new Uint8Array(units.count).fill(1));
    setup.learner.setLayerGoals([0.1, null, null, null]);
    await setup.step({ state, logAlpha: start, dz, lambda: [1, 0] });
    setup.learner.setHold(null);
    setup.learner.setLayerGoals(null);
    setup.learner.setPartGoals({ attention: [0.1, null, null, null], ffn: [null, 0.2, null, null] });
    await setup.step({ state, dz, lambda: [1, 0] });
    setup.learner.setPartGoals(null);
    device.write(setup.learner.moments, new Float32Array(momentFloats(units)));
    assert.deepEqual(await setup.step({ state, logAlpha: start, dz, lambda: [1, 0] }), want, nameOf(units));
  }
});

Deno.test("a learner refuses goals that no unit can meet, and goals of layers beside those of parts", () => {
  const units = table(["kv"], { minimum: { heads: 4 } });
  using setup = createRig(device, units);
  const fails = (run: () => void, rule: Refusal): void => refuses(run, "usage", rule);
  fails(() => setup.learner.setLayerGoals([0.9, null, null, null, null]), { value: 0.9, names: "layer 0" });
  fails(() => setup.learner.setLayerGoals([0.1]), { names: 5 });
  setup.learner.setLayerGoals([0.1, null, null, null, null]);
  const none = DEEP.layers.map(() => null);
  setup.learner.setPartGoals({ attention: none, ffn: none });
  fails(() => setup.learner.setPartGoals({ attention: [0.1, 0.1, 0.1, 0.1, 0.1], ffn: none }), { value: '"uniform"' });
});

Deno.test("bounds leave no buffer behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
