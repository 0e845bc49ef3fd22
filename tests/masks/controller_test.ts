// The property that pruning rests on: for any number of steps the expected sparsity follows the schedule, and the hard one meets the target to within one unit.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { layersAlike } from "../../lib/spec/decoder.ts";
import { SCHEDULE_NAMES } from "../../lib/schedule/builtin.ts";
import { largestUnit } from "../../lib/run/monitors/constraint.ts";
import { defaultRates } from "../../lib/run/options/rates.ts";
import type { UnitKind } from "../../lib/units/kinds/all.ts";
import type { UnitRules } from "../../lib/units/rules.ts";
import { mostSparsity, selectedSpec } from "../../lib/units/selection.ts";
import { unitParameters, type UnitTable, unitTable } from "../../lib/units/table.ts";
import { refuses } from "../refuses.ts";
import { type ControllerTrace, runController } from "../../scripts/controller_run.ts";
import { decoder, layerSparsityOf, MULTI_HEAD, UNEVEN } from "../units/helpers/decoders.ts";

const device: Device = await openDevice();
const SPEC = decoder(Array.from({ length: 4 }, () => ({ heads: 6, kvHeads: 3, ffn: 100 })), { hidden: 48, headDim: 8 });

/** Asserts ±1 % once the schedule has warmed up, and before. */
function assertFollows({ target, expected }: ControllerTrace, steps: number, what: string): void {
  const warm = Math.ceil(defaultRates(steps).warmup * steps);
  assert.equal(expected.length, steps);
  expected.forEach((sparsity, step) => {
    const gap = Math.abs(sparsity - (target[step] ?? NaN));
    assert.ok(gap <= 0.01, `${gap} from the schedule at step ${step}, ${step < warm ? "warming up" : "warm"}: ${what}`);
  });
}

/** Units that end below one that began below them: neither the common shift nor the clamp does that. */
function inversions({ start, logAlpha }: ControllerTrace): number {
  let highest = -Infinity, count = 0;
  for (const unit of [...start.keys()].sort((a, b) => (start[a] ?? 0) - (start[b] ?? 0))) {
    const value = logAlpha[unit] ?? NaN;
    if (value < highest - 1e-2) count++;
    highest = Math.max(highest, value);
  }
  return count;
}

/** Parameters of a column or of an aligned block of them, the smallest unit, as a share. */
function smallest(table: UnitTable): number {
  return table.rules.align * unitParameters(table, table.ranges.ffn.first) / table.total;
}

for (const steps of [60, 150, 1000]) {
  Deno.test(`in ${steps} steps expected sparsity follows the schedule, and hard sparsity meets the target`, async () => {
    for (const kinds of [["kv", "ffn"], ["heads", "ffn", "hidden"]] as const) {
      const table = unitTable(SPEC, kinds), trace = await runController(device, table, { steps, sparsity: 0.3 });
      const what = `${kinds}, ${steps} steps`;
      assertFollows(trace, steps, what);
      assert.ok(trace.hard >= 0.3 && trace.hard < 0.3 + smallest(table), `hard sparsity ${trace.hard}: ${what}`);
      assert.ok(trace.lambda1.some((value) => value !== 0) && trace.logAlpha.every(Number.isFinite), what);
      // Units move by their own gradients: the run is no mere threshold on where they began.
      assert.ok(inversions(trace) > table.count / 100, `${inversions(trace)} of ${table.count} units: ${what}`);
    }
  });
}

Deno.test("masks that become hard on the way cut what the schedule wants there, and looking changes no bit", async () => {
  const table = unitTable(SPEC, ["kv", "ffn"]), options = { steps: 60, sparsity: 0.3 };
  const plain = await runController(device, table, options);
  const { target, looked, logAlpha } = await runController(device, table, { ...options, looks: 20 });
  assert.deepEqual(looked.map(([step]) => step), Array.from({ length: 20 }, (_, look) => 3 * look + 3));
  for (const [step, hard] of looked) {
    const over = hard - (target[step - 1] ?? NaN);
    assert.ok(over >= 0 && over < smallest(table), `${over} too much at step ${step}`);
  }
  assert.deepEqual(logAlpha, plain.logAlpha);
});

