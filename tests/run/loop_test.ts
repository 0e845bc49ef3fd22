// The loop of a run: schedules steer it, hooks reach into it, methods choose units, and an interrupted run ends with the same bits. On the demo model.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import {
  compress,
  cubic,
  defineSchedule,
  demoData,
  type Device,
  hardSparsity,
  loadModel,
  type Model,
  openDevice,
  prune,
  type PruneOptions,
  type PruneResult,
  readRows,
  type RunHooks,
  type StepRecord,
} from "../../mod.ts";
import { magnitudeScores } from "../../lib/prune/baselines.ts";
import { hardenMasks } from "../../lib/prune/harden.ts";
import { priorShape } from "../../lib/prune/prior.ts";
import { selectionMasks, selectUnits, unitTable } from "../../lib/prune/units.ts";
import { keptBy } from "../../lib/run/chooser.ts";
import { readRun } from "../../lib/report/read_run.ts";
import { layerShares } from "../../lib/run/steering.ts";

const { rows } = await readRows(demoData("train"), { limit: 64 });
/** Of a quotient of whole numbers, where the target is met exactly. */
const ROUNDING = 1e-12;
const BASE = {
  rows,
  sparsity: 0.2,
  steps: 8,
  prefinetune: 1,
  postfinetune: 2,
  batch: 1,
  seq: 80,
  prompt: null,
} as const;

async function withDemo(work: (parts: { model: Model; device: Device }) => Promise<void>): Promise<void> {
  using device = await openDevice();
  using model = await loadModel("demo", { device });
  await work({ model, device });
}

async function drive(
  model: Model,
  options: Partial<PruneOptions>,
): Promise<{ records: StepRecord[]; result: PruneResult; steps: number }> {
  using run = prune(model, { ...BASE, ...options });
  const records: StepRecord[] = [];
  for await (const record of run) records.push(record);
  return { records, result: run.result(), steps: run.steps };
}

/** A hash of whatever of a run depends on neither clock nor what was freed before. */
function bitsOf({ records, result }: { records: StepRecord[]; result: PruneResult }): string {
  const steps = records.map(({ tokensPerSecond: _speed, gpuBytes: _bytes, ...record }) => record);
  const arrays = [...Object.values(result.masks), ...result.lora.weights.values(), result.logAlpha];
  const text = JSON.stringify([steps, result.sparsity, arrays.map((values) => [...values as Float32Array])]);
  return createHash("sha256").update(text).digest("hex");
}

