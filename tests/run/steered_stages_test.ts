// Schedules in the stages before and after pruning: LoRA's numbers there, what they see, and what is refused. On the demo model.
import assert from "node:assert/strict";
import { prune, type PruneOptions } from "../../mod.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { cosine, defineSchedule, linear, type ScheduleDefinition, type ScheduleInput } from "../../lib/schedule/mod.ts";
import { unitTable } from "../../lib/units/table.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { stepNumbers } from "../../lib/run/step.ts";
import { partsOf } from "../../lib/schedule/definition.ts";
import { stagesOf } from "../../lib/run/methods/stages.ts";
import { openSteerer } from "../../lib/run/steering.ts";
import { rejects } from "../refuses.ts";
import { BASE, bitsOf, drive, interrupted, ROUNDING, withShortDemo } from "./helpers/demo_run.ts";
import { Lair } from "./helpers/scripts.ts";
import { ratesSet } from "../../lib/run/schedule_parts.ts";

const { source: { spec: SPEC } } = await openModelFiles("demo");
const STAGES = { prefinetune: 4, steps: 4, postfinetune: 4 } as const;

Deno.test("a schedule sets LoRA's learning rate in every stage, by the progress of each", async () => {
  const schedule = defineSchedule({
    finetune: { lora: linear({ to: 1e-3 }) },
    rates: { lora: ({ step }) => 1e-4 * (step + 1) },
    postfinetune: { lora: cosine({ from: 1e-3, to: 0 }) },
  });
  const halfway = 1e-3 * (1 + Math.SQRT1_2) / 2;
  await withShortDemo(async ({ model }) => {
    const { records } = await drive(model, { ...STAGES, schedule });
    const rates = records.map(({ learningRate }) => learningRate);
    const expected = [2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-4, 2e-4, 3e-4, 4e-4, halfway, 5e-4, 1e-3 - halfway, 0];
    assert.ok(rates.every((rate, step) => Math.abs(rate - (expected[step] ?? NaN)) < 1e-12), String(rates));
    // A stage of which it says nothing is as without.
    const { postfinetune } = schedule.definition;
    const plain = (await drive(model, STAGES)).records;
    const other =
      (await drive(model, { ...STAGES, schedule: defineSchedule({ postfinetune: postfinetune ?? {} }) })).records;
    assert.deepEqual(other.slice(0, 8).map(({ loss }) => loss), plain.slice(0, 8).map(({ loss }) => loss));
    assert.deepEqual(other.slice(8).map(({ learningRate }) => learningRate), rates.slice(8));
  });
});

Deno.test("in stages before and after pruning a schedule sees their steps, the records, and layers as they are cut", async () => {
  const seen: ScheduleInput[] = [];
  const lora = (input: ScheduleInput): number => {
    seen.push(input);
    return 1e-3;
  };
  await withShortDemo(async ({ model }) => {
    const schedule = defineSchedule({ finetune: { lora }, postfinetune: { lora } });
    const { result } = await drive(model, { ...STAGES, schedule, units: ["ffn"] });
    assert.deepEqual(
      seen.map(({ stage, step, steps, progress, records }) => [stage, step, steps, progress, records.length]),
      [0, 1, 2, 3].map((step) => ["finetune", step, 4, (step + 1) / 4, step])
        .concat([0, 1, 2, 3].map((step) => ["postfinetune", step, 4, (step + 1) / 4, 8 + step])),
    );
    assert.deepEqual([...new Set(seen.map(({ records }) => records.at(-1)?.stage))], [
      undefined,
      "finetune",
      "prune",
      "postfinetune",
    ]);
    const { ffn: masks = new Float32Array() } = result.masks, width = model.spec.layers[0]?.ffn ?? 0;
    const cut = model.spec.layers.map((_, layer) =>
      masks.subarray(layer * width, (layer + 1) * width).filter((z) => z === 0).length / width
    );
    assert.ok(cut.some((share) => share > 0));
    for (const { stage, layers } of seen) {
      const now = stage === "finetune" ? cut.map(() => 0) : cut;
      assert.ok(
        layers.every(({ heads, ffn }, layer) => heads === 0 && Math.abs(ffn - (now[layer] ?? NaN)) < 1e-12),
        stage,
      );
    }
  });
});

