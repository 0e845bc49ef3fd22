// Schedules that steer a run: targets, rates, layers and the end of the stage, and what they are shown. On the demo model.
import assert from "node:assert/strict";
import { prune } from "../../mod.ts";
import { loadModelFrom } from "../../lib/model/mod.ts";
import type { RunHooks } from "../../lib/run/mod.ts";
import {
  cubic,
  type Curve,
  type CurveInput,
  defineSchedule,
  type ScheduleDefinition,
  type ScheduleInput,
} from "../../lib/schedule/mod.ts";
import { maskSizes, packMasks } from "../../lib/nn/mask_slots.ts";
import { hardenMasks } from "../../lib/masks/harden.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { mostUniform } from "../../lib/units/uniform.ts";
import type { UnitKind } from "../../lib/units/kinds/all.ts";
import { selectedSpec } from "../../lib/units/selection.ts";
import { keptUnits, unitTable } from "../../lib/units/table.ts";
import { keptBy } from "../../lib/run/methods/kept.ts";
import { layerShares } from "../../lib/run/layer_states.ts";
import { rejects } from "../refuses.ts";
import { SPEC } from "../formats/models.ts";
import { decoder } from "../units/helpers/decoders.ts";
import { BASE, bitsOf, drive, interrupted, ROUNDING, withDemo, withShortDemo } from "./helpers/demo_run.ts";
import { Lair, scriptOf } from "./helpers/scripts.ts";

Deno.test("a schedule sets target, rates and end, and the masks become hard at its last target", async () => {
  await withShortDemo(async ({ model }) => {
    const schedule = defineSchedule({
      sparsity: ({ progress }) => 0.25 * progress,
      rates: { lora: ({ step }) => 1e-4 * (step + 1) },
      end: ({ step, records }) => step >= 5 && records.length === 6,
    });
    const { records, result, steps } = await drive(model, { schedule });
    const pruning = records.filter(({ stage }) => stage === "prune");
    assert.deepEqual(pruning.map(({ target }) => target), [1, 2, 3, 4, 5].map((k) => 0.25 * k / 8));
    pruning.forEach(({ expected, target }) => assert.ok(Math.abs((expected ?? 1) - (target ?? 0)) < 1e-5));
    assert.deepEqual(pruning.map(({ learningRate }) => learningRate), [1, 2, 3, 4, 5].map((k) => 1e-4 * k));
    assert.equal(records.length, 1 + 5 + 2);
    assert.deepEqual([steps, records.at(-1)?.steps], [8, 8]);
    const { target, hard } = result.sparsity;
    assert.equal(target, 0.25 * 5 / 8);
    assert.ok(hard >= target - ROUNDING && hard < target + 0.002, `${hard}`);
  });
});

Deno.test("the first step of learned masks is on the model as it was trained so far, units that are frozen from then on included", async () => {
  await withShortDemo(async ({ model }) => {
    const first: number[] = [], frozen: number[] = [];
    const freeze: Parameters<typeof defineSchedule>[0] = {
      freeze: ({ layers }) => {
        first.push(...layers.flatMap(({ heads, ffn }) => [heads, ffn]));
        return [{ layer: 1, kind: "ffn" }];
      },
    };
    const hooks: RunHooks = {
      afterStep: async ({ stage }, { masks }) => {
        const { ffn } = await masks(), width = model.spec.layers[0]?.ffn ?? 0;
        if (stage === "prune") frozen.push(Math.min(...ffn.subarray(width, 2 * width)));
      },
    };
    const { records } = await drive(model, { prefinetune: 0, schedule: defineSchedule(freeze), hooks });
    assert.ok(first.slice(0, 2 * model.spec.layers.length).every((cut) => cut < 1e-3), String(first.slice(0, 10)));
    assert.ok(frozen.every((z) => z > 0.9), String(frozen));
    const whole = await drive(model, { method: "gradual", prefinetune: 0, steps: 8 });
    const [learned, dense] = [records[0]?.loss ?? NaN, whole.records[0]?.loss ?? NaN];
    assert.ok(Math.abs(learned - dense) < 1e-3 * dense, `${learned} and ${dense}`);
  });
});