/** Runs until step `at`, stops there, and goes on in a new run. */
async function interrupted(
  model: Model,
  options: Partial<PruneOptions>,
  at: number,
): Promise<ReturnType<typeof drive>> {
  const folder = await Deno.makeTempDir();
  try {
    const checkpoint = { path: `${folder}/checkpoint.safetensors`, every: 1000 };
    const controller = new AbortController();
    const seen: StepRecord[] = [];
    await assert.rejects(async () => {
      using run = prune(model, { ...BASE, ...options, checkpoint, signal: controller.signal });
      for await (const record of run) {
        seen.push(record);
        if (record.step === at) controller.abort(new Error("enough"));
      }
    }, /enough/);
    const rest = await drive(model, { ...options, checkpoint: { ...checkpoint, resume: true } });
    return { ...rest, records: [...seen, ...rest.records] };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("a schedule sets target, rates and end, and the masks become hard at its last target", async () => {
  await withDemo(async ({ model }) => {
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

Deno.test("a schedule sees the layers' state, and an error of its own names the step", async () => {
  await withDemo(async ({ model }) => {
    const seen: number[] = [];
    const schedule = defineSchedule({
      sparsity: ({ layers, step, sparsity }) => {
        seen.push(layers.reduce((sum, { ffn }) => sum + ffn, 0) / layers.length);
        return step === 6 ? 2 * sparsity + 1 : sparsity * step / 8;
      },
    });
    await assert.rejects(drive(model, { schedule }), /step 6/);
    assert.equal(seen.length, 7);
    assert.ok((seen[0] ?? 1) < 0.6 && (seen[6] ?? 0) > 0, seen.join(" "));
    // Before the first projection log α is centred: after it the share cut follows the targets upwards.
    for (let step = 2; step < 7; step++) assert.ok((seen[step] ?? 0) >= (seen[step - 1] ?? 0) - 1e-3, seen.join(" "));
  });
});

for (const method of ["compresso", "gradual"] as const) {
  Deno.test(`a run of the method ${method} with a schedule that was interrupted ends with the same bits`, async () => {
    await withDemo(async ({ model }) => {
      const schedule = defineSchedule({
        sparsity: cubic({ to: "target", warmup: 0.8 }),
        rates: { lora: ({ records }) => 1e-3 / (1 + records.length + (records.at(-1)?.loss ?? 0)) },
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

Deno.test("masks become hard at the β that the schedule had last", async () => {
  await withDemo(async ({ model }) => {
    const LAST = 0.1, WIDE = 2;
    const schedule = defineSchedule({ rates: { temperature: ({ progress }) => progress < 0.5 ? WIDE : LAST } });
    const { result } = await drive(model, { schedule, rates: { temperature: WIDE } });
    const { table, logAlpha, masks, sparsity: { target } } = result;
    const at = (temperature: number): number[] => [
      ...hardenMasks(table, Float32Array.from(logAlpha), { target, temperature, layout: "compact" }).ffn ?? [],
    ];
    assert.deepEqual([...masks.ffn ?? []], at(LAST));
    assert.notDeepEqual(at(WIDE), at(LAST));
  });
});

Deno.test("a schedule sees the layers as they are: hard under gradual saliency, at its own β and noise while masks are learned", async () => {
  await withDemo(async ({ model }) => {
    type Layers = readonly { readonly heads: number; readonly ffn: number }[];
    const seen: Layers[] = [], there: Layers[] = [];
    const watch = defineSchedule({
      sparsity: ({ layers, progress }) => {
        seen.push(layers);
        return 0.2 * progress;
      },
      rates: { noise: 0.3 },
    });
    const hooks: RunHooks = {
      beforeStep: async ({ stage, table, masks }) => {
        if (stage === "prune") there.push(layerShares(table, keptBy(table, await masks()).map((kept) => 1 - kept)));
      },
    };
    await drive(model, { method: "gradual", schedule: watch, hooks, steps: 12 });
    assert.deepEqual(seen, there);
    assert.ok(seen.at(-1)?.some(({ ffn }) => ffn > 0.1));

    seen.length = 0;
    const { records } = await drive(model, { schedule: watch });
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
    await assert.rejects(
      drive(model, { schedule: whole, units, rules }),
      /step 3 of 8.*at most 0\.\d+; now: sparsity = 0\.9/,
    );
    const layers = defineSchedule({
      layers: ({ layers, step }) => layers.map((_, i) => i === 0 && step === 2 ? 0.5 : null),
    });
    await assert.rejects(drive(model, { schedule: layers, units, rules }), /step 2 of 8: cannot cut 0\.5 of layer 0/);
  });
});

Deno.test("a resumed run whose records were lost in part, broken or not copied goes on with the lines that there are", async () => {
  await withDemo(async ({ model }) => {
    for (const damage of ["cut", "none"] as const) {
      const out = await Deno.makeTempDir(), path = `${out}/records.jsonl`;
      const run = async (resume: boolean, stopAt: number | null): Promise<void> => {
        const controller = new AbortController();
        await compress(model, {
          ...{ ...BASE, out, resume, checkpointEvery: 1000, export: { formats: ["hf"] }, signal: controller.signal },
          onRecord: ({ step }) => {
            if (step === stopAt) controller.abort(new Error("enough"));
          },
        });
      };
      await assert.rejects(run(false, 6), /enough/);
      const lines = (await Deno.readTextFile(path)).split("\n");
      if (damage === "none") await Deno.remove(path);
      else await Deno.writeTextFile(path, `${lines.slice(0, 3).join("\n")}\n${lines[3]?.slice(0, 20)}`);
      await run(true, null);
      const steps = (await readRun(out)).records.map(({ step }) => step);
      assert.deepEqual(steps, [...(damage === "cut" ? [1, 2, 3] : []), 7, 8, 9, 10, 11]);
      await Deno.remove(out, { recursive: true });
    }
  });
});

Deno.test("targets of single layers and frozen units hold, in training and in the hard masks", async () => {
  await withDemo(async ({ model }) => {
    const seen: number[][] = [];
    const schedule = defineSchedule({
      sparsity: 0.2,
      layers: ({ layers }) => layers.map((_, layer) => layer === 1 ? 0.4 : layer === 2 ? 0 : null),
      freeze: ({ step }) => step > 0 ? [{ layer: 0, kind: "ffn" }] : [],
      rates: { mask: 0.3, lora: ({ layers }) => (seen.push(layers.map(({ ffn }) => ffn)), 1e-4) },
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
    await assert.rejects(drive(model, { schedule, method: "gradual" }), /learned masks/);
  });
});

Deno.test("a checkpoint of another schedule is refused", async () => {
  await withDemo(async ({ model }) => {
    const path = await Deno.makeTempFile();
    await Deno.remove(path);
    const half = defineSchedule({ sparsity: 0.1 }), full = defineSchedule({ sparsity: 0.2 });
    await drive(model, { schedule: half, checkpoint: { path, every: 4 } });
    await assert.rejects(drive(model, { schedule: full, checkpoint: { path, every: 4, resume: true } }), /schedule/);
    await Deno.remove(path);
  });
});

Deno.test("gradual saliency holds hard masks at the schedule's target, of ones and zeros", async () => {
  await withDemo(async ({ model }) => {
    const { records, result } = await drive(model, { method: "gradual", steps: 12 });
    const pruning = records.filter(({ stage }) => stage === "prune");
    pruning.forEach(({ expected, target }, step) => {
      // Masks are chosen at every third step; until the next they stay.
      const wanted = step < 3 ? 0 : pruning[step - step % 3]?.target ?? NaN;
      if (step < 3) assert.equal(expected, 0);
      else {assert.ok(
          (expected ?? 0) >= wanted - ROUNDING && (expected ?? 1) < wanted + 0.002,
          `${step}: ${expected} of ${target}`,
        );}
    });
    assert.ok(Object.values(result.masks).every((values: Float32Array) => values.every((z) => z === 0 || z === 1)));
    assert.ok(result.sparsity.hard >= 0.2 - ROUNDING && result.sparsity.hard < 0.202);
  });
});

Deno.test("gradual saliency cuts all layers alike at every step where the layout is uniform, or says beforehand that it cannot", async () => {
  await withDemo(async ({ model }) => {
    const widths: string[] = [];
    const hooks: RunHooks = {
      afterStep: async ({ stage }, { table, masks }) => {
        if (stage !== "prune") return;
        const { ffn = new Float32Array(0) } = await masks();
        const kept = table.layers.map(({ ffn: { count } }, layer) =>
          ffn.slice(layer * count, (layer + 1) * count).reduce((sum, z) => sum + z, 0)
        );
        widths.push([...new Set(kept)].join(" "));
      },
    };
    await drive(model, { method: "gradual", layout: "uniform", units: ["ffn"], hooks, steps: 12 });
    assert.ok(widths.every((width) => !width.includes(" ")) && new Set(widths).size === 3, widths.join(", "));
    const stuck = { method: "gradual", layout: "uniform", rules: { protect: [0] } } as const;
    assert.throws(() => prune(model, { ...BASE, ...stuck }), /cannot cut all layers alike/);
  });
});

Deno.test("a FLAP run that went back has the compensation of one that did not", async () => {
  await withDemo(async ({ model }) => {
    const biasOf = async ({ source }: PruneResult): Promise<number[]> => [
      ...await source.read("model.layers.3.mlp.down_proj.bias"),
    ];
    const plain = await drive(model, { method: "flap" });
    let poisoned = false;
    const hooks: RunHooks = {
      beforeStep: async (run) => {
        if (run.step !== 8 || poisoned) return;
        poisoned = true;
        run.setLora(new Map([...await run.lora()].map(([name, values]) => [name, values.fill(NaN)])));
      },
    };
    const again = await drive(model, { method: "flap", hooks });
    assert.deepEqual(again.result.alarms.map(({ monitor, action }) => [monitor, action]), [["nan", "rollback"]]);
    assert.deepEqual([...again.result.masks.ffn ?? []], [...plain.result.masks.ffn ?? []]);
    assert.deepEqual(await biasOf(again.result), await biasOf(plain.result));
  });
});

Deno.test("the method magnitude cuts the units of least magnitude, and all its steps are recovery", async () => {
  await withDemo(async ({ model }) => {
    const { records, result } = await drive(model, { method: "magnitude" });
    assert.deepEqual(new Set(records.map(({ stage }) => stage)), new Set(["postfinetune"]));
    assert.equal(records.length, 11);
    const table = unitTable(model.spec, ["kv", "ffn"]);
    const kept = selectUnits(table, await magnitudeScores(model.source, table), { target: 0.2 });
    assert.equal(result.sparsity.hard, hardSparsity(table, kept));
    const wanted = selectionMasks(table, kept);
    assert.deepEqual([...result.masks.ffn ?? []], [...wanted.ffn]);
    assert.deepEqual([...result.masks.head ?? []], [...wanted.head]);
    const bare = await drive(model, { method: "magnitude", steps: 0, prefinetune: 0, postfinetune: 0 });
    assert.deepEqual([bare.records.length, bare.result.sparsity.hard], [0, result.sparsity.hard]);
    await assert.rejects(drive(model, { method: "magnitude", schedule: "linear" }), /schedule/);
  });
});

for (const method of ["random", "taylor", "wanda-sp", "flap"] as const) {
  Deno.test(`the method ${method} cuts to the target before its first step, as planned and resumable`, async () => {
    await withDemo(async ({ model, device }) => {
      const whole = await drive(model, { method });
      assert.equal(whole.records.length, 11);
      const { hard } = whole.result.sparsity;
      assert.ok(hard >= 0.2 - ROUNDING && hard < 0.203, `${hard}`);
      assert.ok(whole.result.peakGpuBytes <= whole.result.plannedGpuBytes, "more memory than planned");
      const again = await interrupted(model, { method }, 4);
      assert.equal(bitsOf(again), bitsOf(whole));
      const name = "model.layers.1.mlp.down_proj.bias";
      const biasOf = async ({ source }: PruneResult): Promise<number[]> => [...await source.read(name)];
      if (method === "flap") {
        const bias = await biasOf(whole.result);
        assert.ok(bias.some((value) => value !== 0));
        assert.deepEqual(await biasOf(again.result), bias);
      } else assert.equal(whole.result.source, model.source);
      assert.ok(device.liveCount > 0);
    });
  });
}

Deno.test("a FLAP run slices with its compensation, equal to the masked model", async () => {
  await withDemo(async ({ model, device }) => {
    const live = device.liveCount;
    {
      using run = prune(model, { ...BASE, method: "flap", steps: 2 });
      for await (const _ of run) { /* to its end */ }
      const { spec, maskedVsSliced } = await run.slice();
      assert.deepEqual(spec.biases, ["o", "down"]);
      assert.ok(maskedVsSliced.maxAbs < 1e-4 * maskedVsSliced.range);
    }
    assert.equal(device.liveCount, live);
  });
});

Deno.test("hooks follow steps and stages, and what they write holds from the next step on", async () => {
  await withDemo(async ({ model }) => {
    const calls: string[] = [];
    let lastLora: Float32Array | undefined;
    const hooks: RunHooks = {
      beforeStage: (stage) => void calls.push(`+${stage}`),
      afterStage: (stage) => void calls.push(`-${stage}`),
      beforeStep: ({ step }) => void calls.push(`${step}`),
      afterStep: async ({ stage, step }, run) => {
        calls.push(`${step}!`);
        if (stage !== "postfinetune") return;
        const weights = await run.lora(), masks = await run.masks();
        [lastLora] = weights.values();
        assert.ok(masks.ffn.some((z) => z === 0));
        if (step !== 5) return;
        for (const values of weights.values()) values.fill(0);
        run.setLora(weights);
        run.setMasks({ ...masks, ffn: masks.ffn.map(() => 1) });
      },
    };
    const { result } = await drive(model, { steps: 3, postfinetune: 1, hooks });
    const [prefix, rest] = [["+finetune", "0", "1!", "-finetune"], [
      "+prune",
      "1",
      "2!",
      "2",
      "3!",
      "3",
      "4!",
      "-prune",
    ]];
    assert.deepEqual(calls, [...prefix, ...rest, "+postfinetune", "4", "5!", "-postfinetune"]);
    assert.ok(
      lastLora?.every((value) => value === 0) &&
        [...result.lora.weights.values()].every((m) => m.every((v) => v === 0)),
    );
    assert.ok(result.masks.ffn?.every((z) => z === 1));
    await assert.rejects(
      drive(model, {
        hooks: {
          beforeStep: ({ step }) => {
            if (step === 2) throw new Error("no");
          },
        },
      }),
      /no/,
    );
  });
});

Deno.test("a prior far above all gradients orders the FFN columns of a layer by their gates, and no prior does not", async () => {
  await withDemo(async ({ model }) => {
    const table = unitTable(model.spec, ["ffn"]), shape = await priorShape(model.source, table);
    const ordered = async (prior: number): Promise<boolean[]> => {
      // log α stays where it starts.
      const rates = { prior, mask: 0, lambda: 0, tracking: 0, memory: 1 };
      const { result: { logAlpha } } = await drive(model, { units: ["ffn"], steps: 1, postfinetune: 0, rates });
      return table.layers.map(({ ffn: { first, count } }) => {
        const units = Array.from({ length: count }, (_, index) => first + index)
          .sort((a, b) => (shape[a] ?? NaN) - (shape[b] ?? NaN));
        return units.every((unit, at) => (logAlpha[unit] ?? NaN) >= (logAlpha[units[at - 1] ?? unit] ?? NaN));
      });
    };
    assert.deepEqual(await ordered(1e9), table.layers.map(() => true));
    assert.deepEqual(await ordered(0), table.layers.map(() => false));
  });
});
