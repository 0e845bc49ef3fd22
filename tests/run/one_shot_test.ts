// One-shot scores against their definitions in f64, and FLAP's compensation on the model that it is for.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { openDryDevice } from "../../lib/gpu/dry.ts";
import { openHfFolder } from "../disk.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { readRows } from "../../lib/local/rows.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { type MaskValues } from "../../lib/nn/mask_slots.ts";
import { biasName, projectionName } from "../../lib/spec/decoder.ts";
import type { ActivationStats } from "../../lib/masks/baselines_activations.ts";
import { applyCompensation, withOutputBiases } from "../../lib/masks/baselines_bias.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { selectUnits } from "../../lib/units/selection.ts";
import { selectionMasks, unitTable } from "../../lib/units/table.ts";
import { createBatches } from "../../lib/data/batches.ts";
import { encodeRows } from "../../lib/data/encode_rows.ts";
import { calibrate } from "../../lib/run/methods/calibrate.ts";
import { loadModelFrom, type Model } from "../../lib/model/model.ts";
import { METHODS } from "../../lib/run/methods/all.ts";
import { compensate, withCompensation } from "../../lib/run/methods/compensation.ts";
import { oneShotScores } from "../../lib/run/methods/one_shot_scores.ts";
import { verifySliced } from "../../lib/slice/verify.ts";
import { assertClose, distance, type GoldenName, openGolden } from "../golden/helpers/golden.ts";
import { openDemo } from "./helpers/reference.ts";
import { drive, withShortDemo } from "./helpers/demo_run.ts";
import {
  BATCH,
  columnsOf,
  deviation,
  device,
  inputsOf,
  mean,
  NO_GRADIENTS,
  randomBatch,
  scored,
  SEQ,
  sequences,
  squares,
  withGolden,
} from "./helpers/one_shot.ts";
import { adapterOf } from "../../lib/run/memory/plan.ts";

/** f32 forward passes are off by about 1e-6 of the largest value; the statistics add little. */
const TOLERANCE = 2e-5;

const STATISTICS: readonly GoldenName[] = [
  ...["gqa_llama3", "gqa_f16", "qwen2", "qwen3", "gemma3", "gemma4", "opt"] as const,
  ...["phi3", "smollm3", "granite", "olmo2"] as const,
  ...["gpt2", "gpt_neox", "stablelm", "stablelm_parallel", "phi", "cohere2"] as const,
];

for (const name of STATISTICS) {
  Deno.test(`calibrate() gives the statistics of the tokens before labels, for ${name}`, async () => {
    await withGolden(name, async ({ model, source, batches }) => {
      const stats = await calibrate(model, { batches, batch: BATCH, seq: SEQ });
      const labels = sequences(batches).flatMap(({ labels }) => labels.slice(1));
      assert.equal(stats.tokens, labels.filter((label) => label >= 0).length);
      assert.ok(stats.tokens > 0 && stats.tokens < labels.length, "some tokens have a label behind them");
      const wanted = await inputsOf(source, batches);
      wanted.forEach((layer, index) => {
        for (const part of ["o", "down"] as const) {
          const columns = columnsOf(layer[part]), own = stats.layers[index]?.[part];
          assertClose([
            distance(`mean of ${part} ${index}`, own?.mean ?? [], columns.map(mean)),
            distance(`squares of ${part} ${index}`, own?.squares ?? [], columns.map(squares)),
          ], TOLERANCE);
        }
      });
    });
  });
}

Deno.test("calibrate() does not see what padding holds, and frees all that it took", async () => {
  await withGolden("gqa_f16", async ({ model, batches }) => {
    const bytes = device.bytes, stats = await calibrate(model, { batches, batch: BATCH, seq: SEQ });
    assert.equal(device.bytes, bytes);
    const others = batches.map((batch) => ({
      ...batch,
      tokens: batch.tokens.map((token, i) => i % SEQ < (batch.lengths?.[Math.floor(i / SEQ)] ?? SEQ) ? token : 5),
    }));
    assert.notDeepEqual(others[0]?.tokens, batches[0]?.tokens);
    assert.deepEqual(await calibrate(model, { batches: others, batch: BATCH, seq: SEQ }), stats);
  });
});

