// Unit tables and selections against spec arithmetic: counts, costs, exact sparsity, targets met to within one unit.
import assert from "node:assert/strict";
import { rankWithin } from "../../lib/masks/baselines.ts";
import { parameterTarget } from "../../lib/units/target_size.ts";
import { slotLayout } from "../../lib/nn/mask_slots.ts";
import { parameterCount } from "../../lib/spec/decoder.ts";
import {
  checkReachable,
  hardSparsity,
  leastSize,
  mostSparsity,
  selectedSpec,
  selectUnits,
} from "../../lib/units/selection.ts";
import { type Selection, selectionMasks, unitParameters, type UnitTable, unitTable } from "../../lib/units/table.ts";
import { uniform } from "../../lib/core/random.ts";
import { type Refusal, refuses } from "../refuses.ts";
import {
  aliveOf,
  decoder,
  GROUPED,
  KINDS,
  LAYER_KINDS,
  linearParameters,
  MULTI_HEAD,
  sparsityOf,
  UNEVEN,
} from "./helpers/decoders.ts";

const SPECS = [UNEVEN, MULTI_HEAD, GROUPED];
const TABLES = SPECS.flatMap((spec) => KINDS.map((kinds) => unitTable(spec, kinds)));

const nameOf = (table: UnitTable): string => `${[...table.kinds].join(",")} of ${JSON.stringify(table.spec.layers)}`;
const scoresOf = (table: UnitTable, seed: number): Float64Array =>
  Float64Array.from({ length: table.count }, (_, unit) => uniform(seed, unit));
const cutOf = (kept: Selection): number[] => [...kept.keys()].filter((unit) => kept[unit] === 0);

/** Whether every kind keeps one unit at least. */
function livesOn(table: UnitTable, kept: Selection): boolean {
  const kinds = [[0, table.ranges.ffn.first], [table.ranges.ffn.first, table.ranges.hidden.first], [
    table.ranges.hidden.first,
    table.count,
  ]] as const;
  return kinds.every(([from, to]) => from === to || kept.subarray(from, to).includes(1));
}

Deno.test("unitTable() has a unit for every head or KV group, FFN column and hidden dim, with their slots", () => {
  for (const spec of SPECS) {
    const heads = spec.layers.reduce((sum, layer) => sum + layer.heads, 0);
    const groups = spec.layers.reduce((sum, layer) => sum + layer.kvHeads, 0);
    const ffn = spec.layers.reduce((sum, layer) => sum + layer.ffn, 0);
    assert.equal(unitTable(spec, ["heads"]).count, heads);
    assert.equal(unitTable(spec, ["kv"]).count, groups);
    assert.equal(unitTable(spec, ["ffn"]).count, ffn);
    assert.equal(unitTable(spec, ["hidden"]).count, spec.hidden);
    const all = unitTable(spec, ["kv", "ffn", "hidden"]);
    assert.deepEqual([all.ranges.ffn.first, all.ranges.hidden.first, all.count], [
      groups,
      groups + ffn,
      groups + ffn + spec.hidden,
    ]);
    assert.equal(all.total, linearParameters(spec));
    // Every slot that is not padding belongs to exactly one unit.
    const owners = new Uint8Array(all.layout.count);
    for (let unit = 0; unit < all.count; unit++) {
      for (let i = 0; i < (all.slotCount[unit] ?? 0); i++) {
        const slot = (all.slotFirst[unit] ?? 0) + i;
        owners[slot] = (owners[slot] ?? 0) + 1;
      }
    }
    const wanted = new Uint8Array(all.layout.count), layout = slotLayout(spec);
    wanted.fill(1, layout.hidden, layout.hidden + spec.hidden);
    spec.layers.forEach((layer, index) => {
      const at = layout.layers[index] ?? { head: NaN, ffn: NaN };
      wanted.fill(1, at.head, at.head + layer.heads).fill(1, at.ffn, at.ffn + layer.ffn);
    });
    assert.deepEqual(owners, wanted);
  }
});

