// Schedules as users write them: what is a schedule, what it sees, and the check of every value that it gives.
import assert from "node:assert/strict";
import { builtinSchedule, SCHEDULE_NAMES } from "../../lib/schedule/builtin.ts";
import { checkOutput, evaluateSchedule, type ScheduleOutput } from "../../lib/schedule/output.ts";
import {
  asSchedule,
  defineSchedule,
  type FrozenUnits,
  namedParts,
  partsOf,
  type RateName,
  type RecordView,
  type ScheduleDefinition,
  type ScheduleInput,
} from "../../lib/schedule/definition.ts";
import type { Rates, StepRates, StepRecord } from "../../lib/run/contract.ts";
import { openSchedule } from "../../lib/schedule/host.ts";
import { type Refusal, refuses } from "../refuses.ts";

const INPUT: ScheduleInput = {
  stage: "prune",
  progress: 0.25,
  step: 4,
  steps: 20,
  sparsity: 0.3,
  records: [],
  layers: [{ heads: 0.1, ffn: 0.2, sparsity: 0.15 }, { heads: 0.3, ffn: 0.4, sparsity: 0.35 }],
};

function evaluate(definition: ScheduleDefinition, input = INPUT): ScheduleOutput {
  return evaluateSchedule(defineSchedule(definition), input);
}

// These lines fail to compile where the names of the loop and those of schedules part.
const rateNames:
  & { readonly [rate in Exclude<keyof Rates, "postfinetune" | "spread" | "prior">]: RateName }
  & { readonly [rate in RateName]: keyof StepRates } = {
    lora: "lora",
    mask: "mask",
    lambda: "lambda",
    temperature: "temperature",
    noise: "noise",
    saliencyDecay: "saliencyDecay",
    warmup: "warmup",
    tracking: "tracking",
    logAlphaLimit: "logAlphaLimit",
    clipNorm: "clipNorm",
    weightDecay: "weightDecay",
    dropout: "dropout",
  };
const asView = (record: StepRecord): RecordView => record;

Deno.test("the schedule of the documentation holds 0.1 for half of the stage, then rises to 0.25", () => {
  const schedule = defineSchedule({
    sparsity: ({ progress }) => progress < 0.5 ? 0.1 : 0.1 + 0.3 * (progress - 0.5),
  });
  const at = (progress: number): number | null => evaluateSchedule(schedule, { ...INPUT, progress }).sparsity;
  assert.equal(at(0), 0.1);
  assert.equal(at(0.499), 0.1);
  assert.equal(at(0.75), 0.1 + 0.3 * 0.25);
  assert.equal(at(1), 0.25);
});

Deno.test("a schedule sees its input and may decide everything", () => {
  const output = evaluate({
    sparsity: 0.2,
    layers: ({ layers }) => layers.map(({ heads }, index) => index === 0 ? null : heads),
    freeze: ({ layers }) => layers.flatMap(({ ffn }, layer) => ffn > 0.3 ? [{ layer, kind: "ffn" }] : []),
    end: ({ step }) => step === 4,
    rates: { lora: ({ progress }) => 1e-3 * progress, temperature: 0.5 },
  });
  assert.deepEqual(output, {
    sparsity: 0.2,
    layers: [null, 0.3],
    freeze: [{ layer: 1, kind: "ffn" }],
    end: true,
    rates: { lora: 2.5e-4, temperature: 0.5 },
  });
});

Deno.test("what a schedule leaves out is left to the run", () => {
  const often = { layer: 0, kind: "ffn" } as const, heads = { layer: 0, kind: "heads" } as const;
  assert.deepEqual(evaluate({ freeze: () => [often, heads, ...Array(100).fill(often)] }).freeze, [often, heads]);
  const others = [{ layer: 0, kind: "layer" }, { kind: "hidden" }] as const;
  assert.deepEqual(evaluate({ freeze: () => [...others, ...others] }).freeze, others);
  const single = [{ layer: 1, kind: "ffn", units: [3, 3, 0] }, { kind: "hidden", units: [7] }] as const;
  assert.deepEqual(evaluate({ freeze: () => single }).freeze, [{ ...single[0], units: [3, 0] }, single[1]]);
  assert.deepEqual(evaluate({}), { sparsity: null, layers: null, freeze: [], end: false, rates: {} });
});

Deno.test("every number of the loop may be a curve, and none else", () => {
  for (const name of Object.values(rateNames)) {
    assert.deepEqual(evaluate({ rates: { [name]: () => 0.5 } }).rates, { [name]: 0.5 });
  }
  assert.ok(asView);
});