Deno.test("flap and wanda-sp refuse activations that are not finite, and say where", async () => {
  await withGolden("gqa_f16", async ({ source, batches }) => {
    const broken: WeightSource = {
      ...source,
      spec: source.spec,
      read: async (name) => (await source.read(name)).map((value) => name === projectionName(1, "up") ? 1e38 : value),
    };
    using model = await loadModelFrom(broken, { device, baseDtype: "f32" });
    for (const method of ["flap", "wanda-sp"] as const) {
      await assert.rejects(
        scored({ model, batches }, ["ffn"], method),
        new RegExp(`by ${method}.*finite.*in input 0 of layer 1's down_proj`),
      );
    }
  });
});

Deno.test("flap looks at the same sequences whatever the batch", async () => {
  await withShortDemo(async ({ model }) => {
    const ffn = async (batch: number): Promise<number[]> => {
      const { result } = await drive(model, { method: "flap", steps: 0, prefinetune: 0, postfinetune: 1, batch });
      return [...result.masks.ffn ?? []];
    };
    const [one, many] = [await ffn(2), await ffn(32)];
    assert.ok(one.filter((z) => z === 0).length > 20, "units are cut");
    const others = one.filter((z, unit) => z !== many[unit]).length;
    assert.ok(others <= 2, `${others} units differ`); // sums of other batches are rounded otherwise
  });
});

Deno.test("calibrate() and the biases take on a dry device what they take on a real one", async () => {
  const source = await openHfFolder((await openGolden("gqa_f16")).modelPath);
  const peakOf = async (device: Device): Promise<number> => {
    using model = await loadModelFrom(source, { device, baseDtype: "f32" });
    using biased = await withCompensation(model);
    const stats = await calibrate(biased, { batches: [randomBatch(source.spec.vocab, 1)], batch: BATCH, seq: SEQ });
    assert.equal(stats.layers.length, source.spec.layers.length);
    return device.peakBytes;
  };
  using real = await openDevice();
  using dry = openDryDevice(adapterOf(real));
  assert.equal(await peakOf(dry), await peakOf(real));
});

/** A layer's units of a kind with the channels of each. */
function unitChannels(
  table: ReturnType<typeof unitTable>,
  layer: number,
  part: "o" | "down",
): { readonly unit: number; readonly channels: readonly number[] }[] {
  const width = part === "o" ? table.spec.headDim : 1, slots = table.layout.layers[layer];
  const first = part === "o" ? 0 : table.ranges.ffn.first,
    end = part === "o" ? table.ranges.ffn.first : table.ranges.hidden.first;
  return Array.from({ length: end - first }, (_, i) => first + i).filter((unit) => table.layer[unit] === layer).map(
    (unit) => {
      const slot = (table.slotFirst[unit] ?? NaN) - (part === "o" ? slots?.head ?? NaN : slots?.ffn ?? NaN);
      const count = (table.slotCount[unit] ?? NaN) * width;
      return { unit, channels: Array.from({ length: count }, (_, i) => slot * width + i) };
    },
  );
}

for (const kinds of [["heads", "ffn"], ["kv", "ffn"]] as const) {
  Deno.test(`flap scores ${kinds} by standardised variance times squared weights`, async () => {
    await withGolden("gqa_f16", async ({ model, source, batches }) => {
      const { table, scores } = await scored({ model, batches }, kinds, "flap");
      const inputs = await inputsOf(source, batches), wanted = new Float64Array(table.count);
      for (const [layer, rows] of inputs.entries()) {
        for (const part of ["o", "down"] as const) {
          const weight = await source.read(projectionName(layer, part)), columns = columnsOf(rows[part]);
          const metric = columns.map((column, j) => {
            const norm = weight.reduce((sum, w, at) => at % columns.length === j ? sum + w * w : sum, 0);
            const value = deviation(column) ** 2 * norm;
            return part === "o" ? value ** 2 : value;
          });
          const standard = metric.map((value) => (value - mean(metric)) / deviation(metric));
          for (const { unit, channels } of unitChannels(table, layer, part)) {
            wanted[unit] = mean(channels.map((j) => standard[j] ?? NaN));
          }
        }
      }
      // The squares of squares of an f32 forward pass.
      assertClose([distance("flap", scores, wanted)], 4 * TOLERANCE);
    });
  });

  Deno.test(`wanda-sp ranks ${kinds} within each layer by ‖x‖ times mean |w|, so that each loses the same share`, async () => {
    await withGolden("gqa_llama3", async ({ model, source, batches }) => {
      const { table, scores } = await scored({ model, batches }, kinds, "wanda-sp");
      const inputs = await inputsOf(source, batches);
      for (const [layer, rows] of inputs.entries()) {
        for (const part of ["o", "down"] as const) {
          const weight = await source.read(projectionName(layer, part)), columns = columnsOf(rows[part]);
          const metric = columns.map((column, j) => {
            const sum = weight.reduce((sum, w, at) => at % columns.length === j ? sum + Math.abs(w) : sum, 0);
            return Math.sqrt(column.reduce((sum, x) => sum + x * x, 0)) * sum / source.spec.hidden;
          });
          const units = unitChannels(table, layer, part);
          const values = units.map(({ channels }) => channels.reduce((sum, j) => sum + (metric[j] ?? NaN), 0));
          units.forEach(({ unit }, i) => {
            const rank = values.filter((value) => value < (values[i] ?? NaN)).length;
            const off = Math.abs((scores[unit] ?? NaN) - (rank + 1) / units.length);
            assert.ok(off < 1e-12, `${part} of layer ${layer}, unit ${i}: ${off}`);
          });
        }
      }
    });
  });
}

