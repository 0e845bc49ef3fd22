// Block influence against its definition in f64, and what it cuts.
import assert from "node:assert/strict";
import { prune } from "../../mod.ts";
import type { Batch } from "../../lib/data/batches.ts";
import { openDryDevice } from "../../lib/gpu/dry.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { verifySliced } from "../../lib/slice/verify.ts";
import { unitParameters, type UnitTable, unitTable } from "../../lib/units/table.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { adapterOf } from "../../lib/run/memory/plan.ts";
import { METHODS } from "../../lib/run/methods/all.ts";
import { measureInfluence } from "../../lib/run/methods/influence.ts";
import { oneShotScores } from "../../lib/run/methods/one_shot_scores.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { refuses } from "../refuses.ts";
import { BASE, bitsOf, drive, FEW, withDemo } from "./helpers/demo_run.ts";
import { decoderOf, type Rows } from "./helpers/decoder_f64.ts";
import { BATCH, device, mean, NO_GRADIENTS, SEQ, sequences, withGolden } from "./helpers/one_shot.ts";

const METHOD = METHODS["block-influence"];
const BARE = { ...FEW, method: "block-influence", steps: 0, prefinetune: 0, postfinetune: 0 } as const;

/** 1 − cosine of two rows in f64. */
function distance(x: ArrayLike<number>, y: ArrayLike<number>): number {
  let dot = 0, xx = 0, yy = 0;
  for (let i = 0; i < x.length; i++) {
    const [a, b] = [x[i] ?? NaN, y[i] ?? NaN];
    dot += a * b;
    xx += a * a;
    yy += b * b;
  }
  return 1 - dot / Math.sqrt(xx * yy);
}

// Biases of the family, norms of outputs, factors of the residual stream, and parallel layers.
for (const name of ["gqa_llama3", "gemma3", "granite", "stablelm_parallel"] as const) {
  Deno.test(`influence is 1 − the mean cosine before and after a layer and its attention, for ${name}`, async () => {
    await withGolden(name, async ({ model, source, batches }) => {
      const masks = {
        head: new Float32Array(model.spec.layers.reduce((sum, { heads }) => sum + heads, 0)).fill(1),
        ffn: new Float32Array(model.spec.layers.reduce((sum, { ffn }) => sum + ffn, 0)).fill(1),
      };
      // Layer 0 is cut, and half of the columns of the last one.
      masks.head.fill(0, 0, model.spec.layers[0]?.heads);
      masks.ffn.fill(0, 0, model.spec.layers[0]?.ffn);
      masks.ffn.fill(0, masks.ffn.length - (model.spec.layers.at(-1)?.ffn ?? 0) / 2);
      const decode = await decoderOf(source);
      for (const given of [{}, masks]) {
        const bytes = device.bytes;
        const got = await measureInfluence(model, { batches, batch: BATCH, seq: SEQ, masks: given });
        assert.equal(device.bytes, bytes);
        const passes = sequences(batches).map(({ tokens, labels }) => ({ ...decode(tokens, given), labels }));
        const wanted = (layer: number, from: 0 | 1 | 2, to: 0 | 1 | 2): number =>
          mean(passes.flatMap(({ states, labels }) => {
            const rows = (at: 0 | 1 | 2): Rows => states[layer]?.[at] ?? [];
            return rows(from).flatMap((row, t) =>
              (labels[t + 1] ?? -100) < 0 ? [] : [distance(row, rows(to)[t] ?? [])]
            );
          }));
        got.forEach(({ attention, layer }, index) => {
          for (const [own, want] of [[attention, wanted(index, 0, 1)], [layer, wanted(index, 0, 2)]] as const) {
            // States of f32 passes are off by about 1e-6 of themselves, distances by that of the change.
            assert.ok(Math.abs(own - want) <= 2e-5 * want + 1e-9, `layer ${index}: ${own} instead of ${want}`);
          }
        });
        assert.equal(got.length, model.spec.layers.length);
        if (given === masks) assert.deepEqual(got[0], { attention: 0, layer: 0 });
      }
    });
  });
}

/** A batch for a dry device, which takes no data. */
function withoutData(batch: Batch): Batch {
  return { ...batch, tokens: new Uint32Array(0), labels: new Int32Array(0) };
}

/** The scores of the units by the method, each times the parameters of its unit. */
async function influences(
  table: UnitTable,
  ...[model, options]: Parameters<typeof measureInfluence>
): Promise<number[]> {
  const how = { ...options, ...NO_GRADIENTS, method: METHOD, seed: 1 };
  const { scores } = await oneShotScores(model, table, how);
  return [...scores].map((score, unit) => score * unitParameters(table, unit));
}