Deno.test("a schedule that ends the stage before its first step cuts nothing, and an alarm says so", async () => {
  await withShortDemo(async ({ model }) => {
    // The records of the stage before can be enough for it.
    const schedule = defineSchedule({ end: ({ records }) => records.length > 0 });
    using run = prune(model, { ...BASE, schedule });
    const stages: string[] = [];
    for await (const { stage } of run) stages.push(stage);
    assert.deepEqual(stages, ["finetune", "postfinetune", "postfinetune"]);
    const { sparsity, masks, alarms } = run.result();
    assert.deepEqual(sparsity, { target: 0, expected: 0, hard: 0 });
    assert.ok([...Object.values(masks)].every((values: Float32Array) => values.every((z) => z === 1)));
    assert.deepEqual(alarms.map(({ monitor, step }) => [monitor, step]), [["constraint", 1]]);
    assert.match(alarms[0]?.message ?? "", /before its first step, and nothing of 20\.0 % is cut/);
    const { parameters: { before, after } } = await run.slice();
    assert.equal(after, before);
  });
});

Deno.test("a schedule sees the layers' state, and an error of its own names the step", async () => {
  await withShortDemo(async ({ model }) => {
    const seen: number[] = [];
    const schedule = defineSchedule({
      sparsity: ({ layers, step, sparsity }) => {
        seen.push(layers.reduce((sum, { ffn }) => sum + ffn, 0) / layers.length);
        return step === 6 ? 2 * sparsity + 1 : sparsity * step / 8;
      },
    });
    await rejects(drive(model, { schedule }), "input", { names: "step 6" });
    assert.equal(seen.length, 7);
    assert.ok((seen[0] ?? 1) < 0.6 && (seen[6] ?? 0) > 0, seen.join(" "));
    // Before the first projection log α is centred: after it the share cut follows the targets upwards.
    for (let step = 2; step < 7; step++) assert.ok((seen[step] ?? 0) >= (seen[step - 1] ?? 0) - 1e-3, seen.join(" "));
  });
});

for (const method of ["compresso", "gradual"] as const) {
  Deno.test(`a run of the method ${method} with a schedule that was interrupted ends with the same bits`, async () => {
    await withShortDemo(async ({ model }) => {
      const schedule = defineSchedule({
        sparsity: cubic({ to: "target", warmup: 0.8 }),
        rates: {
          lora: ({ records }) => 1e-3 / (1 + records.length + (records.at(-1)?.loss ?? 0)),
          ...(method === "compresso" ? { saliencyDecay: ({ progress }: CurveInput) => 0.5 + 0.4 * progress } : {}),
        },
      });
      const whole = await drive(model, { method, schedule });
      for (const at of [3, 7]) {
        assert.equal(bitsOf(await interrupted(model, { method, schedule }, at)), bitsOf(whole), `after step ${at}`);
      }
      const other = defineSchedule({ sparsity: cubic({ to: "target", warmup: 0.7 }) });
      assert.notEqual(bitsOf(await drive(model, { method, schedule: other })), bitsOf(whole));
    });
  });
}

Deno.test("kept masks are 1, or the median at the β that the schedule had last", async () => {
  await withShortDemo(async ({ model }) => {
    const LAST = 0.1, WIDE = 2;
    const schedule = defineSchedule({ rates: { temperature: ({ progress }) => progress < 0.5 ? WIDE : LAST } });
    const options = { schedule, rates: { temperature: WIDE } };
    const { result } = await drive(model, { ...options, keptMasks: "median" });
    const { table, logAlpha, masks, sparsity: { target } } = result;
    const at = (temperature: number): number[] => [
      ...hardenMasks(table, Float32Array.from(logAlpha), { target, temperature, layout: "compact" }).ffn ?? [],
    ];
    assert.deepEqual([...masks.ffn ?? []], at(LAST));
    assert.notDeepEqual(at(WIDE), at(LAST));
    const { masks: { ffn } } = (await drive(model, options)).result;
    assert.deepEqual([...ffn ?? []], at(LAST).map((z) => z > 0 ? 1 : 0));
  });
});

