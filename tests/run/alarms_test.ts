// Failures provoked in real runs of the demo: each is found, named and acted on while it happens. On one device for all.
import assert from "node:assert/strict";
import { loadModel, type Model, prune, type PruneResult, pruneToFolder, type StepRecord } from "../../mod.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { loadModelFrom, type WeightSource } from "../../lib/model/mod.ts";
import type { Alarm, MonitorOptions, RunHandle } from "../../lib/run/mod.ts";
import { defineSchedule } from "../../lib/schedule/mod.ts";
import { sharedDevice } from "../device.ts";
import { BASE, failure, namesOf } from "./helpers/failures.ts";

/** Every alarm only warns, so that one run can go through many failures. */
const WARN: MonitorOptions = {
  collapse: { action: "warn" },
  oscillation: { action: "warn" },
  divergence: { action: "off" },
};

async function withDemo(work: (model: Model) => Promise<void>): Promise<void> {
  using model = await loadModel("demo", { device: await sharedDevice() });
  await work(model);
}

async function drive(
  model: Model,
  options: Partial<RunOptions>,
): Promise<{ records: StepRecord[]; result: PruneResult }> {
  using run = prune(model, { ...BASE, ...options });
  const records: StepRecord[] = [];
  for await (const record of run) records.push(record);
  return { records, result: run.result() };
}

Deno.test("masks that collapse, oscillate or leave a layer dead, and a constraint that is not met, are told at their step", async () => {
  await withDemo(async (model) => {
    const OPEN = 20, CLOSED = -20;
    const set = (run: RunHandle, valueOf: (unit: number) => number): void =>
      run.setLogAlpha(Float32Array.from({ length: run.table.count }, (_, unit) => valueOf(unit)));
    const beforeStep = (run: RunHandle): void => {
      const { step, table } = run;
      // Steps 1 to 4 all open; 5 without layer 1; 6 to 10 every third unit by turns; 11 and 12 without FFN.
      if (step < 4) set(run, () => OPEN);
      else if (step < 5) set(run, (unit) => table.layer[unit] === 1 ? CLOSED : OPEN);
      else if (step < 10) set(run, (unit) => unit % 3 === 0 && step % 2 === 0 ? CLOSED : OPEN);
      else set(run, (unit) => unit >= table.ranges.ffn.first ? CLOSED : OPEN);
    };
    // Nothing but the hook moves log α.
    const rates = { tracking: 0, mask: 0, lambda: 0, saliencyDecay: 1, warmup: 0.3 };
    const options = { steps: 12, prefinetune: 0, rates, hooks: { beforeStep } };
    const { records, result } = await drive(model, { ...options, monitors: WARN });
    const told = records.flatMap(({ alarms, step }) => {
      for (const alarm of alarms) assert.equal(alarm.step, step);
      return alarms;
    });
    assert.deepEqual(namesOf(told), [
      "constraint 4",
      "collapse 4",
      "dead-layer 5",
      "constraint 6",
      "collapse 6",
      "collapse 8",
      "collapse 10",
      ...["oscillation 10", "oscillation 10"], // KV groups and FFN columns
      "collapse 11",
    ]);
    assert.deepEqual(result.alarms, told);
    const messageAt = (name: string): string => {
      const alarm = told[namesOf(told).indexOf(name)];
      const options = alarm?.options.map(({ option, value }) => value === undefined ? option : `${option}=${value}`);
      return `${alarm?.message} / ${options?.join()}`;
    };
    assert.match(messageAt("collapse 4"), /collapse to one.*rates\.tracking=1/);
    assert.match(messageAt("dead-layer 5"), /layer 1 is dead: 100\.0 % of its heads .*rules\.protect=1/);
    assert.match(messageAt("oscillation 10"), /3\d\.\d % of the \w+ \w+ turned back 3 times .*rates\.mask/);
    assert.match(messageAt("collapse 11"), /collapse to zero: 100\.0 % of the FFN columns/);
    assert.match(messageAt("constraint 4"), /expected sparsity 0\.0 %, target 20\.0 %/);
    assert.deepEqual(records[4]?.layers?.map(({ heads, ffn }) => Math.round(heads + ffn)), [0, 2, 0, 0, 0]);
    // The same collapse stops a run that is to stop, at the same step.
    const stopped = await failure(model, { ...options, monitors: { ...WARN, collapse: { action: "stop" } } });
    assert.equal(stopped.error.code, "numeric");
    assert.match(stopped.error.message, /after step 4; .*'collapse'.*collapse to one/);
    assert.deepEqual([stopped.records.length, stopped.records.at(-1)?.alarms.at(-1)?.action], [4, "stop"]);
  });
});

