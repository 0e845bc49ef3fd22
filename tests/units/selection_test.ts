// Rules of what may be cut: protected layers, least and aligned widths, targets of single layers, whole layers.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { packMasks } from "../../lib/nn/mask_slots.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import type { UnitKind } from "../../lib/units/kinds/all.ts";
import type { UnitRules } from "../../lib/units/rules.ts";
import {
  checkLayerTargets,
  checkReachable,
  hardSparsity,
  mostSparsity,
  selectedSpec,
  selectUnits,
} from "../../lib/units/selection.ts";
import {
  keptUnits,
  type Selection,
  selectionMasks,
  unitParameters,
  type UnitTable,
  unitTable,
} from "../../lib/units/table.ts";
import { uniform } from "../../lib/core/random.ts";
import { type Refusal, refuses } from "../refuses.ts";
import {
  aliveOf,
  decoder,
  GROUPED,
  KINDS,
  LAYER_KINDS,
  layerSparsityOf,
  MULTI_HEAD,
  sparsityOf,
  UNEVEN,
} from "./helpers/decoders.ts";

/** Six layers of four groups of two heads: room for rules. */
const DEEP = decoder(Array.from({ length: 6 }, () => ({ heads: 8, kvHeads: 4, ffn: 50 })), { hidden: 40, headDim: 4 });
const SPECS = [UNEVEN, MULTI_HEAD, GROUPED, DEEP];
const scoresOf = (table: UnitTable, seed: number): Float64Array =>
  Float64Array.from({ length: table.count }, (_, unit) => uniform(seed, unit));
const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

function fails(run: () => unknown, message: Refusal): void {
  refuses(run, "usage", message);
}

/** Widths that a selection leaves, by layer; a layer whose gate is cut has none. */
function widths(table: UnitTable, kept: Selection): { heads: number; ffn: number }[] {
  return aliveOf(table, kept).layers.map(({ heads, ffn, gate }) => ({
    heads: gate * sum(heads),
    ffn: gate * sum(ffn),
  }));
}

/** Asserts that every rule of the table holds for a selection. */
function assertRules(table: UnitTable, kept: Selection, what: string): void {
  const { spec, rules: { protect, minimum, align } } = table, alive = aliveOf(table, kept);
  const isWidth = (width: number, whole: number): boolean => width === whole || width % align === 0;
  const hidden = sum(alive.hidden);
  assert.ok(hidden >= Math.min(spec.hidden, Math.max(1, minimum.hidden)), `${hidden} hidden dims: ${what}`);
  assert.ok(isWidth(hidden, spec.hidden), `${hidden} hidden dims are not aligned: ${what}`);
  const living = widths(table, kept).filter(({ heads, ffn }) => heads + ffn > 0).length;
  assert.ok(living >= Math.max(1, minimum.layers), `${living} layers: ${what}`);
  alive.layers.forEach(({ heads, ffn, gate }, layer) => {
    const whole = spec.layers[layer] ?? { heads: NaN, ffn: NaN }, own = { heads: sum(heads), ffn: sum(ffn) };
    if (protect.has(layer)) {
      assert.deepEqual({ ...own, gate }, { heads: whole.heads, ffn: whole.ffn, gate: 1 }, `layer ${layer}: ${what}`);
    }
    assert.ok(own.heads >= Math.min(whole.heads, minimum.heads), `${own.heads} heads in layer ${layer}: ${what}`);
    assert.ok(own.ffn >= Math.min(whole.ffn, minimum.ffn), `${own.ffn} columns in layer ${layer}: ${what}`);
    assert.ok(isWidth(own.ffn, whole.ffn), `${own.ffn} columns in layer ${layer} are not aligned: ${what}`);
  });
}

const RULES: readonly UnitRules[] = [
  {},
  { protect: [0] },
  { minimum: { heads: 2, ffn: 20, hidden: 12, layers: 2 } },
  { align: 8 },
  { align: 32 },
  { protect: [1], minimum: { heads: 1, ffn: 24, hidden: 8 }, align: 4 },
];

