// Magnitude scores against sums taken weight by weight, and ranks within layers.
import assert from "node:assert/strict";
import { type HfSource } from "../../lib/formats/hf/model.ts";
import { openHfFolder } from "../disk.ts";
import { type DecoderSpec, projectionName, PROJECTIONS } from "../../lib/spec/decoder.ts";
import { magnitudeScores, rankWithin } from "../../lib/masks/baselines.ts";
import type { UnitKind } from "../../lib/units/kinds/all.ts";
import { selectUnits } from "../../lib/units/selection.ts";
import { type UnitTable, unitTable } from "../../lib/units/table.ts";

const MODEL = new URL("../../fixtures/golden/gqa_llama3/model", import.meta.url).pathname;

async function scoresOf(kinds: readonly UnitKind[]): Promise<{
  source: HfSource;
  table: UnitTable;
  scores: Float64Array;
  spec: DecoderSpec;
}> {
  const source = await openHfFolder(MODEL), table = unitTable(source.spec, kinds);
  return { source, table, scores: await magnitudeScores(source, table), spec: source.spec };
}

function meanSquare(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value * value, 0) / values.length;
}

function assertNear(actual: number | undefined, expected: number): void {
  assert.ok(actual !== undefined && Math.abs(actual - expected) <= 1e-9 * expected, `${actual}, expected ${expected}`);
}

Deno.test("magnitudeScores() of an FFN column is the mean square of its gate row, up row and down column", async () => {
  const { source, table, scores, spec } = await scoresOf(["ffn"]);
  const layer = 1, column = 57, { hidden } = spec, ffn = spec.layers[layer]?.ffn ?? 0;
  const gate = await source.read(projectionName(layer, "gate")), up = await source.read(projectionName(layer, "up"));
  const down = await source.read(projectionName(layer, "down"));
  const own = [
    ...gate.subarray(column * hidden, (column + 1) * hidden),
    ...up.subarray(column * hidden, (column + 1) * hidden),
    ...Array.from({ length: hidden }, (_, row) => down[row * ffn + column] ?? NaN),
  ];
  assertNear(scores[table.ranges.ffn.first + (spec.layers[0]?.ffn ?? 0) + column], meanSquare(own));
});

Deno.test("magnitudeScores() of a KV group covers its query heads, its K and V, and their output columns", async () => {
  const { source, scores, spec } = await scoresOf(["kv"]);
  const layer = 2, group = 1, { hidden, headDim } = spec;
  const { heads, kvHeads } = spec.layers[layer] ?? { heads: 0, kvHeads: 1 }, share = heads / kvHeads;
  const rows = (data: Float32Array, first: number, count: number): number[] => [
    ...data.subarray(first * hidden, (first + count) * hidden),
  ];
  const q = await source.read(projectionName(layer, "q")), k = await source.read(projectionName(layer, "k"));
  const v = await source.read(projectionName(layer, "v")), o = await source.read(projectionName(layer, "o"));
  const width = heads * headDim, from = group * share * headDim;
  const output = Array.from({ length: hidden }, (_, row) => [
    ...o.subarray(row * width + from, row * width + from + share * headDim),
  ]).flat();
  const own = [
    ...rows(q, from, share * headDim),
    ...rows(k, group * headDim, headDim),
    ...rows(v, group * headDim, headDim),
    ...output,
  ];
  assertNear(scores[layer * kvHeads + group], meanSquare(own));
});

Deno.test("magnitudeScores() of hidden dims add up to the squares of all weights of the layers", async () => {
  const { source, scores, spec, table } = await scoresOf(["hidden"]);
  let total = 0;
  for (let layer = 0; layer < spec.layers.length; layer++) {
    for (const name of ["q", "k", "v", "o", "gate", "up", "down"] as const) {
      for (const value of await source.read(projectionName(layer, name))) total += value * value;
    }
  }
  assertNear(scores.reduce((sum, score) => sum + score, 0) * table.total / spec.hidden, total);
});

Deno.test("magnitudeScores() of a whole layer is the mean square of its weights, whatever else sparsity counts", async () => {
  const source = await openHfFolder(MODEL), { spec } = source;
  const table = unitTable(spec, ["layers", "hidden"], { rest: 50, protect: [0] });
  const scores = await magnitudeScores(source, table), layer = 2, own: number[] = [];
  for (const name of PROJECTIONS) own.push(...await source.read(projectionName(layer, name)));
  assertNear(scores[table.ranges.layers.first + layer - 1], meanSquare(own));
  const plain = await magnitudeScores(source, unitTable(spec, ["hidden"]));
  assertNear(scores[table.ranges.hidden.first + 5], plain[5] ?? NaN);
});

Deno.test("rankWithin() gives every layer and kind the same places, in the order of the scores", async () => {
  const source = await openHfFolder(MODEL), { layers } = source.spec;
  for (const kinds of [["kv", "ffn", "hidden"], ["heads", "ffn", "layers"]] as const) {
    const table = unitTable(source.spec, kinds);
    // Scales that differ by layer and kind, as one ranking through all would be hit by; every fifth score is a tie.
    const scores = Float64Array.from(
      { length: table.count },
      (_, unit) =>
        10 ** ((table.layer[unit] ?? 0) - (unit < table.ranges.ffn.first ? 3 : 0)) * ((unit * 7919) % 13 || 1),
    );
    const ranks = rankWithin(table, scores);
    const {
      ranges: { ffn: { first: ffnFirst } },
      ranges: { hidden: { first: hiddenFirst } },
      ranges: { layers: { first: layerFirst } },
      count,
    } = table;
    const ranges = [[0, ffnFirst], [ffnFirst, hiddenFirst], [hiddenFirst, layerFirst], [layerFirst, count]] as const;
    for (const [kind, [first, end]] of ranges.entries()) {
      const all = Array.from({ length: end - first }, (_, i) => first + i);
      const sets = kind < 2 ? layers.map((_, layer) => all.filter((unit) => table.layer[unit] === layer)) : [all];
      for (const units of sets) {
        const order = units.toSorted((a, b) => (ranks[a] ?? NaN) - (ranks[b] ?? NaN));
        order.forEach((unit, place) => assert.ok(Math.abs((ranks[unit] ?? NaN) - (place + 1) / units.length) < 1e-12));
        for (const [place, unit] of order.entries()) {
          const next = order[place + 1] ?? unit, [a = NaN, b = NaN] = [scores[unit], scores[next]];
          assert.ok(a < b || a === b && unit <= next, `${kinds}: ${unit} before ${next}`);
        }
      }
    }
  }
});

Deno.test("where a target ends between equal places, the layers that lose a unit are spread over the model", async () => {
  const { spec } = await openHfFolder(MODEL), layers = Array.from({ length: 8 }, () => spec.layers[0] ?? assert.fail());
  const table = unitTable({ ...spec, layers }, ["heads"]), ranks = rankWithin(table, new Uint8Array(table.count));
  const each = table.ranges.ffn.first / layers.length;
  // Half of the layers lose their first head.
  const kept = selectUnits(table, ranks, { target: 4 * 2 * spec.headDim * spec.hidden / table.total });
  const lost = layers.flatMap((_, layer) => kept.subarray(layer * each, (layer + 1) * each).includes(0) ? [layer] : []);
  assert.equal(lost.length, 4);
  assert.equal(lost.filter((layer) => layer < 4).length, 2, `layers ${lost}`);
});