Deno.test("a layer's own mask cuts of its heads and columns what they have left, and of those that have no masks", () => {
  const shares = (kinds: readonly UnitKind[], gate: number, ffn: number): unknown => {
    const table = unitTable(SPEC, kinds, { protect: [0] }), cuts = new Float64Array(table.count).fill(ffn);
    for (const { gate: unit } of table.layers) if (unit >= 0) cuts[unit] = gate;
    const { heads, ffn: columns } = layerShares(table, cuts)[1] ?? {};
    return { heads, ffn: columns };
  };
  assert.deepEqual(shares(["kv", "ffn"], 1, 0.25), { heads: 0.25, ffn: 0.25 });
  assert.deepEqual(shares(["kv", "ffn", "layers"], 0, 0.25), { heads: 0.25, ffn: 0.25 });
  assert.deepEqual(shares(["kv", "ffn", "layers"], 0.5, 0.25), { heads: 0.625, ffn: 0.625 });
  assert.deepEqual(shares(["kv", "ffn", "layers"], 1, 1), { heads: 1, ffn: 1 });
  assert.deepEqual(shares(["ffn", "layers"], 0.5, 0.25), { heads: 0.5, ffn: 0.625 });
});

Deno.test("the sparsity of a layer is the share of its parameters that is cut, in the unit of targets of layers", () => {
  // Per hidden dim: 2 · 6 of a head (q, o) and of a KV group (k, v), 3 of an FFN column.
  const table = unitTable(decoder([{ heads: 4, kvHeads: 2, ffn: 16 }]), ["heads", "ffn"]),
    total = 12 * (4 + 2) + 3 * 16;
  const sparsity = (cuts: readonly (readonly [unit: number, share: number])[]): number => {
    const all = new Float64Array(table.count);
    for (const [unit, share] of cuts) all[unit] = share;
    return layerShares(table, all)[0]?.sparsity ?? NaN;
  };
  const near = (value: number, expected: number): void => assert.ok(Math.abs(value - expected) < 1e-12, `${value}`);
  near(sparsity([]), 0);
  near(sparsity([[0, 1]]), 12 / total);
  near(sparsity([[0, 1], [1, 1]]), (24 + 12) / total); // K and V go with the last head of their group
  near(sparsity([[0, 0.5], [1, 0.5]]), (12 + 12 / 4) / total);
  near(sparsity([[table.ranges.ffn.first, 1], [table.ranges.ffn.first + 1, 0.5]]), 4.5 / total);
});

Deno.test("a schedule sees the layers as they are: hard under gradual saliency, at its own β and noise while masks are learned", async () => {
  await withShortDemo(async ({ model }) => {
    type Layers = readonly { readonly heads: number; readonly ffn: number }[];
    const seen: Layers[] = [], there: Layers[] = [];
    const watch: ScheduleDefinition = {
      sparsity: ({ layers, progress }) => {
        seen.push(layers);
        return 0.2 * progress;
      },
    };
    const hooks: RunHooks = {
      beforeStep: async ({ stage, table, masks }) => {
        if (stage === "prune") there.push(layerShares(table, keptBy(table, await masks()).map((kept) => 1 - kept)));
      },
    };
    await drive(model, { method: "gradual", schedule: defineSchedule(watch), hooks, steps: 12 });
    assert.deepEqual(seen, there);
    assert.ok(seen.at(-1)?.some(({ ffn }) => ffn > 0.1));

    seen.length = 0;
    const { records } = await drive(model, { schedule: defineSchedule({ ...watch, rates: { noise: 0.3 } }) });
    const told = records.filter(({ stage }) => stage === "prune").map(({ layers }) => layers);
    const both = told.slice(0, -1).flatMap((layers, step) => layers ? [[layers, seen[step + 1]] as const] : []);
    assert.ok(both.length > 0, "no record has layers");
    for (const [layers, next] of both) assert.deepEqual(next, layers);
  });
});

Deno.test("a schedule's target out of reach is refused at its step, for the whole and for a layer", async () => {
  await withDemo(async ({ model }) => {
    const rules = { protect: [0] }, units = ["ffn"] as const;
    const whole = defineSchedule({ sparsity: ({ step }) => step < 3 ? 0.1 : 0.9 });
    await rejects(drive(model, { schedule: whole, units, rules }), "input", { value: 0.9, names: ["step 3", 8] });
    const layers = defineSchedule({
      layers: ({ layers, step }) => layers.map((_, i) => i === 0 && step === 2 ? 0.5 : null),
    });
    await rejects(drive(model, { schedule: layers, units, rules }), "input", {
      value: 0.5,
      names: ["step 2", 8, "layer 0"],
    });
  });
});