/** A table, or null where the rules leave nothing of a kind to cut. */
function tableOf(spec: DecoderSpec, kinds: readonly UnitKind[], rules: UnitRules): UnitTable | null {
  try {
    return unitTable(spec, kinds, rules);
  } catch (error) {
    assert.ok(error instanceof CompressoError && error.code === "usage", String(error));
    return null;
  }
}

Deno.test("selectUnits() keeps all rules and meets the target to within its last unit or block", () => {
  let checked = 0, close = 0;
  for (const [s, spec] of SPECS.entries()) {
    for (const [k, kinds] of [...KINDS, ...LAYER_KINDS].entries()) {
      for (const [r, rules] of RULES.entries()) {
        const table = tableOf(spec, kinds, rules);
        if (!table) continue;
        const most = mostSparsity(table);
        for (let round = 0; round < 4; round++) {
          const target = uniform(5, s, k, r * 10 + round) * 0.9 * most, scores = scoresOf(table, 100 * k + round);
          const kept = selectUnits(table, scores, { target }), reached = sparsityOf(table, kept);
          const what = `${kinds}, ${JSON.stringify(rules)}, target ${target} of ${JSON.stringify(spec.layers[0])}`;
          assert.ok(reached >= target - 1e-12, `${reached} is below: ${what}`);
          assertRules(table, kept, what);
          assert.ok(backPieces(table, kept, scores).some((back) => back < target + 1e-12), `too much was cut: ${what}`);
          // A column (an aligned block of them) is the smallest unit; with room to choose, the target is met as closely.
          const block = (3 * (rules.align ?? 1) * spec.hidden) / table.total;
          if (kinds.includes("ffn") && target < 0.6 * most && reached - target <= block + 1e-12) close++;
          else if (kinds.includes("ffn") && target < 0.6 * most && spec === DEEP) {
            assert.fail(`${reached - target}: ${what}`);
          }
          checked++;
        }
      }
    }
  }
  assert.ok(checked > 800 && close > 200, `${checked} selections, ${close} within one column`);
});

/** Sparsities with one of the last cut units or blocks back: of each layer's heads and columns, of hidden dims, and of gates. */
function backPieces(table: UnitTable, kept: Selection, scores: ArrayLike<number>): number[] {
  const { align } = table.rules,
    {
      ranges: { hidden: { first: hiddenFirst } },
      ranges: { layers: { first: layerFirst } },
      ranges: { ffn: { first: ffnFirst } },
    } = table,
    results: number[] = [];
  const cutOf = (first: number, count: number): number[] =>
    Array.from({ length: count }, (_, i) => first + i).filter((unit) => kept[unit] === 0)
      .sort((a, b) => (scores[b] ?? NaN) - (scores[a] ?? NaN) || b - a);
  const back = (units: readonly number[]): void => {
    if (units.length === 0) return;
    const more = kept.slice();
    for (const unit of units) more[unit] = 1;
    results.push(sparsityOf(table, more));
  };
  const block = (first: number, count: number): void => {
    const cut = cutOf(first, count);
    back(cut.slice(0, cut.length > count % align ? align : cut.length));
  };
  for (const unit of cutOf(0, ffnFirst)) back([unit]);
  for (const { ffn } of table.layers) block(ffn.first, ffn.count);
  block(hiddenFirst, layerFirst - hiddenFirst);
  for (const unit of cutOf(layerFirst, table.count - layerFirst)) back([unit]);
  return results;
}