Deno.test("random scores are decided by the seed alone, and no unit is favoured", async () => {
  await withGolden("gqa_llama3", async ({ model, batches }) => {
    const [a, b] = [
      await scored({ model, batches }, ["kv", "ffn"], "random"),
      await scored({ model, batches }, [
        "kv",
        "ffn",
      ], "random"),
    ];
    assert.deepEqual(a.scores, b.scores);
    assert.equal(new Set(a.scores).size, a.table.count);
    assert.ok(Math.abs(mean(a.scores) - 0.5) < 0.1 && a.scores.every((score) => score >= 0 && score < 1));
    const other = await oneShotScores(model, a.table, {
      method: METHODS.random,
      batches: [],
      batch: 1,
      seq: 1,
      seed: 8,
      ...NO_GRADIENTS,
    });
    assert.notDeepEqual(other.scores, a.scores);
  });
});

for (
  const name of [
    "gqa_f16",
    "gqa_bias",
    "qwen3",
    "opt",
    "phi3",
    "granite",
    "gpt2",
    "gpt_neox",
    "stablelm",
    "phi",
  ] as const
) {
  Deno.test(`compensation keeps the mean of each output of ${name} over the calibration data`, async () => {
    await withGolden(name, async ({ model, source, batches }) => {
      const { spec } = source, rows = sequences(batches);
      const stats = await calibrate(model, { batches, batch: BATCH, seq: SEQ });
      const layers = spec.layers.length, [first] = spec.layers;
      assert.ok(first);
      const ones = (count: number): Float32Array => new Float32Array(count).fill(1);
      // Of layer 0 alone, the only one whose inputs stay what they were; its FFN is silent where heads are cut.
      const head = ones(layers * first.heads), ffn = ones(layers * first.ffn), silent = ones(layers * first.ffn);
      head[1] = 0;
      head[2] = 0.25; // what is left of a soft mask is not lost
      ffn.fill(0, 3, 20);
      silent.fill(0, 0, first.ffn);
      const cases: readonly (readonly [string, MaskValues, MaskValues])[] = [
        ["o", { head }, { ffn: silent }],
        ["down", { ffn }, {}],
      ];
      for (const [part, cut, always] of cases) {
        using compensated = await loadModelFrom(applyCompensation(source, { masks: cut, stats }), {
          device,
          baseDtype: "f32",
        });
        const outputs = async (model: Model, masks: MaskValues): Promise<number[]> => {
          const states: number[][] = [];
          for (const { tokens, labels } of rows) {
            const [, after = []] = await model.hiddenStates(tokens, { masks });
            labels.slice(1).forEach((label, t) => {
              if (label >= 0) states.push([...after.slice(t * spec.hidden, (t + 1) * spec.hidden)]);
            });
          }
          return columnsOf(states.map((row) => Float64Array.from(row))).map(mean);
        };
        const wanted = await outputs(model, always);
        assertClose([distance(part, await outputs(compensated, { ...always, ...cut }), wanted)], 1e-4);
        const { relative } = distance(part, await outputs(model, { ...always, ...cut }), wanted);
        assert.ok(relative > 1e-2, `without the bias the means differ, by ${relative}`);
      }
    });
  });
}

