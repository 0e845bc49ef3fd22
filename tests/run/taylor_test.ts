// Taylor scores: terms of weights against differences of the loss in f64, and what units make of them.
import assert from "node:assert/strict";
import type { WeightSource } from "../../lib/spec/source.ts";
import {
  type DecoderSpec,
  presentProjections,
  type Projection,
  projectionName,
  PROJECTIONS,
  tensorShapes,
} from "../../lib/spec/decoder.ts";
import { IDLE_STATE } from "../../lib/nn/train/step_state.ts";
import { createTaylor, type LayerTerms, type WeightTerms } from "../../lib/masks/baselines.ts";
import { unitParameters, type UnitTable, unitTable } from "../../lib/units/table.ts";
import { Trainer } from "../../lib/run/trainer.ts";
import { decoderOf, lossOf } from "./helpers/decoder_f64.ts";
import { scored, trainerOf, withGolden } from "./helpers/one_shot.ts";

/** Step of the differences; their error is its square. */
const STEP = 1e-3;

/** The weights of a source in memory. */
async function inMemory(source: WeightSource): Promise<WeightSource> {
  const known = new Map<string, Float32Array<ArrayBuffer>>();
  for (const name of tensorShapes(source.spec).keys()) known.set(name, await source.read(name));
  return { ...source, spec: source.spec, read: (name) => Promise.resolve(known.get(name) ?? assert.fail(name)) };
}

/** The same weights, one of a projection moved by `by`. */
function movedWeight(
  source: WeightSource,
  { layer, projection, at }: { readonly layer: number; readonly projection: Projection; readonly at: number },
  by: number,
): WeightSource {
  return {
    ...source,
    spec: source.spec,
    storedDtype: (name) => source.storedDtype(name),
    async read(name, rows): ReturnType<WeightSource["read"]> {
      const values = await source.read(name, rows);
      if (name !== projectionName(layer, projection)) return values;
      return values.map((value, index) => index === at ? value + by : value);
    },
  };
}

for (const name of ["gqa_f16", "opt", "olmo2", "gpt2", "gpt_neox", "stablelm_parallel", "phi", "hunyuan"] as const) {
  Deno.test(`terms of weights of ${name} are Σ|w·dL/dw| by row and column of every projection, by differences in f64, with LoRA elsewhere and there, computed anew and kept`, async () => {
    await withGolden(name, async ({ model, source, batches: [whole = assert.fail()] }) => {
      // Part of one sequence, as every weight of a row or column costs two passes in f64.
      const seq = 6, tokens = whole.tokens.slice(0, seq), labels = whole.labels.slice(0, seq);
      const batch = { tokens, labels, realTokens: seq, labelTokens: labels.filter((label) => label >= 0).length };
      const { spec } = source, known = await inMemory(source), layer = 0; // the last one is never computed anew
      const lossAt = async (projection: Projection, at: number, by: number): Promise<number> => {
        const decode = await decoderOf(movedWeight(known, { layer, projection, at }, by));
        const { sum, count } = lossOf(decode([...tokens]).logits, [...labels]);
        return sum / count;
      };
      for (const isFirst of [true, false]) {
        using trainer = new Trainer(model, {
          batch: 1,
          seq,
          seed: 1,
          lora: { rank: 2, alpha: 2, targets: isFirst ? ["q"] : PROJECTIONS },
          table: unitTable(spec, ["ffn"]),
          recompute: isFirst,
        });
        const terms: LayerTerms | undefined = (await trainer.weightTerms(batch, { state: IDLE_STATE }))[layer];
        for (const projection of presentProjections(spec, spec.layers[layer] ?? assert.fail())) {
          const values = await source.read(projectionName(layer, projection));
          const own: WeightTerms = terms?.get(projection) ?? assert.fail();
          const isOutput = projection === "o" || projection === "down";
          const cols = values.length / (isOutput ? own.hidden : own.units).length;
          const [byRow, byColumn] = isOutput ? [own.hidden, own.units] : [own.units, own.hidden];
          assert.equal(byRow.length * byColumn.length, values.length, projection);
          const row = largest(byRow), column = Math.floor(cols * 0.4);
          const line = isFirst
            ? Array.from({ length: cols }, (_, c) => row * cols + c)
            : Array.from({ length: byRow.length }, (_, r) => r * cols + column);
          let sum = 0;
          for (const at of line) {
            const w = values[at] ?? NaN, up = Math.fround(w + STEP), down = Math.fround(w - STEP);
            const slope = (await lossAt(projection, at, up - w) - await lossAt(projection, at, down - w)) / (up - down);
            sum += Math.abs(w * slope);
          }
          const actual = isFirst ? byRow[row] : byColumn[column];
          assert.ok(Math.abs((actual ?? NaN) / sum - 1) < 1e-3, `${projection}: ${actual} instead of ${sum}`);
        }
      }
    });
  });
}

