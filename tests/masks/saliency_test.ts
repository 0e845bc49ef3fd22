// Saliency of units from mask gradients, and the initial log α that follows from it.
import assert from "node:assert/strict";
import type { SlotGradients } from "../../lib/nn/mask_slots.ts";
import { normName, projectionName, tensorShapes } from "../../lib/spec/decoder.ts";
import { besidePrior, priorShape, saliencyPrior } from "../../lib/masks/prior.ts";
import { createSaliency, maskStart, openStart, perParameter } from "../../lib/masks/saliency.ts";
import { hardSparsity, selectUnits } from "../../lib/units/selection.ts";
import { unitParameters, type UnitTable, unitTable } from "../../lib/units/table.ts";
import { expectedCuts } from "../../lib/run/layer_states.ts";
import { normal, uniform } from "../../lib/core/random.ts";
import { GROUPED, UNEVEN } from "../units/helpers/decoders.ts";

const slotsOf = ({ layout: { count } }: UnitTable, seed: number): SlotGradients => ({
  dz: Float32Array.from({ length: count }, (_, slot) => uniform(seed, slot) - 0.5),
  squares: Float32Array.from({ length: count }, (_, slot) => uniform(seed, count + slot)),
});

Deno.test("saliency is the mean over batches of the squares of a unit's slots, for each parameter it saves", () => {
  for (const table of [unitTable(GROUPED, ["kv", "ffn", "hidden"]), unitTable(UNEVEN, ["heads", "ffn", "layers"])]) {
    const batches = [slotsOf(table, 1), slotsOf(table, 2), slotsOf(table, 3)], saliency = createSaliency(table);
    for (const gradients of batches) saliency.add(gradients);
    const got = perParameter(table, saliency.mean());
    for (let unit = 0; unit < table.count; unit++) {
      const first = table.slotFirst[unit] ?? NaN, end = first + (table.slotCount[unit] ?? NaN);
      const sumOf = (values: Float32Array): number => values.subarray(first, end).reduce((sum, g) => sum + g, 0);
      // The gradient of a layer's gate is the sum of its slots', squared after the sum.
      const of = batches.map(({ dz, squares }) => unit < table.ranges.layers.first ? sumOf(squares) : sumOf(dz) ** 2);
      const wanted = of.reduce((sum, square) => sum + square, 0) / 3 / unitParameters(table, unit);
      const actual = got[unit] ?? NaN;
      assert.ok(Math.abs(actual - wanted) <= 1e-12 * wanted, `unit ${unit}: ${actual} instead of ${wanted}`);
    }
  }
});

Deno.test("saliency without a batch is zero everywhere, and gives an equal log α", () => {
  const table = unitTable(GROUPED, ["ffn"]), none = perParameter(table, createSaliency(table).mean());
  assert.deepEqual([...none], new Array(table.count).fill(0));
  assert.deepEqual([...maskStart(none, { spread: 2.5 }).logAlpha], new Array(table.count).fill(0));
});

Deno.test("maskStart() keeps the order of the saliency, is centred on its median and limited to ±3 · spread", () => {
  const count = 1001, spread = 2.5;
  // Saliencies over forty orders of magnitude, and a zero.
  const saliency = Float64Array.from({ length: count }, (_, i) => i === 0 ? 0 : 10 ** (40 * uniform(5, i) - 30));
  const logAlpha = maskStart(saliency, { spread }).logAlpha;
  const order = [...saliency.keys()].sort((a, b) => (saliency[a] ?? NaN) - (saliency[b] ?? NaN));
  for (let i = 1; i < count; i++) {
    const [low, high] = [logAlpha[order[i - 1] ?? -1] ?? NaN, logAlpha[order[i] ?? -1] ?? NaN];
    assert.ok(low <= high, `${low} before ${high} at rank ${i}`);
  }
  assert.equal(logAlpha[order[501] ?? -1], 0, "the zero counts for no median");
  assert.ok(logAlpha.every((value) => Math.abs(value) <= 3 * spread));
});