Deno.test("clipping and weight decay of a stage are those that a schedule sets there", async () => {
  const options = { ...STAGES, steps: 1, postfinetune: 3 } as const;
  await withShortDemo(async ({ model }) => {
    const bits = async (definition: ScheduleDefinition, more: Partial<RunOptions> = {}): Promise<string> =>
      bitsOf(await drive(model, { ...options, ...more, schedule: defineSchedule(definition) }));
    for (const [name, value] of [["clipNorm", 1e-3], ["weightDecay", 5]] as const) {
      const all = { finetune: { [name]: value }, rates: { [name]: value }, postfinetune: { [name]: value } };
      const whole = await bits(all), given = await drive(model, { ...options, rates: { [name]: value } });
      assert.equal(whole, bitsOf(given), `${name} in all stages is that of the run`);
      for (const stage of ["finetune", "postfinetune"] as const) {
        assert.notEqual(await bits({ ...all, [stage]: {} }), whole, `${name} in ${stage}`);
      }
    }
  });
});

Deno.test("a run with a schedule of all stages that was interrupted in any of them ends with the same bits", async () => {
  await using lair = new Lair();
  const rate =
    "({ records, layers, progress }) => 1e-4 * (1 + progress + records.length + layers[0].ffn + (records.at(-1)?.loss ?? 0))";
  const schedule = await lair.write(
    `import { defineSchedule } from "compresso";\nconst lora = ${rate};\nexport default defineSchedule({ finetune: { lora }, rates: { lora }, postfinetune: { lora } });`,
  );
  await withShortDemo(async ({ model }) => {
    const options = { prefinetune: 3, steps: 3, postfinetune: 3, schedule }, whole = await drive(model, options);
    assert.equal(new Set(whole.records.map(({ learningRate }) => learningRate)).size, 9);
    for (const at of [2, 5, 8]) {
      assert.equal(bitsOf(await interrupted(model, options, at)), bitsOf(whole), `after step ${at}`);
    }
    const alike = await drive(model, { ...options, trustSchedule: true });
    assert.equal(bitsOf(alike), bitsOf(whole), "trusted");
  });
});

Deno.test("a one-shot method has the numbers of its recovery from a schedule, and none with parts of pruning", async () => {
  await withShortDemo(async ({ model }) => {
    const drives = async (definition: ScheduleDefinition): Promise<number[]> => {
      const given = {
        method: "magnitude",
        prefinetune: 1,
        steps: 2,
        postfinetune: 1,
        schedule: defineSchedule(definition),
      } as const;
      return (await drive(model, given)).records.map(({ learningRate }) => learningRate);
    };
    assert.deepEqual(await drives({ postfinetune: { lora: ({ step, steps }) => (step + 1) / 1000 / steps } }), [
      ...[0.00025, 0.0005, 0.00075, 0.001],
    ]);
    for (
      const part of [{ sparsity: 0.2 }, { rates: { lora: 1e-3 } }, { finetune: { lora: 1e-3 } }, { end: () => false }]
    ) {
      const [name = ""] = Object.keys(part);
      await rejects(drives({ ...part, postfinetune: { lora: 1e-3 } }), "usage", { value: name, names: "magnitude" });
    }
  });
});

Deno.test("learning_rate.ts leads LoRA's rate through all three stages of a run, and leaves the pruning as it is", async () => {
  const schedule = new URL("../../scripts/examples/learning_rate.ts", import.meta.url);
  await withShortDemo(async ({ model }) => {
    const options = { prefinetune: 2, steps: 3, postfinetune: 10 } as const;
    const { records } = await drive(model, { ...options, schedule }), plain = await drive(model, options);
    const rates = records.map(({ learningRate }) => learningRate), last = rates.slice(5);
    assert.deepEqual(rates.slice(0, 5), [5e-4, 1e-3, 1e-3, 1e-3, 1e-3]);
    assert.deepEqual([last[0], last[9]], [1e-3, 0], "up within the first tenth, then down to nothing");
    assert.ok(last.every((rate, step) => step === 0 || rate < (last[step - 1] ?? 0)), String(last));
    assert.deepEqual(records.map(({ target }) => target), plain.records.map(({ target }) => target));
  });
});