Deno.test("a unit costs what its rows and columns of the projections hold", () => {
  // headDim 6, hidden 20: q and o of a head hold 2 · 6 · 20, K and V of a KV head as much; an FFN column 3 · 20.
  const spec = decoder([{ heads: 6, kvHeads: 2, ffn: 4 }]);
  const heads = unitTable(spec, ["heads", "ffn"]);
  assert.deepEqual([...heads.cost.subarray(0, 6)], new Array(6).fill(12));
  assert.deepEqual(heads.groups, [{ first: 0, count: 3, cost: 12 }, { first: 3, count: 3, cost: 12 }]);
  assert.deepEqual([...heads.groupOf.subarray(0, 7)], [0, 0, 0, 1, 1, 1, -1]);
  assert.equal(unitParameters(heads, 0), 20 * (12 + 4)); // with a third of its group's K and V
  assert.equal(unitParameters(heads, 6), 20 * 3);
  const kv = unitTable(spec, ["kv", "hidden"]);
  assert.deepEqual([...kv.cost.subarray(0, 2)], [48, 48]);
  assert.equal(unitParameters(kv, 0), 20 * 48);
  assert.equal(unitParameters(kv, 2), 2 * 6 * (6 + 2) + 3 * 4);
  assert.equal(kv.fixed, 3 * 4);
  // Without groups a head takes its K and V with it.
  assert.deepEqual(unitTable(MULTI_HEAD, ["heads"]).groups, []);
  assert.equal(unitTable(MULTI_HEAD, ["heads"]).cost[0], 24);
});

Deno.test("unitTable() refuses an unknown kind, has FFN columns for no kind, and heads for heads with KV groups", () => {
  const fails = (kinds: readonly string[], rule: Refusal): void =>
    refuses(() => unitTable(GROUPED, kinds as never), "usage", rule);
  fails(["neurons"], { value: "neurons" });
  // Where nothing is cut, their masks stay open.
  assert.deepEqual(unitTable(GROUPED, []), unitTable(GROUPED, ["ffn"]));
  const all = unitTable(GROUPED, ["kv", "layers", "ffn", "heads", "hidden"]);
  assert.deepEqual([...all.kinds], ["heads", "ffn", "hidden", "layers"]);
  assert.deepEqual(all, unitTable(GROUPED, ["heads", "ffn", "hidden", "layers"]));
});

Deno.test("hardSparsity() is the count of the parameters that are left, for random selections", () => {
  const gated = SPECS.flatMap((spec) => LAYER_KINDS.map((kinds) => unitTable(spec, kinds)));
  for (const [index, table] of [...TABLES, ...gated].entries()) {
    for (const share of [0, 0.1, 0.5, 0.9, 1]) {
      const kept: Selection = Uint8Array.from(scoresOf(table, index), (score) => score < share ? 0 : 1);
      const counted = sparsityOf(table, kept);
      // Both divide whole numbers; they may differ by a rounding of 1 − x.
      assert.ok(
        Math.abs(hardSparsity(table, kept) - counted) < 1e-12,
        `${hardSparsity(table, kept)} instead of ${counted} at ${share} for ${nameOf(table)}`,
      );
    }
  }
});