/** Index of the largest value: rows of a column that never opens are 0. */
function largest(values: Float32Array): number {
  return values.reduce((best, value, index) => value > (values[best] ?? NaN) ? index : best, 0);
}

/** Terms of every weight 0 but those named. */
function termsOf(
  { layers, hidden, headDim }: DecoderSpec,
  set: (add: (layer: number, projection: Projection, at: { unit: number; dim: number }, term: number) => void) => void,
): LayerTerms[] {
  const all = layers.map(({ heads, kvHeads, ffn }) => {
    const widths = { q: heads * headDim, k: kvHeads * headDim, v: kvHeads * headDim, o: heads * headDim };
    const sizes: Record<Projection, number> = { ...widths, gate: ffn, up: ffn, down: ffn };
    return new Map(PROJECTIONS.map((name) => [
      name,
      { units: new Float32Array(sizes[name]), hidden: new Float32Array(hidden) },
    ]));
  });
  set((layer, projection, { unit, dim }, term) => {
    const own = all[layer]?.get(projection) ?? assert.fail();
    own.units[unit] = (own.units[unit] ?? NaN) + term;
    own.hidden[dim] = (own.hidden[dim] ?? NaN) + term;
  });
  return all;
}

Deno.test("taylor adds up the terms of a unit's own weights, batches in proportion to their labels", async () => {
  await withGolden("gqa_f16", ({ source: { spec } }) => {
    const layer = 1,
      { heads, kvHeads } = spec.layers[layer] ?? assert.fail(),
      share = heads / kvHeads,
      d = spec.headDim;
    // Head 1 of group 0, whose K and V it shares; column 17.
    const first = termsOf(spec, (add) => {
      add(layer, "q", { unit: d + 1, dim: 5 }, 1);
      add(layer, "o", { unit: 2 * d - 1, dim: 6 }, 2);
      add(layer, "k", { unit: 3, dim: 5 }, 4);
      add(layer, "v", { unit: d - 1, dim: 6 }, 8);
      add(layer, "gate", { unit: 17, dim: 5 }, 16);
      add(layer, "up", { unit: 17, dim: 5 }, 32);
      add(layer, "down", { unit: 17, dim: 6 }, 64);
      add(0, "down", { unit: 17, dim: 6 }, 1024);
    });
    const second = termsOf(spec, (add) => add(layer, "gate", { unit: 17, dim: 5 }, 128));
    const scores = (kinds: Parameters<typeof unitTable>[1]): { table: UnitTable; scores: Float64Array } => {
      const table = unitTable(spec, kinds), taylor = createTaylor(table);
      taylor.add(first, { labels: 6 });
      taylor.add(second, { labels: 2 });
      return { table, scores: taylor.scores() };
    };
    const check = (actual: number | undefined, sum: number, weights: number): void => {
      const wanted = sum / 8 / weights;
      assert.ok(Math.abs((actual ?? NaN) - wanted) <= 1e-12 * wanted, `${actual} instead of ${wanted}`);
    };
    const column = 6 * (16 + 32 + 64) + 2 * 128, { hidden } = spec;
    {
      const { table, scores: found } = scores(["kv", "ffn", "hidden"]), group = spec.layers[0]?.kvHeads ?? NaN;
      check(found[group], 6 * (1 + 2 + 4 + 8), (2 * share + 2) * d * hidden);
      assert.equal(found[group + 1], 0);
      check(found[table.ranges.ffn.first + (spec.layers[0]?.ffn ?? NaN) + 17], column, 3 * hidden);
      const perDim = table.total / hidden;
      check(found[table.ranges.hidden.first + 5], 6 * (1 + 4 + 16 + 32) + 2 * 128, perDim);
      check(found[table.ranges.hidden.first + 6], 6 * (2 + 8 + 64 + 1024), perDim);
      assert.equal(found[table.ranges.hidden.first + 7], 0);
    }
    {
      // A head has its share of K and V, a layer all.
      const { table, scores: found } = scores(["heads", "layers"]), head = (spec.layers[0]?.heads ?? NaN) + 1;
      check(found[head], 6 * (1 + 2 + (4 + 8) / share), (2 + 2 / share) * d * hidden);
      check(
        found[table.ranges.layers.first + layer],
        6 * 15 + column,
        unitParameters(table, table.ranges.layers.first + layer),
      );
    }
    return Promise.resolve();
  });
});

Deno.test("taylor scores of a model are those of its terms", async () => {
  await withGolden("gqa_f16", async ({ model, batches }) => {
    const { table, scores } = await scored({ model, batches }, ["kv", "ffn"], "taylor");
    using trainer = trainerOf(model, table);
    const taylor = createTaylor(table);
    for (const batch of batches) {
      taylor.add(await trainer.weightTerms(batch, { state: IDLE_STATE }), { labels: batch.labelTokens });
    }
    assert.deepEqual(scores, taylor.scores());
    assert.ok(scores.every((score) => score > 0));
  });
});