Deno.test("units that the rules keep are not in the table, and their masks are 1 in every selection", () => {
  const table = unitTable(DEEP, ["kv", "ffn", "layers"], { protect: [0, 5] });
  const layers = new Set(table.layer);
  assert.deepEqual([...layers].sort(), [1, 2, 3, 4]);
  assert.equal(table.layers[0]?.gate, -1);
  assert.equal(table.total, unitTable(DEEP, ["ffn"]).total);
  assert.equal(table.fixed, 2 * (2 * 4 * (8 + 4) + 3 * 50));
  const none = selectionMasks(table, new Uint8Array(table.count));
  const masks = { head: [...none.head], ffn: [...none.ffn] };
  assert.deepEqual(masks.head, [1, 0, 0, 0, 0, 1].flatMap((z) => new Array<number>(8).fill(z)));
  assert.deepEqual(masks.ffn, [1, 0, 0, 0, 0, 1].flatMap((z) => new Array<number>(50).fill(z)));
  // A part as narrow as it may be has none either; the least number of heads counts query heads.
  const narrow = unitTable(UNEVEN, ["heads", "ffn"], { minimum: { heads: 4, ffn: 70 } });
  assert.deepEqual(
    [...new Set(narrow.layer.slice(0, narrow.ranges.ffn.first))],
    [0],
    "only layer 0 has more than 4 heads",
  );
  assert.deepEqual(
    [...new Set(narrow.layer.slice(narrow.ranges.ffn.first))],
    [3],
    "only layer 3 has more than 70 columns",
  );
  // Without one of two groups of three heads, too few would be left.
  fails(() => unitTable(UNEVEN, ["kv"], { minimum: { heads: 4 } }), { value: ["heads 6", 4] });
});

Deno.test("aligned columns fall in blocks of a layer's lowest scores, by the mean of the block", () => {
  const table = unitTable(decoder([{ heads: 0, kvHeads: 0, ffn: 10 }, { heads: 0, kvHeads: 0, ffn: 8 }]), ["ffn"], {
    align: 4,
  });
  // Layer 0 first gives up two columns (means 0.05), then four (0.35); layer 1 four (0.2) and so on.
  const scores = [0.9, 0, 0.9, 0.1, 0.9, 0.9, 0.3, 0.3, 0.4, 0.4, 0.1, 0.1, 0.3, 0.3, 0.8, 0.8, 0.8, 0.8];
  const cutAt = (columns: number): number[] => {
    const kept = selectUnits(table, scores, { target: columns / 18 - 1e-9 });
    return [...kept.keys()].filter((unit) => kept[unit] === 0);
  };
  assert.deepEqual(cutAt(2), [1, 3]);
  assert.deepEqual(cutAt(6), [1, 3, 10, 11, 12, 13]);
  assert.deepEqual(cutAt(10), [1, 3, 6, 7, 8, 9, 10, 11, 12, 13]);
});

Deno.test("equal scores cut aligned blocks in order, whatever rounding their means have", () => {
  // The mean of ten times 0.1 is less than 0.1.
  const table = unitTable(decoder([{ heads: 0, kvHeads: 0, ffn: 21 }]), ["ffn"], { align: 10 });
  for (const [columns, cut] of [[1, 1], [11, 11]] as const) {
    const kept = selectUnits(table, new Float64Array(21).fill(0.1), { target: columns / 21 - 1e-9 });
    assert.deepEqual(
      [...kept.keys()].filter((unit) => kept[unit] === 0),
      Array.from({ length: cut }, (_, unit) => unit),
    );
  }
});

Deno.test("near the limit KV groups fall whole, those of the lowest scores, and the last to stay is the one that must", () => {
  // Three heads stay in each layer: one in each of three groups keeps three K and V, all in two groups two.
  const table = unitTable(DEEP, ["heads"], { minimum: { heads: 3 } }), scores = scoresOf(table, 11);
  const kept = selectUnits(table, scores, { target: mostSparsity(table) });
  assertRules(table, kept, "heads");
  for (let layer = 0; layer < 6; layer++) {
    const groups = table.groups.slice(4 * layer, 4 * layer + 4).map(({ first }) => [first, first + 1]);
    const living = groups.filter((units) => units.some((unit) => kept[unit]));
    const mean = (units: number[]): number => sum(units.map((unit) => scores[unit] ?? NaN));
    assert.deepEqual(
      living,
      groups.toSorted((a, b) => mean(b) - mean(a)).slice(0, 2).toSorted((a, b) => (a[0] ?? 0) - (b[0] ?? 0)),
    );
  }
  // One group stays of all layers. The most falls where that is the one of layer 1, though the other has the higher score.
  const uneven = unitTable(decoder([{ heads: 4, kvHeads: 1, ffn: 9 }, { heads: 1, kvHeads: 1, ffn: 9 }]), ["kv"]);
  assert.deepEqual([...selectUnits(uneven, [1, 0], { target: mostSparsity(uneven) })], [0, 1]);
  assert.deepEqual([...selectUnits(uneven, [1, 0], { target: 0.01 })], [1, 0]);
});