Deno.test("a compensated source has its own biases beside the new ones, ranges of rows, and nothing where nothing is cut", async () => {
  await withGolden("gqa_bias", async ({ model, source, batches }) => {
    const stats = await calibrate(model, { batches, batch: BATCH, seq: SEQ }), { spec } = source;
    const zeros = withOutputBiases(source);
    assert.deepEqual(zeros.spec, spec);
    assert.deepEqual(await zeros.read(biasName(0, "o")), await source.read(biasName(0, "o")));
    const head = new Float32Array(8).fill(1);
    head[5] = 0;
    const made = applyCompensation(source, { masks: { head }, stats }), name = biasName(1, "o");
    assert.deepEqual(await made.read(biasName(0, "o")), await source.read(biasName(0, "o")));
    assert.deepEqual(await made.read(biasName(1, "down")), await source.read(biasName(1, "down")));
    assert.deepEqual(await made.read(biasName(1, "q")), await source.read(biasName(1, "q")));
    assert.notDeepEqual(await made.read(name), await source.read(name));
    assert.deepEqual(await made.read(name, { start: 3, count: 4 }), (await made.read(name)).slice(3, 7));
    assert.equal(made.storedDtype(name), "f32");
    const short: ActivationStats = { ...stats, layers: stats.layers.slice(1) };
    assert.throws(() => applyCompensation(source, { masks: { head }, stats: short }), /statistics are those of this/);
  });
});

Deno.test("on the demo FLAP with its bias has a lower loss on the calibration data than the same heads without, and slices exactly", async () => {
  const demo = await openDemo(device);
  using base = demo.model;
  const { tokenizer } = demo, seq = 80, batch = 4;
  const { rows } = await readRows(demoData("train"), { limit: 40 });
  const { examples } = encodeRows(rows, { tokenizer, prompt: null, seq, packing: false });
  const all = createBatches(examples, { batch, seq, seed: 1, padId: tokenizer.padId ?? 0 });
  const batches = Array.from({ length: 4 }, () => all.next());
  assert.ok(batches.some(({ lengths }) => lengths?.some((length) => length < seq)), "some rows are padded");
  const bytes = device.bytes;
  {
    using model = await withCompensation(base);
    const table = unitTable(model.spec, ["heads"]);
    const { scores, stats } = await oneShotScores(model, table, {
      method: METHODS.flap,
      batches,
      batch,
      seq,
      seed: 1,
      ...NO_GRADIENTS,
    });
    assert.ok(stats);
    const masks = selectionMasks(table, selectUnits(table, scores, { target: 0.2 }));
    const loss = async (): Promise<number> => {
      let sum = 0, count = 0;
      for (const { tokens, lengths = [], realTokens } of batches) {
        // All tokens that were counted, prompts included.
        const labels = Int32Array.from(
          tokens,
          (token, i) => i % seq < (lengths[Math.floor(i / seq)] ?? 0) ? token : -100,
        );
        const losses = await model.tokenLosses(tokens, labels, { batch, adapters: { masks } });
        sum += losses.reduce((total, value) => total + value, 0);
        count += realTokens - batch;
      }
      return sum / count;
    };
    const before = await loss();
    const source = await compensate(model, { masks, stats });
    const after = await loss();
    assert.ok(after < before - 0.1, `${after} with the bias, ${before} without`);
    const tokens = examples.slice(0, 2).map((example) => [...example.tokens]);
    const { maxAbs, range } = await verifySliced(source, sliceModel(source, { masks }), {
      device,
      adapters: { masks },
      tokens,
    });
    assert.ok(maxAbs < 1e-5 * range, `masked and sliced differ by ${maxAbs} of ${range}`);
  }
  assert.equal(device.bytes, bytes, "only the biases were taken, and they are freed");
  assert.ok((await base.logits([1, 2, 3])).every(Number.isFinite), "the model goes on without them");
});

Deno.test("scoring tells how far it is, for methods that look at rows and for learned masks", async () => {
  await withShortDemo(async ({ model }) => {
    const calibration = [{ kind: "text", text: "Tom went to Rome. ".repeat(40), extra: {} }] as const;
    for (
      const options of [{ method: "flap", steps: 0 }, { method: "taylor", steps: 0 }, {
        calibration,
        steps: 1,
      }] as const
    ) {
      const shares: number[] = [];
      await drive(model, { ...options, prefinetune: 0, postfinetune: 0, onScoring: (share) => shares.push(share) });
      assert.ok(shares.length > 2 && shares.at(-1) === 1, String(shares));
      assert.deepEqual(shares, shares.toSorted((a, b) => a - b));
    }
  });
});
