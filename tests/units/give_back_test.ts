// What comes back of a selection: sizes, targets and targets of single layers are met to within one unit, block or row.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { type DecoderSpec, parameterCount } from "../../lib/spec/decoder.ts";
import { parameterTarget } from "../../lib/units/target_size.ts";
import { type UniformCounts, uniformCounts } from "../../lib/units/uniform.ts";
import type { UnitKind } from "../../lib/units/kinds/all.ts";
import type { UnitRules } from "../../lib/units/rules.ts";
import { hardSparsity, selectedSpec, selectUnits } from "../../lib/units/selection.ts";
import { type Selection, unitParameters, type UnitTable, unitTable } from "../../lib/units/table.ts";
import { uniform } from "../../lib/core/random.ts";
import { refuses } from "../refuses.ts";
import { decoder, GROUPED, KINDS, LAYER_KINDS, layerSparsityOf, UNEVEN } from "./helpers/decoders.ts";

const alike = (count: number, layer: DecoderSpec["layers"][number], shape: { hidden: number; headDim: number }) =>
  decoder(Array.from({ length: count }, () => layer), shape);
const DEEP = alike(6, { heads: 8, kvHeads: 4, ffn: 50 }, { hidden: 40, headDim: 4 });
/** A KV group is as large as 64 columns. */
const COARSE = alike(5, { heads: 6, kvHeads: 3, ffn: 96 }, { hidden: 48, headDim: 32 });
const RULES: readonly UnitRules[] = [{}, { align: 8 }, { align: 16 }, { align: 7, minimum: { ffn: 10, hidden: 9 } }];

/** Random scores, those of heads raised. */
const scoresOf = (table: UnitTable, seed: number, raised = 0): Float64Array =>
  Float64Array.from(
    { length: table.count },
    (_, unit) => uniform(seed, unit) + (unit < table.ranges.ffn.first ? raised : 0),
  );

/** A table; null where the rules leave nothing of a kind to cut. */
function tableOf(spec: DecoderSpec, kinds: readonly UnitKind[], rules: UnitRules): UnitTable | null {
  try {
    return unitTable(spec, kinds, rules);
  } catch (error) {
    assert.ok(error instanceof CompressoError && error.code === "usage", String(error));
    return null;
  }
}

/** A selection or counts; null where the target is out of reach. */
function reachable<T>(make: () => T): T | null {
  try {
    return make();
  } catch (error) {
    assert.ok(error instanceof CompressoError && /cannot (make|reach|cut)/.test(error.message), String(error));
    return null;
  }
}

/** The selection with one piece more, for each that may be next: a head, group or layer, or the last block that fell of a layer's columns or of hidden dims. */
function withOneMore(table: UnitTable, kept: Selection, scores: ArrayLike<number>): Selection[] {
  const {
      ranges: { ffn: { first: ffnFirst } },
      ranges: { hidden: { first: hiddenFirst } },
      ranges: { layers: { first: layerFirst } },
      count,
      rules: { align },
    } = table,
    more: Selection[] = [];
  const isDead = (layer: number): boolean => kept[table.layers[layer]?.gate ?? -1] === 0;
  const cutOf = (first: number, width: number): number[] =>
    Array.from({ length: width }, (_, i) => first + i).filter((unit) => kept[unit] === 0)
      .sort((a, b) => (scores[b] ?? NaN) - (scores[a] ?? NaN) || b - a);
  const back = (units: readonly number[]): void => {
    if (units.length > 0) more.push(kept.map((flag, unit) => units.includes(unit) ? 1 : flag));
  };
  const lastBlock = (first: number, width: number): void => {
    const cut = cutOf(first, width);
    if (align === 1) cut.forEach((unit) => back([unit]));
    // What a width is over the multiple falls as the first block.
    else back(cut.slice(0, cut.length === width % align ? cut.length : align));
  };
  for (const unit of cutOf(0, ffnFirst)) if (!isDead(table.layer[unit] ?? 0)) back([unit]);
  table.layers.forEach(({ ffn }, layer) => isDead(layer) || lastBlock(ffn.first, ffn.count));
  lastBlock(hiddenFirst, layerFirst - hiddenFirst);
  for (const unit of cutOf(layerFirst, count - layerFirst)) back([unit]);
  return more;
}

/** Counts with one row more of each kind. */
function withOneRow({ spec, kinds, rules: { align } }: UnitTable, counts: UniformCounts): UniformCounts[] {
  const whole = { heads: 0, kvHeads: 1, ffn: 0, ...spec.layers[0] }, { heads, kvHeads, ffn, hidden } = counts;
  const wider = (width: number, most: number): number => Math.min(most, (Math.floor(width / align) + 1) * align);
  return [
    ...(kvHeads < whole.kvHeads
      ? [{ ...counts, heads: heads + whole.heads / whole.kvHeads, kvHeads: kvHeads + 1 }]
      : []),
    ...(ffn < whole.ffn ? [{ ...counts, ffn: wider(ffn, whole.ffn) }] : []),
    ...(kinds.has("hidden") && hidden < spec.hidden ? [{ ...counts, hidden: wider(hidden, spec.hidden) }] : []),
  ];
}