Deno.test("a number that needs no run to be out of range is refused where the schedule is defined", () => {
  const cases: readonly (readonly [ScheduleDefinition, Refusal])[] = [
    [{ sparsity: 30 }, { value: 30, names: "sparsity" }],
    [{ sparsity: NaN }, { value: "NaN", names: "sparsity" }],
    [{ rates: { lora: -1e-3 } }, { value: -0.001, names: "rates.lora" }],
    [{ rates: { temperature: 0 } }, { value: 0, names: "rates.temperature" }],
    [{ rates: { clipNorm: 0 } }, { value: 0, names: "rates.clipNorm" }],
  ];
  for (const [definition, refusal] of cases) refuses(() => defineSchedule(definition), "usage", refusal);
});

Deno.test("built-in schedules refuse a warm-up that is no share, and are told apart by it", async () => {
  for (const name of SCHEDULE_NAMES) {
    for (const warmup of [70, -0.1, NaN]) {
      refuses(() => builtinSchedule(name, { warmup }), "usage", { names: "[0, 1]" });
    }
    const identities = await Promise.all([0.5, 0.9].map(async (warmup) => {
      await using schedule = await openSchedule(builtinSchedule(name, { warmup }));
      return schedule.identity;
    }));
    assert.equal(new Set(identities).size, name === "constant" ? 1 : 2, name);
  }
});

Deno.test("a value that is not finite or out of range is refused with its name, value and step", () => {
  const number = (value: unknown): () => number => () => value as number;
  const cases: readonly (readonly [ScheduleDefinition, "input" | "numeric", string])[] = [
    [{ sparsity: number(NaN) }, "numeric", "sparsity = NaN"],
    [{ sparsity: number(undefined) }, "input", "sparsity = undefined"],
    [{ sparsity: number("0.1") }, "input", 'sparsity = "0.1"'],
    [{ sparsity: number(1n) }, "input", "sparsity = 1n"],
    [{ sparsity: () => 1 }, "input", "sparsity = 1"],
    [{ sparsity: () => -0.1 }, "input", "sparsity = -0.1"],
    [{ rates: { lora: number(Infinity) } }, "numeric", "rates.lora = Infinity"],
    [{ rates: { lambda: () => -1 } }, "input", "rates.lambda = -1"],
    [{ rates: { temperature: () => 0 } }, "input", "rates.temperature = 0"],
    [{ rates: { tracking: () => 2 } }, "input", "rates.tracking = 2"],
    [{ rates: { saliencyDecay: () => 1.5 } }, "input", "rates.saliencyDecay = 1.5"],
    // What f32 makes of them is infinite, or nothing.
    [{ rates: { noise: () => 1e39 } }, "input", "rates.noise = 1e+39"],
    [{ rates: { lambda: () => 1e300 } }, "input", "rates.lambda = 1e+300"],
    [{ rates: { temperature: () => 1e-50 } }, "input", "rates.temperature = 1e-50"],
    [{ layers: () => [0.1] }, "input", "1 entries"],
    [{ layers: () => [0.1, 1.1] }, "input", "layers[1] = 1.1"],
    [{ layers: () => new Array(2) }, "input", "layers[0] = undefined"],
    [{ layers: number(3) as unknown as () => number[] }, "input", "layers = 3"],
    [{ freeze: () => [{ layer: 2, kind: "ffn" }] }, "input", 'layer 2, kind "ffn"'],
    [{ freeze: () => [{ layer: 0, kind: "hidden" as "ffn" }] }, "input", 'layer 0, kind "hidden"'],
    [{ freeze: () => [{ layer: 0, kind: "ffn", unit: 1 } as FrozenUnits] }, "input", 'layer 0, kind "ffn", and "unit"'],
    [
      { freeze: () => [{ layer: 0, kind: "layer", units: [1] } as FrozenUnits] },
      "input",
      'layer 0, kind "layer", units a list',
    ],
    [{ freeze: () => [{ layer: 0, kind: "ffn", units: [0, -1] }] }, "input", "units with -1"],
    [{ freeze: () => [{ kind: "hidden", units: 3 as unknown as number[] }] }, "input", "units 3"],
    [{ end: number(1) as unknown as () => boolean }, "input", "end = 1"],
  ];
  for (const [definition, code, value] of cases) {
    refuses(() => evaluate(definition), code, { value, names: ["step 4", 20] });
  }
});

Deno.test("a rate may be as large as f32 can hold, and 0 or next to it where 0 is in range", () => {
  const rates = { logAlphaLimit: 3.4e38, lora: 0, mask: 1e-50, noise: 1e-300 };
  assert.deepEqual(evaluate({ rates }).rates, rates);
});