Deno.test("the plot of docs/design/masks.md has sparsity, expected and hard, and λ for 60, 150 and 1,000 steps", async () => {
  const svg = await Deno.readTextFile(new URL("../../docs/images/controller.svg", import.meta.url));
  for (const steps of [60, 150, 1000]) assert.match(svg, new RegExp(`>${steps} steps<`));
  for (const name of ["schedule", "expected sparsity", "hard sparsity, cut at that step", "λ1", "λ2"]) {
    assert.equal(svg.split(`data-name="${name}"`).length - 1, 3, name);
  }
});

for (const schedule of SCHEDULE_NAMES) {
  Deno.test(`the ${schedule} schedule is followed too, by other models and in odd numbers of steps`, async () => {
    const cases = [
      [MULTI_HEAD, ["kv", "ffn"], 61, 0.45],
      [UNEVEN, ["heads", "ffn", "hidden"], 61, 0.2],
      [UNEVEN, ["kv", "ffn"], 397, 0.35],
    ] as const;
    for (const [spec, kinds, steps, sparsity] of cases) {
      const table = unitTable(spec, kinds), what = `${schedule}, ${kinds}, ${steps} steps`;
      const trace = await runController(device, table, { steps, sparsity, schedule });
      assertFollows(trace, steps, what);
      assert.equal(trace.target.at(-1), sparsity);
      // These layers differ in what a unit of them is: what is one too many may be of the largest kind.
      const over = trace.hard - sparsity;
      assert.ok(over > -1e-12 && over < largestUnit(table, "compact"), `hard sparsity ${trace.hard}: ${what}`);
    }
  });
}

Deno.test("it holds with gates, rules and other targets as well", async () => {
  const steps = 60;
  const cases: readonly (readonly [readonly ("heads" | "kv" | "ffn" | "hidden" | "layers")[], UnitRules, number])[] = [
    [["kv", "ffn", "layers"], {}, 0.4],
    [["heads", "ffn", "hidden", "layers"], { protect: [0] }, 0.25],
    [["kv", "ffn"], { protect: [0, 3], minimum: { heads: 2, ffn: 30 } }, 0.2],
    [["kv", "ffn", "hidden"], { minimum: { heads: 4, ffn: 60, hidden: 40 } }, 0.3],
    [["kv", "ffn"], { align: 16, minimum: { heads: 1, ffn: 50 } }, 0.3],
    [["ffn"], {}, 0.02],
    [["kv", "ffn"], {}, 0.8],
  ];
  for (const [kinds, rules, sparsity] of cases) {
    const table = unitTable(SPEC, kinds, rules), trace = await runController(device, table, { steps, sparsity });
    const what = `${kinds}, ${JSON.stringify(rules)}, ${sparsity}`;
    assertFollows(trace, steps, what);
    assert.ok(
      trace.hard >= sparsity && trace.hard < sparsity + smallest(table),
      `hard sparsity ${trace.hard}: ${what}`,
    );
  }
});