Deno.test("layers and attention sub-layers have the influence of their own, and a dry device takes as much memory", async () => {
  await withGolden("gqa_f16", async ({ model, source, batches }) => {
    const how = { batches, batch: BATCH, seq: SEQ }, layers = await measureInfluence(model, how);
    const table = unitTable(model.spec, ["attention", "layers"], { protect: [0] });
    const wanted = [
      ...layers.slice(1).map(({ attention }) => attention),
      ...layers.slice(1).map(({ layer }) => layer),
    ];
    const got = await influences(table, model, how);
    assert.equal(got.length, wanted.length);
    got.forEach((value, unit) => assert.ok(Math.abs(value - (wanted[unit] ?? NaN)) <= 1e-12 * value, `unit ${unit}`));

    using dry = openDryDevice(adapterOf(device));
    const peaks = await Promise.all([device, dry].map(async (one) => {
      using own = await loadModelFrom(source, { device: one, baseDtype: "f32" });
      one.resetPeak();
      const before = one.bytes;
      await measureInfluence(own, one === dry ? { ...how, batches: batches.map(withoutData) } : how);
      return one.peakBytes - before;
    }));
    assert.ok((peaks[0] ?? 0) > 0);
    assert.equal(peaks[0], peaks[1]);
  });
});

/** The layers without attention, and those without FFN. */
function fallen({ head, ffn }: { readonly head?: Float32Array; readonly ffn?: Float32Array }): number[][] {
  return [head, ffn].map((z = new Float32Array()) =>
    [0, 1, 2, 3, 4].filter((layer) =>
      z.subarray(layer * z.length / 5, (layer + 1) * z.length / 5).every((v) => v === 0)
    )
  );
}

Deno.test("a run cuts the layers of the least influence, and with rounds each is the least of the layers left", async () => {
  await withDemo(async ({ model, device }) => {
    const shares: number[] = [], onScoring = (share: number): number => shares.push(share);
    const one = await drive(model, { ...BARE, sparsity: 0.2 }), [first] = fallen(one.result.masks);
    const two = await drive(model, { ...BARE, sparsity: 0.4, rounds: 2, onScoring }), { masks, lora } = two.result;
    const [attention, ffn] = fallen(masks), [gone = -1] = first ?? [];
    assert.deepEqual([first?.length, attention?.length, two.result.sparsity.hard], [1, 2, 0.4]);
    assert.deepEqual(attention, ffn);
    assert.ok(attention?.includes(gone));
    assert.deepEqual(shares, shares.toSorted());
    assert.equal(shares.at(-1), 1);
    // The second cut is the first one of the model that the first one left.
    using left = await loadModelFrom(sliceModel(model.source, { masks: one.result.masks, lora: one.result.lora }), {
      device,
      tokenizer: model.tokenizer,
    });
    assert.equal(left.spec.layers.length, 5);
    const { result } = await drive(left, { ...BARE, sparsity: 0.25, rules: { protect: [gone] } });
    const own = left.spec.layers.map(({ heads }) => heads),
      at = (layer: number): number => own.slice(0, layer).reduce((sum, heads) => sum + heads, 0);
    const next = own.findIndex((heads, layer) => heads > 0 && result.masks.head?.[at(layer)] === 0);
    assert.deepEqual(attention, [gone, next].toSorted());
    const { maxAbs, range } = await verifySliced(model.source, sliceModel(model.source, { masks, lora }), {
      device,
      adapters: { masks, lora },
      tokens: two.result.heldout.slice(0, 4),
    });
    assert.ok(maxAbs < 1e-5 * range, `masked and sliced differ by ${maxAbs} of ${range}`);

    // Attention sub-layers fall alone, before steps that train LoRA, and a stop between two rounds changes no bit.
    const path = `${await Deno.makeTempDir()}/checkpoint.safetensors`, checkpoint = { path, every: 1000 };
    const how = { ...BARE, units: ["attention"], sparsity: 0.2, rounds: 2, postfinetune: 1 } as const;
    const whole = await drive(model, how), { signal, abort } = stopper();
    assert.deepEqual(fallen(whole.result.masks).map(({ length }) => length), [2, 0]);
    const stopped = { ...how, checkpoint, signal, onScoring: (share: number) => share > 0.6 ? abort() : undefined };
    await assert.rejects(drive(model, stopped), /enough/);
    const rest = await drive(model, { ...how, checkpoint: { ...checkpoint, resume: true } });
    assert.equal(bitsOf(rest), bitsOf(whole));
    await Deno.remove(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  });
});

function stopper(): { readonly signal: AbortSignal; readonly abort: () => void } {
  const controller = new AbortController();
  return { signal: controller.signal, abort: () => controller.abort(new Error("enough")) };
}

Deno.test("other units, equal layers and a stream that is not finite are refused", async () => {
  await withDemo(async ({ model, device }) => {
    const refused = (options: Partial<RunOptions>, value: string): void =>
      refuses(() => prune(model, { ...BASE, ...BARE, ...options }), "usage", { option: "units", value });
    refused({ units: ["kv", "ffn"] }, "kv");
    refused({ units: ["layers", "hidden"] }, "hidden");
    refuses(() => prune(model, { ...BASE, ...BARE, layout: "uniform" }), "usage", { option: "units", value: "layers" });
    const { source, tokenizer } = model;
    const read: typeof source.read = async (name, rows) =>
      (await source.read(name, rows)).map((w) => name.includes("layers.1.mlp.up") ? 1e38 : w);
    using broken = await loadModelFrom({ spec: source.spec, read, storedDtype: () => "f32" }, {
      device,
      tokenizer,
      baseDtype: "f32",
    });
    await assert.rejects(drive(broken, { ...BARE, sparsity: 0.2 }), { code: "numeric" });
  });
});