Deno.test("selectUnits() meets the target to within its last unit, and cuts the lowest scores", () => {
  let checked = 0;
  for (const [index, table] of TABLES.entries()) {
    // The most that can be cut leaves one unit of each kind.
    const mostKept: Selection = new Uint8Array(table.count);
    for (const first of [0, table.ranges.ffn.first, table.ranges.hidden.first]) {
      if (first < table.count) mostKept[first] = 1;
    }
    for (let round = 0; round < 12; round++) {
      const target = uniform(77, index, round) * 0.95 * hardSparsity(table, mostKept);
      const scores = scoresOf(table, 1000 * index + round), kept = selectUnits(table, scores, { target });
      const reached = sparsityOf(table, kept), what = `target ${target}, ${nameOf(table)}`;
      assert.ok(reached >= target - 1e-12, `${reached} is below the ${what}`);
      assert.ok(livesOn(table, kept), `a kind died out for ${what}`);
      const cut = cutOf(kept),
        last = cut.reduce((a, b) => (scores[b] ?? NaN) > (scores[a] ?? NaN) ? b : a, cut[0] ?? -1);
      assert.ok(cut.length > 0);
      const without = kept.slice();
      without[last] = 1;
      assert.ok(sparsityOf(table, without) < target + 1e-12, `more than needed was cut for ${what}`);
      // A kept unit of a lower score than the last cut one is the last of its kind, or would have overshot by more than the smallest unit, or came
      // back as the last one is larger: then no cut one of its size has a higher score.
      const smallest = Math.min(...kept.keys().map((unit) => unitParameters(table, unit))) / table.total;
      const isBack = (unit: number): boolean => {
        const size = unitParameters(table, unit), alike = cut.filter((other) => unitParameters(table, other) === size);
        return size < unitParameters(table, last) && alike.every((u) => (scores[u] ?? NaN) < (scores[unit] ?? NaN));
      };
      for (const unit of kept.keys()) {
        if (kept[unit] === 0 || (scores[unit] ?? NaN) >= (scores[last] ?? NaN)) continue;
        const dead = kept.slice();
        dead[unit] = 0;
        const then = kept.map((flag, other) => (scores[other] ?? NaN) > (scores[unit] ?? NaN) ? 1 : flag);
        then[unit] = 0;
        const overshoots = sparsityOf(table, then) > target + smallest;
        assert.ok(!livesOn(table, dead) || overshoots || isBack(unit), `unit ${unit} was spared for ${what}`);
      }
      checked++;
    }
  }
  assert.equal(checked, 12 * TABLES.length);
});