Deno.test("targets of single layers are met to within one unit each, and the rest falls elsewhere", () => {
  for (const kinds of [["kv", "ffn"], ["heads", "ffn", "hidden"], ["kv", "ffn", "hidden", "layers"]] as const) {
    for (const rules of [{}, { align: 5 }, { minimum: { heads: 2, ffn: 10 } }]) {
      for (let round = 0; round < 10; round++) {
        const table = unitTable(DEEP, kinds, rules),
          scores = scoresOf(table, round),
          what = `${kinds} ${JSON.stringify(rules)}`;
        const goal = (layer: number): number => 0.6 * uniform(3, round, layer);
        const layerTargets = [goal(0), null, 0, null, goal(4), null];
        const least = sum(layerTargets.map((share) => share ?? 0)) / 6, target = least + 0.05 + 0.2 * uniform(9, round);
        const kept = selectUnits(table, scores, { target, layerTargets });
        assertRules(table, kept, what);
        // The largest unit of a layer is a group of two heads, or a block of five columns.
        const unit = Math.max(2 * 4 * 3, 3 * (table.rules.align)) / (2 * 4 * 12 + 3 * 50);
        layerTargets.forEach((share, layer) => {
          const cut = layerSparsityOf(table, kept, layer);
          if (share === null) return;
          assert.ok(cut >= share - 1e-12 && cut < share + unit, `layer ${layer}: ${cut}, not ${share}: ${what}`);
        });
        const reached = sparsityOf(table, kept),
          whole = Math.max(...scores.keys().map((u) => unitParameters(table, u)));
        assert.ok(reached >= target && reached < target + whole / table.total, `${reached}, not ${target}: ${what}`);
      }
    }
  }
});

Deno.test("targets of single layers stand alone without one of the whole, and go before it", () => {
  const table = unitTable(DEEP, ["kv", "ffn"]), layerTargets = [0.5, null, null, null, null, null];
  for (const target of [null, 0.02]) {
    const kept = selectUnits(table, scoresOf(table, 1), { target, layerTargets });
    assert.deepEqual([...new Set([...kept.keys()].filter((u) => kept[u] === 0).map((u) => table.layer[u]))], [0]);
    assert.ok(layerSparsityOf(table, kept, 0) >= 0.5);
  }
});

Deno.test("a layer without heads and FFN has nothing to be cut, whatever its target", () => {
  const table = unitTable(decoder([{ heads: 0, kvHeads: 0, ffn: 0 }, { heads: 4, kvHeads: 2, ffn: 20 }]), [
    "kv",
    "ffn",
  ]);
  const layerTargets = [0.5, 0.5];
  checkLayerTargets(table, layerTargets);
  assert.ok(layerSparsityOf(table, selectUnits(table, scoresOf(table, 1), { target: 0.5, layerTargets }), 1) >= 0.5);
});