const specAt = ({ spec }: UnitTable, { hidden, ...layer }: UniformCounts): DecoderSpec => ({
  ...spec,
  hidden,
  layers: spec.layers.map(() => layer),
});

Deno.test("a selection has at most the size, and no unit or block could come back", () => {
  let checked = 0;
  for (const [s, spec] of [DEEP, GROUPED, UNEVEN, COARSE].entries()) {
    for (const [k, kinds] of [...KINDS, ...LAYER_KINDS].entries()) {
      for (const [r, rules] of RULES.entries()) {
        const table = tableOf(spec, kinds, rules), whole = parameterCount(spec);
        for (let round = 0; table && round < 4; round++) {
          const most = Math.floor((1 - 0.02 - 0.4 * uniform(8, s, 10 * k + r, round)) * whole);
          const scores = scoresOf(table, 100 * k + 10 * r + round, round % 2);
          const kept = reachable(() => selectUnits(table, scores, { size: parameterTarget(spec, most) }));
          if (!kept) continue;
          const sizeOf = (selection: Selection): number => parameterCount(selectedSpec(table, selection));
          const what = `${most} of ${whole}, ${kinds}, ${JSON.stringify(rules)}, ${JSON.stringify(spec.layers[0])}`;
          assert.ok(sizeOf(kept) <= most, `${sizeOf(kept)}: ${what}`);
          const fits = withOneMore(table, kept, scores).map(sizeOf).filter((size) => size <= most);
          assert.deepEqual(fits, [], `could come back: ${what}`);
          checked++;
        }
      }
    }
  }
  assert.ok(checked > 400, `${checked} selections`);
});

Deno.test("with all layers alike no row could come back of a size, nor of a target that a large row overshot", () => {
  let checked = 0;
  for (const [s, spec] of [DEEP, GROUPED, COARSE].entries()) {
    for (const [k, kinds] of KINDS.entries()) {
      for (const [r, rules] of RULES.entries()) {
        const table = tableOf(spec, kinds, rules), whole = parameterCount(spec);
        for (let round = 0; table && round < 6; round++) {
          const share = 0.02 + 0.4 * uniform(9, s, 10 * k + r, round), most = Math.floor((1 - share) * whole);
          const scores = scoresOf(table, 100 * k + 10 * r + round, round % 3 - 1),
            learned = round % 2 ? { scores } : {};
          const what = `${share}, ${kinds}, ${JSON.stringify(rules)}, ${JSON.stringify(spec.layers[0])}`;
          const sized = reachable(() => uniformCounts(table, { size: parameterTarget(spec, most), ...learned }));
          if (sized) {
            const sizeOf = (counts: UniformCounts): number => parameterCount(specAt(table, counts));
            assert.ok(sizeOf(sized) <= most, `${sizeOf(sized)} for ${most}: ${what}`);
            const fits = withOneRow(table, sized).filter((counts) => sizeOf(counts) <= most);
            assert.deepEqual(fits, [], `could come back of ${JSON.stringify(sized)} for ${most}: ${what}`);
            checked++;
          }
          const aimed = reachable(() => uniformCounts(table, { target: share, ...learned }));
          if (aimed) {
            const over = (counts: UniformCounts): number => sparsityAt(table, counts) - share;
            assert.ok(over(aimed) >= -1e-12, `${over(aimed)} below: ${what}`);
            const isClose = over(aimed) <= smallestRow(table) + 1e-12;
            assert.ok(
              isClose || withOneRow(table, aimed).every((counts) => over(counts) < 1e-12),
              `too much fell: ${what}`,
            );
            checked++;
          }
        }
      }
    }
  }
  assert.ok(checked > 500, `${checked} counts`);

  function sparsityAt({ spec, total }: UnitTable, { heads, kvHeads, ffn, hidden }: UniformCounts): number {
    return 1 - hidden * spec.layers.length * (2 * spec.headDim * (heads + kvHeads) + 3 * ffn) / total;
  }

  /** The smallest share that a row cuts alone. */
  function smallestRow(table: UnitTable): number {
    const { spec, layers, total } = table, { heads = 0, kvHeads = 0, ffn = 0 } = spec.layers[0] ?? {};
    const all = { heads, kvHeads, ffn, hidden: spec.hidden }, { align } = table.rules;
    const over = (width: number): number => width % align || align;
    const isCut = (layers[0]?.attention.count ?? 0) > 0, hasFfn = (layers[0]?.ffn.count ?? 0) > 0;
    const rows = [
      ...(isCut ? [{ ...all, heads: heads - heads / kvHeads, kvHeads: kvHeads - 1 }] : []),
      ...(hasFfn ? [{ ...all, ffn: ffn - over(ffn) }] : []),
      ...(table.ranges.hidden.first < table.ranges.layers.first
        ? [{ ...all, hidden: spec.hidden - over(spec.hidden) }]
        : []),
    ];
    assert.ok(total > 0 && rows.length > 0);
    return Math.min(...rows.map((counts) => sparsityAt(table, counts)));
  }
});