Deno.test("it holds for few steps and near the most that the rules allow, where single heads have to lie in few KV groups", async () => {
  const wide = decoder(Array.from({ length: 4 }, () => ({ heads: 9, kvHeads: 3, ffn: 100 })), {
    hidden: 48,
    headDim: 8,
  });
  const cases: readonly (readonly [typeof SPEC, readonly UnitKind[], UnitRules])[] = [
    [SPEC, ["heads"], { minimum: { heads: 2 } }],
    [SPEC, ["heads", "ffn"], { minimum: { heads: 2 } }],
    [wide, ["heads"], { minimum: { heads: 3 } }],
    [wide, ["heads"], { minimum: { heads: 6 } }],
    [SPEC, ["heads", "ffn", "hidden", "layers"], { minimum: { heads: 2, ffn: 10, hidden: 16, layers: 2 } }],
    [SPEC, ["kv", "ffn"], { minimum: { heads: 3 }, protect: [1] }],
  ];
  for (const [spec, kinds, rules] of cases) {
    const table = unitTable(spec, kinds, rules), most = mostSparsity(table), sparsity = most - 0.002;
    for (const steps of [5, 60]) {
      const trace = await runController(device, table, { steps, sparsity }), last = trace.expected.at(-1) ?? NaN;
      const what = `${kinds}, ${JSON.stringify(rules)}, ${steps} steps, ${sparsity} of ${most}`;
      assertFollows(trace, steps, what);
      assert.ok(Math.abs(last - sparsity) < 1e-4, `${last} at the end: ${what}`);
      assert.ok(trace.hard >= sparsity && trace.hard < most + 1e-9, `hard sparsity ${trace.hard}: ${what}`);
    }
  }
});

Deno.test("what stays at least is a whole group or block where masks are learned too, and a last one is no unit at all", () => {
  const rules = { minimum: { heads: 3, ffn: 33, hidden: 33 }, align: 16 };
  for (const [kinds, least] of [[["kv", "ffn"], [4, 48]], [["heads", "ffn"], [3, 48]]] as const) {
    const { attention, ffn } = unitTable(SPEC, kinds, rules).layers[0] ?? {};
    assert.deepEqual([attention?.minimum, ffn?.minimum], least);
  }
  const lone = decoder([{ heads: 2, kvHeads: 1, ffn: 8 }, { heads: 0, kvHeads: 0, ffn: 8 }]);
  refuses(() => unitTable(lone, ["kv", "ffn"]), "usage", { names: "kv" });
  assert.equal(unitTable(lone, ["heads", "ffn"]).ranges.ffn.first, 2);
});

Deno.test("a uniform layout is learned as such: layers shrink alike and end alike", async () => {
  for (
    const [kinds, rules] of [[["kv", "ffn"], {}], [["heads", "ffn", "hidden"], {}], [["kv", "ffn"], {
      align: 16,
    }]] as const
  ) {
    const table = unitTable(SPEC, kinds, rules), what = `${kinds}, ${JSON.stringify(rules)}`;
    const trace = await runController(device, table, { steps: 60, sparsity: 0.3, layout: "uniform" });
    assertFollows(trace, 60, what);
    assert.ok(layersAlike(selectedSpec(table, trace.kept)), what);
    // A row is a column, or an aligned block, in each of four layers.
    assert.ok(trace.hard >= 0.3 && trace.hard < 0.3 + 4 * smallest(table), `hard sparsity ${trace.hard}: ${what}`);
    // What is learned is uniform already: in every layer as many units are likely to live as stay.
    const { temperature, noise } = defaultRates(60);
    const alive = (first: number, count: number): number =>
      trace.logAlpha.subarray(first, first + count).reduce(
        (sum, alpha) => sum + 1 / (1 + Math.exp(-(alpha + temperature * Math.log(11)) / noise)),
        0,
      );
    const widths = table.layers.map(({ ffn }) => alive(ffn.first, ffn.count));
    assert.ok(Math.max(...widths) - Math.min(...widths) < 0.05, `${widths}: ${what}`);
  }
});

Deno.test("targets of single layers are followed beside that of the whole", async () => {
  const table = unitTable(SPEC, ["kv", "ffn"]), layerTargets = [0, null, 0.5, null];
  const trace = await runController(device, table, { steps: 60, sparsity: 0.3, layerTargets });
  assertFollows(trace, 60, "layers");
  assert.ok(trace.hard >= 0.3 && trace.hard < 0.3 + smallest(table), `hard sparsity ${trace.hard}`);
  assert.equal(layerSparsityOf(table, trace.kept, 0), 0);
  const reached = layerSparsityOf(table, trace.kept, 2);
  assert.ok(reached >= 0.5 && reached < 0.5 + 4 * smallest(table), `layer 2: ${reached}`);
});

Deno.test("controllers leave no buffer behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