Deno.test("units without saliency start lowest and change nothing of where the others start; one beyond ±3 is followed from there", () => {
  const spread = 8, count = 2000;
  const told = Float64Array.from({ length: count }, (_, unit) => Math.exp(1.5 * normal(6, 1, unit)));
  const alone = maskStart(told, { spread }), half = 3 * spread;
  for (const zeros of [300, 1000, 18_000]) {
    const { logAlpha, ...scale } = maskStart([...told, ...new Float64Array(zeros)], { spread });
    assert.deepEqual(logAlpha.subarray(0, count), alone.logAlpha);
    assert.ok(logAlpha.subarray(count).every((value) => value === -half));
    assert.deepEqual(scale, { drift: alone.drift, range: alone.range });
  }
  const { logAlpha: [least, most] } = maskStart([...alone.range, ...told], { spread });
  assert.ok(Math.abs((least ?? NaN) + half) < 0.05 && Math.abs((most ?? NaN) - half) < 0.05, `${least}, ${most}`);
  assert.deepEqual(maskStart([1, 1, 1], { spread }).range, [0, Infinity], "equal ones are no scale");
});

Deno.test("openStart() keeps order and distances, and leaves no unit cut, as far as the limit has room", () => {
  const logAlpha = Float32Array.from({ length: 200 }, (_, unit) => 24 * Math.sin(unit));
  for (const [temperature, noise] of [[0.1, 0.1], [2 / 3, 1], [0.01, 0]] as const) {
    const rates = { temperature, noise, logAlphaLimit: 100 };
    const start = openStart(logAlpha, rates), shift = (start[0] ?? NaN) - (logAlpha[0] ?? NaN);
    start.forEach((value, unit) => assert.ok(Math.abs(value - (logAlpha[unit] ?? NaN) - shift) < 1e-5));
    // One draw in a thousand of the least unit is not whole.
    const least = Math.min(...start), z = 1.2 / (1 + Math.exp(-(least - 6.9 * rates.noise) / rates.temperature)) - 0.1;
    assert.ok(z >= 1 && expectedCuts(start, rates).every((cut) => cut < 0.002), `${least}`);
  }
  assert.deepEqual(openStart(logAlpha, { temperature: 0.1, noise: 0.1, logAlphaLimit: 20 }), logAlpha);
  const [highest] = openStart(Float32Array.of(90, -90), { temperature: 0.1, noise: 0.1, logAlphaLimit: 100 });
  assert.equal(highest, 100);
  const open = Float32Array.of(3, 5);
  assert.deepEqual(openStart(open, { temperature: 0.1, noise: 0.1, logAlphaLimit: 100 }), open);
});

Deno.test("maskStart() spreads logarithms by their robust deviation, whatever the scale of the saliency", () => {
  // Logarithms −2, −1, 0, 1, 2 of equal frequency: the 16th and 84th percentile are −2 and 2.
  const saliency = Float64Array.from({ length: 500 }, (_, i) => Math.exp(i % 5 - 2));
  const logAlpha = maskStart(saliency, { spread: 2 }).logAlpha;
  for (let i = 0; i < 500; i++) {
    assert.ok(Math.abs((logAlpha[i] ?? NaN) - (i % 5 - 2)) < 1e-6, `log α[${i}] is ${logAlpha[i]}`);
  }
  const scaled = maskStart(saliency.map((value) => value * 1e-9), { spread: 2 }).logAlpha;
  scaled.forEach((value, i) => assert.ok(Math.abs(value - (logAlpha[i] ?? NaN)) < 1e-5));
});

Deno.test("units of the least saliency per parameter fall first", () => {
  const table = unitTable(GROUPED, ["kv", "ffn", "hidden"]), saliency = createSaliency(table);
  const squares = new Float32Array(table.layout.count).fill(1);
  // Three columns and one dim that the loss hardly feels.
  const weak = [
    table.ranges.ffn.first + 4,
    table.ranges.ffn.first + 70,
    table.ranges.hidden.first - 1,
    table.ranges.hidden.first + 9,
  ];
  for (const unit of weak) squares[table.slotFirst[unit] ?? -1] = 1e-8;
  saliency.add({ dz: squares.map(Math.sqrt), squares });
  const logAlpha = maskStart(perParameter(table, saliency.mean()), { spread: 2.5 }).logAlpha;
  const wanted = new Uint8Array(table.count).fill(1);
  for (const unit of weak) wanted[unit] = 0;
  const kept = selectUnits(table, logAlpha, { target: hardSparsity(table, wanted) - 1e-9 });
  assert.deepEqual([...kept.keys()].filter((unit) => kept[unit] === 0).sort((a, b) => a - b), weak);
});