Deno.test("checkLayerTargets() allows just what selectUnits() can cut of a layer", () => {
  for (const kinds of [["kv", "ffn"], ["heads"], ["ffn"], ["layers"]] as const) {
    for (const rules of [{}, { align: 8 }, { minimum: { heads: 3, ffn: 11 } }, { protect: [2] }]) {
      const table = tableOf(DEEP, kinds, rules);
      if (!table) continue;
      for (const layer of [2, 3]) {
        for (const share of [0, 0.2, 0.39, 0.5, 0.61, 0.75, 0.9, 1]) {
          const layerTargets = DEEP.layers.map((_, index) => index === layer ? share : null);
          const free = new Uint8Array(table.count).fill(1);
          for (let u = 0; u < table.count; u++) if (table.layer[u] === layer) free[u] = 0;
          const isPossible = layerSparsityOf(table, mostOf(table, free), layer) >= share - 1e-12;
          const what = `${kinds} ${JSON.stringify(rules)} layer ${layer}: ${share}`;
          if (isPossible) {
            checkLayerTargets(table, layerTargets);
            assertRules(table, selectUnits(table, scoresOf(table, 2), { layerTargets }), what);
          } else fails(() => checkLayerTargets(table, layerTargets), { names: 0 });
        }
      }
    }
  }
  const table = unitTable(DEEP, ["ffn"]);
  fails(() => checkLayerTargets(table, [0.1]), { names: 6 });
  fails(() => checkLayerTargets(table, [-0.1, null, null, null, null, null]), { names: "layer 0" });

  /** The narrowest that the rules allow of the units that are 0. */
  function mostOf(table: UnitTable, wanted: Selection): Selection {
    const { minimum, align } = table.rules, kept = wanted.slice(), share = table.kinds.has("kv") ? 2 : 1;
    for (
      const [part, least] of [["attention", Math.ceil(minimum.heads / share)], [
        "ffn",
        Math.ceil(minimum.ffn / align) * align,
      ]] as const
    ) {
      table.layers.forEach((own) => {
        const { first, count } = own[part];
        if (wanted[first] === 0) { for (let i = 0; i < Math.min(least, count); i++) kept[first + i] = 1; }
      });
    }
    return kept;
  }
});

Deno.test("a whole layer falls as one unit, and its own units are then left alone", () => {
  const table = unitTable(DEEP, ["ffn", "layers"]), scores = new Float32Array(table.count).fill(1);
  for (const layer of [1, 3]) scores[table.layers[layer]?.gate ?? -1] = 0;
  const kept = selectUnits(table, scores, { target: 0.45 });
  assert.deepEqual(widths(table, kept).map(({ heads }) => heads), [8, 0, 8, 0, 8, 8]);
  // The rest are columns of the first living layers, not of dead ones.
  assert.deepEqual([
    ...new Set(
      [...kept.keys()].filter((u) => kept[u] === 0 && u < table.ranges.layers.first).map((u) => table.layer[u]),
    ),
  ], [0, 2]);
  // Nor is a layer emptied unit by unit where so many must stay.
  const five = unitTable(DEEP, ["kv", "ffn", "layers"], { minimum: { layers: 5 } });
  const first = Float32Array.from(
    { length: five.count },
    (_, u) => u < five.ranges.layers.first && (five.layer[u] ?? 0) < 2 ? 0 : 1,
  );
  const living = (one: UnitTable): number =>
    widths(one, selectUnits(one, first, { target: 0.34 })).filter(({ heads, ffn }) => heads + ffn > 0).length;
  assert.ok(living(five) >= 5, `${living(five)}`);
  assert.equal(living(unitTable(DEEP, ["kv", "ffn", "layers"])), 4);
  const least = unitTable(DEEP, ["layers"], { minimum: { layers: 4 } });
  assert.ok(Math.abs(mostSparsity(least) - 2 / 6) < 1e-12);
  fails(() => checkReachable(least, 0.5), { value: 0.8333, names: 0.3333 });
  assert.ok(Math.abs(mostSparsity(unitTable(DEEP, ["layers"])) - 5 / 6) < 1e-12);
  // Layers that an earlier run cut are none that could stay.
  const gone = { heads: 0, kvHeads: 0, ffn: 0 };
  const again = { ...DEEP, layers: DEEP.layers.map((layer, index) => index < 2 ? gone : layer) };
  assert.ok(Math.abs(mostSparsity(unitTable(again, ["layers"], { minimum: { layers: 3 } })) - 1 / 4) < 1e-12);
  fails(() => unitTable(again, ["layers"], { minimum: { layers: 4 } }), { value: [4, 0] });
});

