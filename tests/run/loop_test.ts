// The loop of a run: hooks reach into it, methods choose units, and an interrupted run ends with the same bits. On the demo model.
import assert from "node:assert/strict";
import { prune, type PruneResult, pruneToFolder } from "../../mod.ts";
import { hardSparsity, type Ranking } from "../../lib/masks/mod.ts";
import type { RunHandle, RunHooks } from "../../lib/run/mod.ts";
import { defineSchedule } from "../../lib/schedule/mod.ts";
import { magnitudeScores, rankWithin } from "../../lib/masks/baselines.ts";
import { priorShape } from "../../lib/masks/prior.ts";
import { selectUnits } from "../../lib/units/selection.ts";
import { selectionMasks, unitTable } from "../../lib/units/table.ts";
import { readRun } from "../../lib/report/read_run.ts";
import { sparsityOf } from "../../lib/run/methods/kept.ts";
import { refuses, rejects } from "../refuses.ts";
import { BASE, bitsOf, drive, FEW, interrupted, ROUNDING, withDemo, withShortDemo } from "./helpers/demo_run.ts";

Deno.test("a resumed run whose records were lost in part, broken or not copied goes on with the lines that there are", async () => {
  await withShortDemo(async ({ model }) => {
    for (const damage of ["cut", "none"] as const) {
      const out = await Deno.makeTempDir(), path = `${out}/records.jsonl`;
      const run = async (resume: boolean, stopAt: number | null): Promise<void> => {
        const controller = new AbortController();
        await pruneToFolder(model, {
          ...{
            ...BASE,
            steps: 4,
            postfinetune: 1,
            out,
            resume,
            checkpointEvery: 1000,
            export: { formats: ["hf"] },
            signal: controller.signal,
          },
          onRecord: ({ step }) => {
            if (step === stopAt) controller.abort(new Error("enough"));
          },
        });
      };
      await assert.rejects(run(false, 4), /enough/);
      const lines = (await Deno.readTextFile(path)).split("\n");
      if (damage === "none") await Deno.remove(path);
      else await Deno.writeTextFile(path, `${lines.slice(0, 3).join("\n")}\n${lines[3]?.slice(0, 20)}`);
      await run(true, null);
      const steps = (await readRun(out)).records.map(({ step }) => step);
      assert.deepEqual(steps, [...(damage === "cut" ? [1, 2, 3] : []), 5, 6]);
      await Deno.remove(out, { recursive: true });
    }
  });
});

Deno.test("a run of a program in the folder of an earlier one is refused before anything is done, and that one stays", async () => {
  await withShortDemo(async ({ model }) => {
    const out = await Deno.makeTempDir(), files = ["records.jsonl", "run.json"];
    for (const name of files) await Deno.writeTextFile(`${out}/${name}`, "earlier\n");
    const onRecord = (): void => assert.fail("a step was done");
    await rejects(pruneToFolder(model, { ...BASE, out, onRecord }), "usage", { value: "run.json" });
    for (const name of files) assert.equal(await Deno.readTextFile(`${out}/${name}`), "earlier\n");
    await Deno.remove(out, { recursive: true });
  });
});

Deno.test("a loop over a run may be left, and another one goes on right there", async () => {
  await withShortDemo(async ({ model }) => {
    const folder = await Deno.makeTempDir(), schedule = `${folder}/schedule.ts`;
    await Deno.writeTextFile(
      schedule,
      `import { defineSchedule } from "./mod.ts"; export default defineSchedule({ sparsity: 0.2 });`,
    );
    // Records come from the GPU two at a time, or one by one where a schedule wants them.
    const long = { steps: 16, postfinetune: 0, monitors: { divergence: { action: "off" } } } as const;
    for (const options of [long, { steps: 2, postfinetune: 1, schedule }]) {
      const seen: number[] = [];
      using run = prune(model, { ...BASE, ...options });
      const all = Array.from({ length: run.steps }, (_, index) => index + 1);
      for (const _ of all) for await (const { step } of run) if (seen.push(step) > 0) break;
      refuses(() => run.result(), "usage");
      assert.deepEqual(seen, all);
      for await (const { step } of run) assert.fail(`step ${step} is none`);
      assert.ok(run.result().sparsity.hard >= 0.2 - ROUNDING);
    }
    await Deno.remove(folder, { recursive: true });
  });
});