Deno.test("the prior is the median of a unit's kind and layer, for an FFN column times its gate's relative square norm, squared", async () => {
  for (const table of [unitTable(GROUPED, ["kv", "ffn", "hidden"]), unitTable(UNEVEN, ["heads", "ffn", "layers"])]) {
    const { spec } = table, sizes = tensorShapes(spec);
    const read = (name: string): Promise<Float32Array<ArrayBuffer>> => {
      const length = (sizes.get(name) ?? []).reduce((product, size) => product * size, 1);
      const values = Float32Array.from({ length }, (_, at) => 0.1 + uniform(name.length, name.charCodeAt(13), at));
      return Promise.resolve(values);
    };
    const shape = await priorShape({ read }, table);
    const saliency = Float64Array.from({ length: table.count }, (_, unit) => uniform(7, unit));
    const prior = saliencyPrior(table, saliency, { shape, weight: 0.5 });
    const kindOf = (unit: number): string =>
      unit >= table.ranges.layers.first
        ? "layers"
        : unit >= table.ranges.hidden.first
        ? "hidden"
        : `${unit >= table.ranges.ffn.first ? "ffn" : "attention"} ${table.layer[unit]}`;
    const peersOf = (unit: number): number[] => [...saliency.keys()].filter((other) => kindOf(other) === kindOf(unit));
    for (let unit = 0; unit < table.count; unit++) {
      const values = peersOf(unit).map((peer) => saliency[peer] ?? NaN).sort((a, b) => a - b);
      let wanted = 0.5 * (values[Math.ceil(values.length / 2) - 1] ?? NaN);
      if (kindOf(unit).startsWith("ffn")) {
        const layer = table.layer[unit] ?? NaN, width = spec.layers[layer]?.ffn ?? NaN;
        const gate = await read(projectionName(layer, "gate")), norm = await read(normName(layer, "ffn"));
        const norms = Array.from(
          { length: width },
          (_, row) =>
            norm.reduce((sum, weight, dim) => sum + (weight * (gate[row * spec.hidden + dim] ?? NaN)) ** 2, 0),
        );
        const column = unit - (table.layers[layer]?.ffn.first ?? NaN);
        wanted *= ((norms[column] ?? NaN) / norms.reduce((sum, value) => sum + value / width, 0)) ** 2;
      }
      assert.ok(
        Math.abs((prior[unit] ?? NaN) - wanted) <= 1e-9 * wanted,
        `unit ${unit}: ${prior[unit]}, not ${wanted}`,
      );
    }
  }
});

Deno.test("a saliency on other rows stands beside a measured one by the means of each kind", () => {
  for (const table of [unitTable(GROUPED, ["kv", "ffn", "hidden"]), unitTable(UNEVEN, ["ffn", "layers"])]) {
    const valuesOf = (seed: number): Float64Array<ArrayBuffer> =>
      Float64Array.from(
        { length: table.count },
        (_, unit) => uniform(seed, unit) * (unit < table.ranges.ffn.first ? 50 : 1),
      );
    const measured = valuesOf(1), other = valuesOf(2).map((value) => 1e-6 * value);
    const prior = besidePrior(table, measured, { other, weight: 0.5 });
    const borders = [0, table.ranges.ffn.first, table.ranges.hidden.first, table.ranges.layers.first, table.count];
    for (const [kind, from] of borders.slice(0, -1).entries()) {
      const end = borders[kind + 1] ?? NaN;
      const mean = (values: Float64Array): number =>
        values.subarray(from, end).reduce((a, b) => a + b, 0) / (end - from);
      for (let unit = from; unit < end; unit++) {
        const wanted = 0.5 * mean(measured) * (other[unit] ?? NaN) / mean(other), off = (prior[unit] ?? NaN) - wanted;
        assert.ok(Math.abs(off) < 1e-12 * wanted, `unit ${unit} of ${table.count}: ${prior[unit]} for ${wanted}`);
      }
    }
    assert.ok(besidePrior(table, measured, { other: new Float64Array(table.count), weight: 1 }).every((p) => p === 0));
  }
});