Deno.test("selectUnits() lets ties fall to the lower index, whatever the scores' type", () => {
  const table = unitTable(UNEVEN, ["ffn"]);
  const target = 10.5 * unitParameters(table, 0) / table.total; // between ten and eleven columns
  for (const scores of [new Float32Array(table.count), new Array<number>(table.count).fill(3)]) {
    assert.deepEqual(cutOf(selectUnits(table, scores, { target })), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  }
  const scores = new Float32Array(table.count).fill(1);
  scores.set([0, 0, 0], 100);
  assert.deepEqual(
    cutOf(selectUnits(table, scores, { target })),
    [0, 1, 2, 3, 4, 5, 6, 7, 100, 101, 102],
  );
});

Deno.test("selectUnits() counts K and V of a KV group with its last head only", () => {
  const table = unitTable(decoder([{ heads: 6, kvHeads: 2, ffn: 4 }]), ["heads"]);
  const scores = [0, 1, 2, 3, 4, 5], perHead = 20 * 12;
  for (const [heads, saved] of [[1, 1], [2, 2], [3, 4], [4, 5], [5, 6]] as const) {
    const kept = selectUnits(table, scores, { target: (saved - 0.5) * perHead / table.total });
    assert.equal(cutOf(kept).length, heads);
    assert.ok(Math.abs(hardSparsity(table, kept) - saved * perHead / table.total) < 1e-12);
  }
});

Deno.test("selectUnits() and checkReachable() refuse a sparsity that the units cannot have", () => {
  const fails = (run: () => unknown, message: Refusal): void => refuses(run, "usage", message);
  const table = unitTable(UNEVEN, ["heads"]);
  fails(
    () => selectUnits(table, scoresOf(table, 1), { target: 0.9 }),
    { value: 0.9 },
  );
  fails(() => checkReachable(table, 0.9), { value: 0.9 });
  for (const target of [0, 1, -0.1, 1.5, NaN]) fails(() => checkReachable(table, target), { names: [0, 1] });
  for (const any of TABLES) checkReachable(any, 0.05);
});

Deno.test("FFN columns are refused where the only FFN there is would have to fall whole, and not where another one stays", () => {
  const layer = { heads: 4, kvHeads: 4, ffn: 20 }, one = decoder([layer, { ...layer, ffn: 0 }]);
  for (const align of [20, 32]) {
    refuses(() => unitTable(one, ["kv", "ffn"], { align }), "usage", { value: [20, 1, align] });
    const two = unitTable(decoder([layer, layer]), ["ffn"], { align });
    const kept = selectUnits(two, scoresOf(two, 1), { target: 0.01 });
    assert.equal(cutOf(kept).length, 20);
  }
  assert.equal(unitTable(one, ["ffn"], { align: 16 }).count, 20);
});

Deno.test("whole layers of a model of one are refused, with the one that stays and no rule to loosen", () => {
  const refused = (count: number, layers: number, said: readonly number[]): void => {
    const spec = decoder(Array.from({ length: count }, () => ({ heads: 4, kvHeads: 4, ffn: 20 })));
    refuses(() => unitTable(spec, ["layers"], { minimum: { layers } }), "usage", { value: said });
  };
  refused(1, 0, [1, 0]);
  refused(2, 2, [2, 0]);
});

Deno.test("near the limit the largest of layers that differ fall, by their scores where they are alike, and no less than can be cut", () => {
  const layer = { heads: 4, kvHeads: 4 }, spec = decoder([40, 90, 20, 90, 20, 70].map((ffn) => ({ ...layer, ffn })));
  const table = unitTable(spec, ["layers"], { minimum: { layers: 4 } }),
    { ranges: { layers: { first: layerFirst } } } = table;
  const sizes = spec.layers.map((_, index) => unitParameters(table, layerFirst + index) / table.total);
  const [most = NaN, second = NaN] = sizes.toSorted((a, b) => b - a);
  assert.ok(Math.abs(mostSparsity(table) - most - second) < 1e-12);
  const cutOf = (target: number, scores: readonly number[]): number[] => {
    const kept = selectUnits(table, scores, { target });
    return [...kept.keys()].filter((unit) => !kept[unit]).map((unit) => unit - layerFirst);
  };
  const scores = [1, 5, 0, 4, 2, 3], narrow = (sizes[0] ?? NaN) + (sizes[2] ?? NaN);
  assert.deepEqual(cutOf(narrow, scores), [0, 2], "by their scores where these two suffice");
  assert.deepEqual(cutOf(most + second, scores), [1, 3]);
  assert.deepEqual(cutOf(most + (sizes[5] ?? NaN) + 1e-9, scores), [1, 3]);
  // Of two that are alike the lower score.
  const three = unitTable(spec, ["layers"], { minimum: { layers: 5 } });
  const kept = selectUnits(three, scores, { target: most });
  assert.deepEqual([...kept], [1, 1, 1, 0, 1, 1]);
  const least = selectUnits(table, scores, { target: most + second });
  assert.equal(leastSize(table, parameterTarget(spec, 1)), parameterCount(selectedSpec(table, least)));
});

Deno.test("scores and selections of another table, and scores that are no numbers, are refused", () => {
  const table = unitTable(UNEVEN, ["heads", "ffn"]), other = scoresOf(unitTable(UNEVEN, ["ffn"]), 1);
  const own = scoresOf(table, 1), broken = own.with(3, NaN), kept = new Uint8Array(table.count).fill(1);
  const calls: readonly ((values: Float64Array) => unknown)[] = [
    (scores) => selectUnits(table, scores, { target: 0.1 }),
    (scores) => rankWithin(table, scores),
  ];
  const refused = (run: () => unknown, value: string | number): void => refuses(run, "usage", { value });
  for (const call of calls) {
    call(own);
    refused(() => call(other), other.length);
    refused(() => call(broken), "unit 3");
  }
  for (const call of [hardSparsity, selectionMasks]) {
    call(table, kept);
    refused(() => call(table, kept.subarray(1)), table.count - 1);
  }
});

Deno.test("selectionMasks() is 0 where a unit was cut, for all heads of a KV group, and 1 elsewhere", () => {
  for (const [index, table] of TABLES.entries()) {
    const kept: Selection = Uint8Array.from(scoresOf(table, index), (score) => score < 0.4 ? 0 : 1);
    const masks = selectionMasks(table, kept), { layers, hidden } = aliveOf(table, kept);
    assert.deepEqual([...masks.head], layers.flatMap((layer) => layer.heads), nameOf(table));
    assert.deepEqual([...masks.ffn], layers.flatMap((layer) => layer.ffn), nameOf(table));
    assert.deepEqual([...masks.hidden], hidden, nameOf(table));
  }
});