Deno.test("targets of single layers, and the whole's beside them, are met to within one column where groups had to fall", () => {
  const table = unitTable(COARSE, ["kv", "ffn"]), column = 3 * COARSE.hidden / table.total;
  for (const raised of [0, 0.5, 1]) {
    for (let seed = 0; seed < 40; seed++) {
      const scores = scoresOf(table, seed, raised), goal = 0.3 + 0.2 * uniform(2, seed), what = `${seed}, ${raised}`;
      const single = selectUnits(table, scores, { target: 0.3, layerTargets: [goal, goal, goal, null, null] });
      const every = selectUnits(table, scores, { target: goal, layerTargets: COARSE.layers.map(() => goal) });
      // A layer is a fifth of the whole.
      for (const [kept, layers] of [[single, 3], [every, 5]] as const) {
        for (let layer = 0; layer < layers; layer++) {
          const over = layerSparsityOf(table, kept, layer) - goal;
          assert.ok(over >= -1e-12 && over < 5 * column + 1e-12, `layer ${layer} by ${over}: ${what}`);
        }
      }
      const reached = hardSparsity(table, single), least = Math.max(0.3, 3 * goal / 5);
      assert.ok(reached >= 0.3 - 1e-12 && reached < least + 3 * column + 1e-12, `${reached}: ${what}`);
      const over = hardSparsity(table, every) - goal;
      assert.ok(over >= -1e-12 && over < 5 * column + 1e-12, `${over} beyond ${goal}: ${what}`);
    }
  }
});

Deno.test("a target that columns alone do not reach is met to within one column, and the columns of the highest scores are back", () => {
  const table = unitTable(COARSE, ["kv", "ffn"], { protect: [0, 4] }), column = 3 * COARSE.hidden / table.total;
  for (let seed = 0; seed < 40; seed++) {
    const scores = scoresOf(table, seed, 1), target = 0.25 + 0.15 * uniform(7, seed);
    const kept = selectUnits(table, scores, { target }), over = hardSparsity(table, kept) - target;
    assert.ok(over >= -1e-12 && over < column + 1e-12, `${over} beyond ${target} for ${seed}`);
    const columns = Array.from(
      { length: table.ranges.hidden.first - table.ranges.ffn.first },
      (_, i) => table.ranges.ffn.first + i,
    );
    const scoresAt = (flag: number): number[] => columns.filter((u) => kept[u] === flag).map((u) => scores[u] ?? NaN);
    assert.ok(Math.max(...scoresAt(0)) < Math.min(...scoresAt(1)), `columns in another order for ${seed}`);
  }
});

Deno.test("nothing comes back of what exceeds the target by less than the smallest unit", () => {
  // With half of the hidden dims cut a column saves half: one that fell early would fit, but the target is met closely.
  const spec = decoder([{ heads: 0, kvHeads: 0, ffn: 8 }], { hidden: 8 }), table = unitTable(spec, ["ffn", "hidden"]);
  const scores = [0, 1, 1, 1, 1, 1, 1, 1, 0.1, 0.2, 0.3, 0.4, 1, 1, 1, 1];
  assert.equal(unitParameters(table, 0), unitParameters(table, 8));
  const kept = selectUnits(table, scores, { target: 0.5 });
  assert.deepEqual([...kept.keys()].filter((unit) => kept[unit] === 0), [0, 8, 9, 10, 11]);
  assert.ok(hardSparsity(table, kept) - 0.5 >= 3 * 4 / table.total, "the first column would fit");
});

Deno.test("what layers cut beyond their own targets stays where the whole's cannot be reached otherwise", () => {
  // Parameters per hidden dim: two heads of 16, ten columns of 3. Layer 0 is to cut 40: all columns and a head, less two columns.
  const spec = alike(2, { heads: 2, kvHeads: 2, ffn: 10 }, { hidden: 8, headDim: 4 }), whole = 2 * 62;
  const table = unitTable(spec, ["heads", "ffn"]), scores = scoresOf(table, 1, 1), layerTargets = [40 / 62, null];
  const reachedAt = (cut: number): number =>
    Math.round(hardSparsity(table, selectUnits(table, scores, { target: cut / whole, layerTargets })) * whole);
  assert.equal(reachedAt(101), 102); // 40 and all 62 of layer 1
  assert.equal(reachedAt(104), 105); // 46, and 59 as one column has to stay
  refuses(() => reachedAt(106), "usage", { value: 0.8548387096774194 });
});