Deno.test("targets of layers that leave the whole's out of reach are refused, but may follow it from behind", async () => {
  await withDemo(async ({ model }) => {
    const layers = defineSchedule({ layers: ({ layers, progress }) => layers.map(() => 0.2 * progress) });
    const sparsity = ({ progress }: ScheduleInput): number => Math.min(0.2, 0.3 * progress);
    for (const schedule of [layers, defineSchedule({ ...layers.definition, sparsity })]) {
      const { sparsity: { hard } } = (await drive(model, { schedule, postfinetune: 0 })).result;
      assert.ok(hard >= 0.2 - ROUNDING && hard < 0.21, `${hard}`);
    }
    const both = defineSchedule({ ...layers.definition, sparsity: ({ progress }) => 0.3 * progress });
    using run = prune(model, { ...BASE, schedule: both });
    let steps = 0;
    await rejects(
      async () => {
        for await (const { stage } of run) if (stage === "prune") steps++;
      },
      "input",
      { value: 0.3, names: ["step 7", 8] },
    );
    assert.equal(steps, 7);
    const ending = {
      layers: () => [0.1, 0.1, 0.1, 0.1, 0.1],
      end: ({ step }: ScheduleInput) => step === 3,
      sparsity: ({ progress }: ScheduleInput) => progress < 0.5 ? 0.1 : 0.3,
    };
    const { result } = await drive(model, { sparsity: 0.3, schedule: defineSchedule(ending), postfinetune: 0 });
    assert.ok(Number.isFinite(result.sparsity.hard));
  });
});

Deno.test("where a stage ends while targets of layers are behind the whole's, theirs are met, and an alarm says what is missing", async () => {
  await withShortDemo(async ({ model }) => {
    for (const last of [4, 7]) { // also before the very last step, at which they would have to agree
      const schedule = defineSchedule({
        sparsity: 0.3,
        layers: ({ layers, progress }) => layers.map(() => 0.2 * progress),
        end: ({ step }) => step === last,
      });
      const { records, result } = await drive(model, { sparsity: 0.3, schedule });
      assert.equal(records.filter(({ stage }) => stage === "prune").length, last);
      const { alarms, sparsity: { hard } } = result;
      assert.ok(hard >= 0.2 * last / 8 && hard < 0.2 * last / 8 + 0.03, `${hard}`);
      const alarm = alarms.find(({ monitor, message }) => monitor === "constraint" && /hard sparsity/.test(message));
      assert.match(alarm?.change ?? "", /let the schedule end later, or its targets/);
    }
  });
});

Deno.test("what an isolated schedule logs is told, where somebody listens", async () => {
  await using lair = new Lair();
  const schedule = await lair.write(scriptOf({ top: `console.log("hello");` })), lines: string[] = [];
  const counting = `import { defineSchedule } from "compresso";
    export default defineSchedule({ layers: ({ step, layers }) => (console.log("step " + step), layers.map(() => null)) });`;
  await withShortDemo(async ({ model }) => {
    await drive(model, { schedule, onScheduleLog: (line) => lines.push(line) });
    assert.ok(lines.includes("hello"), lines.join("\n"));
    lines.length = 0;
    await drive(model, { schedule: await lair.write(counting), onScheduleLog: (line) => lines.push(line) });
    assert.deepEqual(lines, [0, 1, 2, 3, 4, 5, 6, 7].map((step) => `step ${step}`));
  });
});

Deno.test("targets of single layers and frozen units hold, in training and in the hard masks", async () => {
  await withDemo(async ({ model }) => {
    const seen: number[][] = [];
    const schedule = defineSchedule({
      sparsity: 0.2,
      layers: ({ layers }) => layers.map((_, layer) => layer === 1 ? 0.4 : layer === 2 ? 0 : null),
      freeze: ({ step }) => step > 0 ? [{ layer: 0, kind: "ffn" }] : [],
      rates: { mask: 0.3, lora: ({ layers, step }) => (seen[step] = layers.map(({ ffn }) => ffn), 1e-4) },
    });
    const { result } = await drive(model, { schedule });
    const cut = model.spec.layers.map(({ ffn }, layer) => {
      const first = layer * ffn;
      return [...result.masks.ffn?.subarray(first, first + ffn) ?? []].filter((z) => z === 0).length / ffn;
    });
    assert.equal(cut[2], 0);
    assert.ok((cut[1] ?? 0) > 0.25, cut.join(" "));
    assert.ok(Math.abs(result.sparsity.hard - 0.2) < 0.01);
    // From the second step on layer 0 stays where the first one left it, while others move.
    const [, second = [], third = [], last = []] = [seen[0], seen[1], seen[2], seen.at(-1)];
    assert.equal(last[0], second[0]);
    assert.notEqual(third[3], second[3]);
  });
});