Deno.test("rules that cannot be, or leave nothing to cut, are refused by name", () => {
  const all = DEEP.layers.map((_, index) => index);
  fails(() => unitTable(DEEP, ["kv"], { protect: [6] }), { value: 6, names: [0, 5] });
  fails(() => unitTable(DEEP, ["kv"], { protect: [-7] }), { value: -7, names: [0, 5, -6] });
  assert.deepEqual([...unitTable(DEEP, ["kv"], { protect: [0, -1] }).rules.protect], [0, 5]);
  fails(() => unitTable(DEEP, ["kv"], { minimum: { ffn: 1.5 } }), { value: 1.5 });
  fails(() => unitTable(DEEP, ["kv"], { align: 0 }), { value: 0, names: 1 });
  fails(() => unitTable(DEEP, ["kv", "ffn"], { protect: all }), { value: 6 });
  fails(() => unitTable(DEEP, ["layers"], { protect: all }), { value: 6 });
  fails(() => unitTable(DEEP, ["ffn"], { minimum: { ffn: 50 } }), { value: ["FFN", 50] });
  fails(
    () => unitTable(DEEP, ["ffn"], { minimum: { ffn: 49 }, align: 32 }),
    { value: ["FFN", 50, 49, 32] },
  );
  fails(() => unitTable(DEEP, ["heads"], { minimum: { heads: 9 } }), { value: ["heads 8", 9] });
  fails(() => unitTable(DEEP, ["hidden"], { align: 64 }), { value: [40, 64] });
  fails(() => unitTable(DEEP, ["hidden"], { minimum: { hidden: 41 } }), { value: 41 });
  fails(() => unitTable(DEEP, ["layers"], { minimum: { layers: 6 } }), { value: [6, 0] });
  unitTable(DEEP, ["hidden"], { protect: all }); // hidden dims belong to no layer
});

Deno.test("an alignment wider than a layer lets its FFN fall whole", () => {
  const table = unitTable(GROUPED, ["ffn"], { align: 128 }),
    kept = selectUnits(table, scoresOf(table, 4), { target: 0.1 });
  assert.deepEqual(widths(table, kept).map(({ ffn }) => ffn).sort((a, b) => a - b), [0, 65, 65]);
});

Deno.test("a target out of reach names the rule that limits it, and how far one comes without", () => {
  const target = 0.6;
  fails(
    () => checkReachable(unitTable(DEEP, ["kv", "ffn"], { protect: [0, 1, 2] }), target),
    { value: 0.6, names: "0.5000" },
  );
  fails(
    () => checkReachable(unitTable(DEEP, ["kv", "ffn"], { minimum: { ffn: 40 } }), target),
    { value: [0.6, 0.9817] },
  );
  fails(
    () => checkReachable(unitTable(DEEP, ["ffn"], { align: 48 }), 0.59),
    { value: [0.59, 0.6077] },
  );
  const layerTargets = [0, 0, 0, 0, null, null];
  fails(
    () => checkReachable(unitTable(DEEP, ["kv", "ffn"]), target, { layerTargets }),
    { value: 0.6 },
  );
});

Deno.test("selectedSpec() is the shape that slicing leaves, and keptUnits() finds the units of its masks", () => {
  for (const [s, spec] of SPECS.entries()) {
    for (const [k, kinds] of [...KINDS, ...LAYER_KINDS].entries()) {
      const table = unitTable(spec, kinds);
      for (const share of [0.2, 0.6]) {
        const kept: Selection = Uint8Array.from(scoresOf(table, 10 * s + k), (score) => score < share ? 0 : 1);
        if (table.kinds.has("hidden")) kept[table.ranges.hidden.first] = 1;
        const masks = selectionMasks(table, kept);
        const source = { spec, read: () => Promise.reject(new Error("not read")), storedDtype: () => "f32" };
        const sliced = sliceModel(source, { masks }).spec, shape = selectedSpec(table, kept);
        assert.deepEqual([shape.hidden, shape.layers], [sliced.hidden, sliced.layers], `${kinds}, ${share}`);
        // Units of a dead layer have masks of 0 whatever their flags say; all that counts is the same.
        const found = keptUnits(table, packMasks(spec, table.layout, masks));
        assert.equal(hardSparsity(table, found), hardSparsity(table, kept), `${kinds}, ${share}`);
        if (!table.kinds.has("layers")) assert.deepEqual(found, kept);
      }
    }
  }
});