Deno.test("a schedule that changes what it is shown changes that for itself alone", () => {
  const record = { stage: "prune", target: 0.1, expected: 0.1, lambda1: 0, lambda2: 0, gradNorm: 1, learningRate: 0 };
  const records = [1, 2, 3].map((step) => ({ ...record, stage: "prune", step, loss: 4 - step }) as const);
  const input = { ...INPUT, records }, before = structuredClone(input);
  const schedule = asSchedule({
    definition: {
      sparsity: (seen: { step: number; records: { loss: number }[]; layers: { heads: number }[] }) => {
        seen.records.sort((a, b) => a.loss - b.loss).splice(1, 1);
        for (const layer of seen.layers) layer.heads = 9;
        seen.layers.length = 0;
        return 0.1 * (seen.step = 2);
      },
      layers: () => [null, 0.5],
    },
  });
  const { sparsity, layers } = evaluateSchedule(schedule, input);
  assert.deepEqual([sparsity, layers], [0.2, [null, 0.5]]);
  assert.deepEqual(input, before);
});

Deno.test("a schedule that throws is named with the step", () => {
  const broken = (): number => {
    throw new TypeError("no such record");
  };
  refuses(() => evaluate({ sparsity: broken }), "input", { value: "TypeError", names: ["step 4", 20] });
});

Deno.test("defineSchedule() refuses parts that do not exist or are neither number nor function", () => {
  const cases: readonly (readonly [unknown, Refusal])[] = [
    [{ sparcity: 0.1 }, { value: "sparcity" }],
    [{ rates: { beta: 0.1 } }, { value: "beta" }],
    [{ finetune: { mask: 0.1 } }, { names: ["clipNorm", "weightDecay"] }],
    [{ finetune: { focus: 0.5 } }, { value: "focus" }],
    [{ postfinetune: { focus: 0 } }, { value: 0, names: ["postfinetune.focus", 1] }],
    [{ rates: { dropout: 1 } }, { value: 1, names: ["rates.dropout", 0] }],
    [{ finetune: { end: true } }, { names: "finetune.end" }],
    [{ postfinetune: { lora: -1 } }, { names: "postfinetune.lora" }],
    [{ postfinetune: 1e-3 }, { value: 0.001 }],
    [{ sparsity: "0.1" }, { value: '"0.1"' }],
    [{ layers: [0.1] }, { names: "layers" }],
    [null, { value: "null" }],
  ];
  for (const [definition, message] of cases) {
    refuses(() => defineSchedule(definition as ScheduleDefinition), "usage", message);
  }
});

Deno.test("a schedule decides for a step of its stage alone, and says which parts it has", () => {
  const schedule = defineSchedule({
    sparsity: 0.1,
    rates: { mask: 0.2, lora: 0.3 },
    finetune: { lora: ({ stage, progress }) => stage === "finetune" ? progress : NaN },
    postfinetune: { weightDecay: 0.5, lora: 0.6 },
  });
  const at = (stage: ScheduleInput["stage"]): ScheduleOutput => evaluateSchedule(schedule, { ...INPUT, stage });
  const nothing = { sparsity: null, layers: null, freeze: [], end: false };
  assert.deepEqual(at("prune"), { ...nothing, sparsity: 0.1, rates: { mask: 0.2, lora: 0.3 } });
  assert.deepEqual(at("finetune"), { ...nothing, rates: { lora: INPUT.progress } });
  assert.deepEqual(at("postfinetune"), { ...nothing, rates: { lora: 0.6, weightDecay: 0.5 } });
  const parts = partsOf(schedule);
  assert.deepEqual(parts, [
    ...["sparsity", "rates", "finetune", "postfinetune", "rates.lora", "rates.mask", "finetune.lora"],
    ...["postfinetune.lora", "postfinetune.weightDecay"],
  ]);
  assert.deepEqual(namedParts([...parts, "finetune.mask", "rates.beta"]).toSorted(), parts.toSorted());
  assert.deepEqual(partsOf(defineSchedule({ finetune: {}, rates: {} })), []);
  // Names of the pruning stage are none in the others, whatever another process says.
  const said = checkOutput({ sparsity: 0.1, rates: { lora: 0.1, mask: 0.2 } }, { ...INPUT, stage: "finetune" });
  assert.deepEqual(said.rates, { lora: 0.1 });
});

Deno.test("asSchedule() takes what defineSchedule() gave, of any copy of this module, and nothing else", () => {
  const copy = { definition: { sparsity: 0.1 } };
  assert.equal(evaluateSchedule(asSchedule(copy), INPUT).sparsity, 0.1);
  for (const exported of [undefined, null, 0.3, { sparsity: 0.1 }, () => 0.1]) {
    refuses(() => asSchedule(exported), "input", { names: "defineSchedule" });
  }
});