Deno.test("hard masks off the target are told with the next record, and a layer that they leave dead", async () => {
  await withDemo(async (model) => {
    // Targets of single layers go before that of the whole.
    const schedule = defineSchedule({
      sparsity: 0.05,
      layers: ({ layers }) => layers.map((_, layer) => layer === 3 ? 1 : 0.2),
    });
    const monitors = { constraint: { action: "rollback" } } as const; // which would change nothing here
    const { records, result } = await drive(model, { schedule, monitors, prefinetune: 0, postfinetune: 1 });
    const told = result.alarms.filter(({ monitor }) => monitor === "constraint");
    assert.deepEqual(told.map(({ step, action, restored }) => [step, action, restored]), [[2, "warn", null]]);
    assert.match(told[0]?.message ?? "", /hard sparsity 3\d\.\d %, target 5\.0 %/);
    assert.match(told[0]?.change ?? "", /single layers and of the whole agree/);
    assert.deepEqual(records.at(-1)?.alarms.filter(({ monitor }) => monitor === "constraint"), told);
    assert.ok(
      result.alarms.some(({ monitor, message }) => monitor === "dead-layer" && message.startsWith("layer 3 is dead")),
    );
    assert.deepEqual(records.at(-1)?.layers?.[3], { heads: 1, ffn: 1, sparsity: 1 });
  });
});