Deno.test("gradual saliency holds hard masks at the schedule's target, of ones and zeros", async () => {
  await withShortDemo(async ({ model }) => {
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

Deno.test("gradual saliency without a warm-up is not blamed for what it has not chosen yet", async () => {
  await withShortDemo(async ({ model }) => {
    const { records } = await drive(model, {
      method: "gradual",
      rates: { warmup: 0 },
      monitors: { constraint: { action: "stop" } },
    });
    const pruning = records.filter(({ stage }) => stage === "prune");
    assert.deepEqual(pruning.slice(0, 3).map(({ target, expected }) => [target, expected]), Array(3).fill([0.2, 0]));
    assert.ok(pruning.slice(3).every(({ expected }) => expected !== null && expected >= 0.2 - ROUNDING));
    assert.deepEqual(records.flatMap(({ alarms }) => alarms), []);
  });
});

Deno.test("records of gradual saliency say the sparsity of the masks that a step had, those of a hook too", async () => {
  await withShortDemo(async ({ model }) => {
    const seen: (readonly [number | null, number])[] = [];
    const hooks: RunHooks = {
      beforeStep: async (run) => {
        const masks = await run.masks();
        if (run.step === 5) run.setMasks({ ...masks, ffn: masks.ffn.map(() => 1) });
      },
      afterStep: async ({ stage, expected }, { table, masks }) => {
        if (stage === "prune") seen.push([expected, sparsityOf(table, await masks())]);
      },
    };
    await drive(model, { method: "gradual", steps: 6, postfinetune: 0, hooks });
    for (const [expected, sparsity] of seen) assert.equal(expected, sparsity);
    assert.equal(new Set(seen.map(([, sparsity]) => sparsity)).size, 3);
  });
});

Deno.test("gradual saliency cuts all layers alike at every step where the layout is uniform, or says beforehand that it cannot", async () => {
  await withShortDemo(async ({ model }) => {
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
    await drive(model, {
      method: "gradual",
      layout: "uniform",
      units: ["ffn"],
      hooks,
      steps: 12,
      rates: { warmup: 0.7 },
    });
    assert.ok(widths.every((width) => !width.includes(" ")) && new Set(widths).size === 3, widths.join(", "));
    const stuck = { method: "gradual", layout: "uniform", rules: { protect: [0] } } as const;
    refuses(() => prune(model, { ...BASE, ...stuck }), "usage", { value: "layer 0" });
  });
});

Deno.test("a FLAP run that went back has the compensation of one that did not", async () => {
  await withShortDemo(async ({ model }) => {
    const biasOf = async ({ source }: PruneResult): Promise<number[]> => [
      ...await source.read("model.layers.1.mlp.down_proj.bias"),
    ];
    const flap = { method: "flap", ...FEW } as const;
    const plain = await drive(model, flap);
    let poisoned = false;
    const hooks: RunHooks = {
      beforeStep: async (run) => {
        if (run.step !== 8 || poisoned) return;
        poisoned = true;
        run.setLora(new Map([...await run.lora()].map(([name, values]) => [name, values.fill(NaN)])));
      },
    };
    const again = await drive(model, { ...flap, hooks });
    assert.deepEqual(again.result.alarms.map(({ monitor, action }) => [monitor, action]), [["nan", "rollback"]]);
    assert.deepEqual([...again.result.masks.ffn ?? []], [...plain.result.masks.ffn ?? []]);
    assert.deepEqual(await biasOf(again.result), await biasOf(plain.result));
  });
});

Deno.test("the method magnitude cuts the units of least magnitude of each layer, and all its steps are recovery", async () => {
  await withShortDemo(async ({ model }) => {
    const { records, result } = await drive(model, { method: "magnitude" });
    assert.deepEqual(new Set(records.map(({ stage }) => stage)), new Set(["postfinetune"]));
    assert.equal(records.length, 11);
    const table = unitTable(model.spec, ["kv", "ffn"]);
    const places = rankWithin(table, await magnitudeScores(model.source, table));
    const kept = selectUnits(table, places, { target: 0.2 });
    assert.equal(result.sparsity.hard, hardSparsity(table, kept));
    const wanted = selectionMasks(table, kept);
    assert.deepEqual([...result.masks.ffn ?? []], [...wanted.ffn]);
    assert.deepEqual([...result.masks.head ?? []], [...wanted.head]);
    const bare = await drive(model, { method: "magnitude", steps: 0, prefinetune: 0, postfinetune: 0 });
    assert.deepEqual([bare.records.length, bare.result.sparsity.hard], [0, result.sparsity.hard]);
    await rejects(drive(model, { method: "magnitude", schedule: "linear" }), "usage", {
      option: "schedule",
      value: "linear",
    });
  });
});

Deno.test("ranking by layer takes the same share of each, and only one-shot methods know it", async () => {
  await withDemo(async ({ model }) => {
    const bare = { steps: 0, prefinetune: 0, postfinetune: 0, units: ["ffn"] } as const;
    const { layers: [first] } = model.spec, ffn = first?.ffn ?? NaN;
    const widths = async (ranking?: Ranking): Promise<number[]> => {
      const { result } = await drive(model, { ...bare, method: "magnitude", ...(ranking ? { ranking } : {}) });
      assert.ok(result.sparsity.hard >= 0.2 - ROUNDING && result.sparsity.hard < 0.203);
      return model.spec.layers.map((_, layer) =>
        Array.from(result.masks.ffn ?? []).slice(layer * ffn, (layer + 1) * ffn).reduce((sum, z) => sum + z, 0)
      );
    };
    const alike = await widths("layer"), free = await widths("all");
    assert.ok(Math.max(...alike) - Math.min(...alike) <= 1, alike.join(" "));
    assert.ok(Math.max(...free) - Math.min(...free) > 10, free.join(" "));
    assert.deepEqual(await widths(), alike);
    refuses(() => prune(model, { ...BASE, ranking: "layer" }), "usage", { option: "ranking" });
    const wanda = { ...BASE, method: "wanda-sp", ranking: "all" } as const;
    refuses(() => prune(model, wanda), "usage", { option: "ranking", value: "all" });
  });
});

for (const method of ["random", "taylor", "wanda-sp", "flap"] as const) {
  Deno.test(`the method ${method} cuts to the target before its first step, as planned and resumable`, async () => {
    await withShortDemo(async ({ model, device }) => {
      const options = { method, steps: 3, ...(method === "wanda-sp" || method === "flap" ? FEW : {}) };
      const whole = await drive(model, options);
      assert.equal(whole.records.length, 6);
      const { hard } = whole.result.sparsity;
      assert.ok(hard >= 0.2 - ROUNDING && hard < 0.203, `${hard}`);
      assert.ok(whole.result.peakGpuBytes <= whole.result.plannedGpuBytes, "more memory than planned");
      const again = await interrupted(model, options, 4);
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
  await withShortDemo(async ({ model, device }) => {
    const live = device.liveCount;
    {
      using run = prune(model, { ...BASE, method: "flap", batch: 4, steps: 1 });
      for await (const _ of run) { /* to its end */ }
      const { spec, maskedVsSliced } = await run.slice();
      assert.deepEqual(spec.biases, ["o", "down"]);
      assert.ok(maskedVsSliced.maxAbs < 1e-4 * maskedVsSliced.range);
    }
    assert.equal(device.liveCount, live);
  });
});

Deno.test("hooks follow steps and stages, and what they write holds from the next step on", async () => {
  await withShortDemo(async ({ model }) => {
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

Deno.test("log α that a hook sets is refused where it is of another length or not finite, and the device goes on", async () => {
  await withShortDemo(async ({ model }) => {
    const { count } = unitTable(model.spec, ["kv", "ffn"]);
    const cases = [
      [new Float32Array(3), "3 values"],
      [new Float32Array(count + 7), `${count + 7} values`],
      [new Float32Array(count).fill(NaN, 5), "value 5 is NaN"],
    ] as const;
    for (const [values, value] of cases) {
      const hooks: RunHooks = { beforeStep: (run) => run.stage === "prune" ? run.setLogAlpha(values) : undefined };
      await rejects(drive(model, { hooks, steps: 2 }), "input", { value, names: count });
    }
    const hooks: RunHooks = { beforeStep: async (run) => run.setLogAlpha(await run.logAlpha()) };
    assert.equal((await drive(model, { hooks, steps: 2, postfinetune: 0 })).records.length, 3);
  });
});

Deno.test("a run that is stopped within a step has what its hooks wrote before it once", async () => {
  await withShortDemo(async ({ model }) => {
    const change = async (run: RunHandle): Promise<void> => {
      run.setLora(new Map([...await run.lora()].map(([name, values]) => [name, values.map((value) => 0.8 * value)])));
      run.setLogAlpha(Float32Array.from(await run.logAlpha(), (value) => 0.9 * value));
    };
    const hooks: RunHooks = { beforeStage: (_, run) => change(run), beforeStep: change };
    // It sees the layers as they are before the hook.
    const schedule = defineSchedule({ rates: { lora: ({ layers }) => 1e-3 * (1 + (layers[2]?.ffn ?? 0)) } });
    const options = { hooks, schedule, steps: 5, postfinetune: 1 }, whole = bitsOf(await drive(model, options));
    // The first of its stage, and another one.
    for (const within of [1, 4]) {
      assert.equal(bitsOf(await interrupted(model, options, { within })), whole, `in step ${within}`);
    }
  });
});

Deno.test("log α that a hook sets before the pruning stage is where learned masks start", async () => {
  await withShortDemo(async ({ model }) => {
    let own: number[] = [];
    const hooks: RunHooks = {
      beforeStage: async (stage, run) => {
        if (stage !== "prune") return;
        const start = await run.logAlpha();
        own = [...start.toReversed()];
        assert.notDeepEqual(own, [...start]);
        run.setLogAlpha(Float32Array.from(own));
      },
    };
    // log α stays where it starts.
    const rates = { mask: 0, lambda: 0, tracking: 0, saliencyDecay: 1 };
    const { result } = await drive(model, { steps: 2, postfinetune: 0, rates, hooks });
    assert.deepEqual([...result.logAlpha], own);
  });
});

Deno.test("a prior far above all gradients orders the FFN columns of a layer by their gates, and no prior does not", async () => {
  await withShortDemo(async ({ model }) => {
    const table = unitTable(model.spec, ["ffn"]), shape = await priorShape(model.source, table);
    const ordered = async (prior: number): Promise<boolean[]> => {
      // log α stays where it starts.
      const rates = { prior, mask: 0, lambda: 0, tracking: 0, saliencyDecay: 1 };
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