Deno.test("a schedule ends the stages before and after pruning, and a resumed run counts their steps anew", async () => {
  const ending = defineSchedule({
    finetune: { end: ({ step }) => step === 2 },
    postfinetune: { end: ({ records }) => records.length === 7 },
  });
  await withShortDemo(async ({ model }) => {
    const stages = ({ records }: Awaited<ReturnType<typeof drive>>): string =>
      ["finetune", "prune", "postfinetune"].map((name) => records.filter(({ stage }) => stage === name).length).join(
        " ",
      );
    const whole = await drive(model, { ...STAGES, schedule: ending });
    assert.equal(stages(whole), "2 4 1");
    assert.deepEqual([whole.steps, whole.records.at(-1)?.steps, whole.records[0]?.steps], [7, 10, 12]);
    for (const at of [1, 3, 6]) {
      const again = await interrupted(model, { ...STAGES, schedule: ending }, at);
      assert.deepEqual([bitsOf(again), again.steps], [bitsOf(whole), 7], `after step ${at}`);
    }
    // Before the first step nothing is trained there.
    const none = defineSchedule({ finetune: { end: () => true }, postfinetune: { end: () => true } });
    const bare = await drive(model, { ...STAGES, schedule: none });
    assert.deepEqual([stages(bare), bare.steps], ["0 4 0", 4]);
    const { hard } = bare.result.sparsity;
    assert.ok(hard >= 0.2 - ROUNDING && hard < 0.202, `${hard}`);
  });
});