Deno.test("a loss that runs away leads back with halved rates; the files show the way that was kept, and a resumed run the same", async () => {
  await withDemo(async (model) => {
    const folder = await Deno.makeTempDir();
    try {
      const rates = { lora: 0.1 };
      const run = async (name: string, stopAt: number | null, resume = false): Promise<StepRecord[]> => {
        const controller = new AbortController(), seen: StepRecord[] = [];
        const work = pruneToFolder(model, {
          ...BASE,
          rates,
          out: `${folder}/${name}`,
          checkpointEvery: 1000,
          resume,
          export: { formats: ["hf"] },
          signal: controller.signal,
          onRecord: (record) => {
            seen.push(record);
            if (record.step === stopAt) controller.abort(new Error("enough"));
          },
        });
        if (stopAt === null) await work;
        else await assert.rejects(work, /enough/);
        return seen;
      };
      const linesOf = async (name: string): Promise<StepRecord[]> =>
        (await Deno.readTextFile(`${folder}/${name}/records.jsonl`)).trimEnd().split("\n").map((line) =>
          JSON.parse(line)
        );
      const bits = (lines: readonly StepRecord[]): unknown[] =>
        lines.map(({ tokensPerSecond: _speed, gpuBytes: _bytes, ...record }) => record);

      const seen = await run("whole", null), lines = await linesOf("whole");
      assert.deepEqual(seen.map(({ step }) => step), [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6, 7, 8]);
      assert.deepEqual(lines.map(({ step }) => step), [1, 2, 3, 4, 5, 6, 7, 8]);
      const [alarm, ...others] = lines.flatMap(({ alarms }) => alarms);
      assert.deepEqual(others, []);
      assert.deepEqual([alarm?.monitor, alarm?.step, alarm?.action, alarm?.restored], ["divergence", 5, "rollback", 0]);
      assert.ok(alarm?.options.some(({ option }) => option === "rates.lora"));
      assert.deepEqual(lines[0]?.alarms, [alarm]);
      assert.deepEqual(
        lines.map(({ learningRate }) => learningRate),
        [0, 1, 2, 3, 4, 4, 4, 4].map((index) => (seen[index]?.learningRate ?? NaN) / 2),
      );
      const summary: { alarms: Alarm[] } = JSON.parse(await Deno.readTextFile(`${folder}/whole/run.json`));
      assert.deepEqual(summary.alarms, [alarm]);

      // Stopped right before the alarm, when a later state than the one to go back to was kept, and again after it.
      await run("parts", 4);
      await run("parts", 3, true);
      await run("parts", null, true);
      assert.deepEqual(bits(await linesOf("parts")), bits(lines));
      const weights = (name: string): Promise<Uint8Array> => Deno.readFile(`${folder}/${name}/model/model.safetensors`);
      assert.ok(Buffer.compare(await weights("parts"), await weights("whole")) === 0, "the models differ");
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
});

Deno.test("a run that diverges whatever its rates stops after so many ways back, and goes on from its checkpoint without the monitor", async () => {
  await withDemo(async (model) => {
    const path = await Deno.makeTempFile({ suffix: ".safetensors" });
    await Deno.remove(path);
    const options = { rates: { lora: 1 }, checkpoint: { path, every: 1000 } };
    const { error, records } = await failure(model, { ...options, monitors: { rollbacks: 1 } });
    assert.equal(error.code, "numeric");
    assert.match(
      error.message,
      /'divergence'.*runs away.*went back once before, and its rates were halved.*rates\.lora/,
    );
    const { step, alarms } = records.at(-1) ?? {};
    assert.deepEqual(alarms?.map(({ action }) => action), ["stop"]);
    const rest = await drive(model, {
      ...options,
      checkpoint: { ...options.checkpoint, resume: true },
      monitors: { divergence: { action: "off" } },
    });
    assert.ok((rest.records[0]?.step ?? 99) < (step ?? 0), "it goes on before the alarm");
    assert.equal(rest.records.at(-1)?.step, 8);
    assert.deepEqual(rest.result.alarms.map(({ monitor, action }) => [monitor, action]), [["divergence", "rollback"]]);
    await Deno.remove(path);
  });
});

Deno.test("a number that is not finite is traced to its tensor and step, in what is trained, in gradients and in the base", async () => {
  await withDemo(async (model) => {
    const broken = (change: (weights: Map<string, Float32Array>) => void, at = 2): Partial<RunOptions> => ({
      monitors: { nan: { action: "stop" } },
      hooks: {
        beforeStep: async (run) => {
          if (run.step !== at) return;
          const weights = await run.lora();
          change(weights);
          run.setLora(weights);
        },
      },
    });
    const trained = await failure(model, broken((weights) => weights.get("lora.1.v.A")?.fill(NaN, 3, 4)));
    assert.equal(trained.error.code, "numeric");
    assert.match(
      trained.error.message,
      /'nan'.*not finite at step 3 \(loss NaN.*first in lora\.1\.v\.A, element 3 is NaN/,
    );
    assert.deepEqual(trained.records.map(({ step }) => step), [1, 2, 3]);
    const overflow = await failure(model, broken((weights) => weights.get("lora.2.v.B")?.fill(3e38)));
    assert.match(
      overflow.error.message,
      /at step 3 .*first in (the gradient of lora\.2|the residual stream after layer 2)/,
    );
    const pruning = await failure(model, broken((weights) => weights.get("lora.1.v.A")?.fill(NaN, 3, 4), 7));
    assert.match(pruning.error.message, /at step 8 \(loss .*first in lora\.1\.v\.A, element 3 is NaN/);
    // Only once: the run goes back, and the second time all is well.
    let poisoned = false;
    const once = await drive(model, {
      monitors: {},
      hooks: {
        beforeStep: async (run) => {
          if (run.step !== 2 || poisoned) return;
          poisoned = true;
          const weights = await run.lora();
          weights.get("lora.0.q.B")?.fill(NaN);
          run.setLora(weights);
        },
      },
    });
    assert.deepEqual(once.result.alarms.map(({ monitor, step, action }) => [monitor, step, action]), [[
      "nan",
      3,
      "rollback",
    ]]);
    assert.match(once.result.alarms[0]?.message ?? "", /nothing when the step was repeated/);
    assert.equal(once.records.at(-1)?.step, 8);

    // A weight that is finite and too large, and one that is not finite, which is not even loaded.
    const name = "model.layers.2.mlp.up_proj.weight", { source, tokenizer, device } = model;
    const changed = (value: number): WeightSource => ({
      spec: source.spec,
      storedDtype: (tensor) => source.storedDtype(tensor),
      read: async (tensor, range) => {
        const values = await source.read(tensor, range);
        if (tensor === name && !range?.start) values[7] = value;
        return values;
      },
    });
    await assert.rejects(loadModelFrom(changed(NaN), { device, tokenizer }), /up_proj\.weight.*NaN at row 0, column 7/);
    using overflowing = await loadModelFrom(changed(3e38), { device, tokenizer, baseDtype: "f32" });
    const base = await failure(overflowing, {});
    assert.match(
      base.error.message,
      /after step 1; .*stream after layer 2 of the model as it was loaded.*up_proj\.weight, element 7 is 3\.0+\d*e\+38; fix/,
    );
  });
});

Deno.test("a step that is repeated to find a cause shows the schedule the records that it saw", async () => {
  await withDemo(async (model) => {
    const seen: (readonly [step: number, last: number | undefined])[] = [];
    const schedule = defineSchedule({
      sparsity: ({ step, records }) => {
        seen.push([step, records.at(-1)?.step]);
        return 0.1;
      },
      end: ({ step, records }) => records.at(-1)?.step !== 1 + step,
    });
    const hooks = {
      beforeStep: async (run: RunHandle): Promise<void> => {
        if (run.step !== 7) return;
        const weights = await run.lora();
        weights.get("lora.1.v.A")?.fill(NaN, 3, 4);
        run.setLora(weights);
      },
    };
    const options = { schedule, hooks, steps: 10, prefinetune: 1, monitors: { nan: { action: "stop" } } } as const;
    const check = ({ error }: Awaited<ReturnType<typeof failure>>): void => {
      assert.match(error.message, /at step 8 .*first in lora\.1\.v\.A, element 3 is NaN/);
      assert.deepEqual(seen.filter(([step, last]) => last !== 1 + step), []);
    };
    check(await failure(model, options));
    assert.ok(seen.length > 7, "no step was repeated");
    // Stopped between the state that is gone back to and the step, and resumed.
    const path = await Deno.makeTempFile({ suffix: ".safetensors" }), controller = new AbortController();
    await Deno.remove(path);
    await assert.rejects(async () => {
      using run = prune(model, { ...BASE, ...options, checkpoint: { path, every: 1000 }, signal: controller.signal });
      for await (const { step } of run) if (step === 6) controller.abort(new Error("enough"));
    }, /enough/);
    seen.length = 0;
    check(await failure(model, { ...options, checkpoint: { path, every: 1000, resume: true } }));
    await Deno.remove(path);
  });
});