Deno.test("layers that are to be alike are that too where a schedule ends early, and what rows cannot reach is told with its step", async () => {
  await withShortDemo(async ({ model: { source, device, tokenizer, spec } }) => {
    const ffn = new Float32Array(maskSizes(spec).ffn).fill(1).fill(0, 0, 20);
    using model = await loadModelFrom(sliceModel(source, { masks: { ffn } }), { device, tokenizer });
    const early = defineSchedule({ sparsity: 0.01, end: ({ step }) => step === 2 });
    const atOnce = defineSchedule({ sparsity: 0.01, end: () => true });
    for (
      const [method, schedule] of [["compresso", early], ["gradual", early], ["compresso", atOnce], [
        "gradual",
        atOnce,
      ]] as const
    ) {
      const { result } = await drive(model, { method, layout: "uniform", units: ["ffn"], sparsity: 0.3, schedule });
      const { table, masks, sparsity, alarms } = result;
      const shape = selectedSpec(table, keptUnits(table, packMasks(model.spec, table.layout, masks)));
      assert.equal(new Set(shape.layers.map((layer) => layer.ffn)).size, 1, method);
      assert.ok(sparsity.hard > 0.01, method);
      assert.ok(alarms.some(({ monitor }) => monitor === "constraint"), method);
    }

    const most = mostUniform(unitTable(spec, ["ffn"], { minimum: { ffn: 40 } }));
    using run = prune(model, {
      ...{ ...BASE, layout: "uniform", units: ["ffn"], rules: { minimum: { ffn: 40 } }, sparsity: 0.1 },
      schedule: defineSchedule({ sparsity: ({ step }) => step < 3 ? 0.05 : most + 0.05 }),
    });
    await rejects(
      async () => {
        for await (const _ of run);
      },
      "input",
      { names: ["step 3", 8] },
    );
  });
});

Deno.test("a schedule that sorts the records steers a run the same isolated and trusted", async () => {
  await withShortDemo(async ({ model }) => {
    await using lair = new Lair();
    // It looks at the order first, and then has a median.
    const schedule = await lair.write(`import { defineSchedule } from "compresso";
export default defineSchedule({ sparsity: ({ progress, sparsity, records }) => {
  const rises = records.length > 1 && records.at(-1).loss > records.at(-2).loss;
  const median = records.sort((a, b) => a.loss - b.loss)[records.length >> 1]?.loss ?? 0;
  return sparsity * progress * (rises ? 0.5 : 1) / (1 + median);
} });`);
    const bits: string[] = [];
    for (const trustSchedule of [false, true]) {
      bits.push(bitsOf(await drive(model, { schedule, trustSchedule, prefinetune: 4, steps: 6 })));
    }
    assert.equal(bits[1], bits[0]);
  });
});

Deno.test("a schedule sets what the running saliency keeps of itself at each step", async () => {
  await withShortDemo(async ({ model }) => {
    const bits = async (memory: Curve): Promise<string> =>
      bitsOf(await drive(model, { schedule: defineSchedule({ rates: { saliencyDecay: memory } }) }));
    const half = await bits(0.5);
    assert.equal(half, bitsOf(await drive(model, { rates: { saliencyDecay: 0.5 } })));
    assert.notEqual(await bits(({ step }) => step < 4 ? 0.5 : 0.9), half);
  });
});

Deno.test("a checkpoint of another schedule is refused", async () => {
  await withShortDemo(async ({ model }) => {
    const path = await Deno.makeTempFile();
    await Deno.remove(path);
    const half = defineSchedule({ sparsity: 0.1 }), full = defineSchedule({ sparsity: 0.2 });
    await drive(model, { schedule: half, checkpoint: { path, every: 4 } });
    await rejects(drive(model, { schedule: full, checkpoint: { path, every: 4, resume: true } }), "mismatch", {
      names: "mayDiffer",
    });
    // However often it is asked, and it holds nothing.
    const bytes = model.device.bytes, before = await Deno.readFile(path);
    using run = prune(model, { ...BASE, schedule: full, checkpoint: { path, every: 4, resume: true } });
    for (let again = 0; again < 2; again++) await rejects(run.prepare(), "mismatch", { names: "mayDiffer" });
    assert.equal(model.device.bytes, bytes);
    assert.deepEqual(await Deno.readFile(path), before);
    await Deno.remove(path);
  });
});