Deno.test("a run whose last stage a schedule has ended goes on there with one that does not", async () => {
  await withShortDemo(async ({ model }) => {
    const folder = await Deno.makeTempDir(), checkpoint = { path: `${folder}/checkpoint.safetensors`, every: 1000 };
    try {
      const controller = new AbortController();
      const end = defineSchedule({
        finetune: { end: ({ step }) => step === 3 },
        postfinetune: { end: ({ step }) => step === 1 },
      });
      const hooks = {
        afterStage: (stage: string): void => {
          if (stage !== "postfinetune") return;
          controller.abort(new Error("enough"));
          throw controller.signal.reason;
        },
      };
      await assert.rejects(
        drive(model, { ...STAGES, schedule: end, hooks, checkpoint, signal: controller.signal }),
        /enough/,
      );
      const resumed = { ...checkpoint, resume: true, mayDiffer: ["schedule"] } as const;
      const { records, steps } = await drive(model, { ...STAGES, checkpoint: resumed });
      assert.deepEqual([records.map(({ step }) => step), steps], [[9, 10, 11], 11]);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
});

Deno.test("rates that a schedule sets in a stage are halved as the run's own, each by its stage", () => {
  const options = resolveOptions({ ...BASE, ...STAGES }, SPEC), set = { lora: 0.5, clipNorm: 0.25 };
  for (const [stage, steps] of [["finetune", 4], ["postfinetune", 4]] as const) {
    const at = (halved: Pick<Parameters<typeof stepNumbers>[1], "halvings" | "halvedBefore">): number[] => {
      const given = { options, steering: null, set };
      const { rates: now, rate } = stepNumbers({ stage, steps }, { stageStep: 1, ...halved }, given);
      return [rate, now.clipNorm];
    };
    assert.deepEqual(at({ halvings: 0 }), [0.5, 0.25]);
    assert.deepEqual(at({ halvings: 2 }), [0.125, 0.25]);
    const own = stage === "finetune" ? "lora" : "postfinetune", other = stage === "finetune" ? "postfinetune" : "lora";
    assert.deepEqual(at({ halvings: 0, halvedBefore: { [own]: 1 } }), [0.25, 0.25]);
    assert.deepEqual(at({ halvings: 0, halvedBefore: { [other]: 1 } }), [0.5, 0.25]);
  }
});

Deno.test("rates that another schedule gives a run anew are those that it sets in all stages that are left", () => {
  const stages = stagesOf(resolveOptions({ ...BASE, ...STAGES }, SPEC));
  const from = (stage: number, definition: ScheduleDefinition): readonly string[] =>
    ratesSet(partsOf(defineSchedule(definition)), stages.slice(stage));
  const lora = 1e-3, all = { finetune: { lora }, rates: { lora, mask: 0.1 }, postfinetune: { lora, end: () => false } };
  const whole = ["lora", "mask", "postfinetune"];
  assert.deepEqual([0, 1, 2].map((stage) => from(stage, all)), [whole, whole, ["postfinetune"]]);
  const others = { clipNorm: 1, dropout: 0.1 }, last = { postfinetune: { ...others, focus: 0.5 } };
  assert.deepEqual([0, 1, 2].map((stage) => from(stage, { rates: others, ...last })), [["focus"], [
    "clipNorm",
    "dropout",
    "focus",
  ], ["clipNorm", "dropout", "focus"]]);
  // The rate of pruning stays as it was halved where the schedule has none.
  assert.deepEqual([0, 1].map((stage) => from(stage, { finetune: { lora } })), [[], []]);
  assert.deepEqual([0, 1].map((stage) => from(stage, { rates: { lora } })), [[], ["lora"]]);
});

Deno.test("a rate that no step would use beside a schedule is refused, and numbers of a stage without steps", async () => {
  const table = unitTable(SPEC, ["kv", "ffn"]);
  const opens = async (
    definition: ScheduleDefinition,
    given: PruneOptions["rates"] = {},
    more: Partial<RunOptions> = {},
  ): Promise<readonly string[]> => {
    const options = resolveOptions({ ...BASE, ...STAGES, ...more }, SPEC);
    await using steerer = await openSteerer(table, options, { schedule: defineSchedule(definition), given });
    return steerer.scheduled(0);
  };
  const rate = { lora: 1e-3 }, finetune = rate, rates = rate, postfinetune = rate;
  await rejects(opens({ postfinetune }, { postfinetune: 1e-4 }), "usage", { value: [0.0001, "postfinetune.lora"] });
  await rejects(opens({ finetune, rates, postfinetune }, { lora: 1e-4 }), "usage", {
    value: [0.0001, "finetune.lora", "rates.lora", "postfinetune.lora"],
  });
  const clips = { rates: { clipNorm: 2 }, postfinetune: { clipNorm: 2 } };
  await rejects(opens(clips, { clipNorm: 1 }, { prefinetune: 0 }), "usage", { names: "'clipNorm'" });
  assert.deepEqual(await opens({ finetune, postfinetune }, { lora: 1e-4 }), ["postfinetune"]);
  assert.deepEqual(
    await opens({ finetune, rates, postfinetune }, { lora: 0 }),
    ["lora", "postfinetune"],
    "0 is of cells without LoRA",
  );
  await rejects(opens({ finetune, rates }, { lora: 1e-4, postfinetune: 1e-4 }), "usage", {
    value: ["finetune.lora", "rates.lora"],
    names: "'lora'",
  });
  assert.deepEqual(await opens({ finetune, rates }, { lora: 1e-4 }), ["lora"]);
  // The two may be given where they are the same, as to a one-shot method beside others.
  const both = { lora: 1e-4, postfinetune: 1e-4 }, one = { method: "magnitude" } as const;
  assert.deepEqual(await opens({ postfinetune: { clipNorm: 2 } }, both, one), ["clipNorm"]);
  await rejects(opens({ postfinetune }, both, one), "usage", { names: "'postfinetune'" });
  assert.deepEqual(await opens({ rates: { clipNorm: 2 }, postfinetune: { clipNorm: 2 } }, { clipNorm: 1 }), []);
  // A last stage with a rate of its own is trained, whatever the others are.
  const last = { lora: 0, postfinetune: 1e-3, clipNorm: 1 };
  await rejects(opens(clips, last, { prefinetune: 0 }), "usage", { names: "'clipNorm'" });
  await rejects(opens({ finetune }, {}, { prefinetune: 0 }), "usage", { names: ["finetune", "prefinetune"] });
  await rejects(opens({ postfinetune }, {}, { postfinetune: 0 }), "usage", { names: "postfinetune" });
});

Deno.test("what a schedule decides wrongly in another stage is named with the stage, and ends the run there", async () => {
  await withShortDemo(async ({ model }) => {
    const schedule = defineSchedule({ postfinetune: { lora: ({ step }) => step === 1 ? NaN : 1e-3 } });
    using run = prune(model, { ...BASE, schedule });
    let steps = 0;
    const loop = async (): Promise<void> => {
      for await (const _ of run) steps++;
    };
    await rejects(loop, "numeric", { value: "postfinetune.lora = NaN", names: "step 1" });
    assert.equal(steps, 10);
  });
});
