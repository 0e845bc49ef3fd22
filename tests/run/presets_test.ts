// The published settings as a preset, and the numbers of the loop as options: what they resolve to, and short runs with them on the demo.
import assert from "node:assert/strict";
import { loadModel, type Model, prune, type PruneResult, readRows, type StepRecord } from "../../mod.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { demoData, readPeftAdapter } from "../../lib/model/mod.ts";
import { constantLogAlpha } from "../../lib/masks/initial_log_alpha.ts";
import { unitTable } from "../../lib/units/table.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { decidingOptions } from "../../lib/run/identity.ts";
import { type Refusal, refuses } from "../refuses.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { resolveRates } from "../../lib/run/options/rates.ts";
import { sharedDevice } from "../device.ts";

const { source: { spec } } = await openModelFiles("demo");
const { rows } = await readRows(demoData("train"), { limit: 64 });
const BASE = { rows, sparsity: 0.2, steps: 80 } as const;

async function drive(
  model: Model,
  options: Partial<RunOptions>,
  out?: string,
): Promise<{ readonly records: readonly StepRecord[]; readonly result: PruneResult }> {
  using run = prune(model, { ...BASE, batch: 1, seq: 64, prompt: null, ...options });
  const records: StepRecord[] = [];
  for await (const record of run) records.push(record);
  if (out) await run.export(out, { dtype: "f32", formats: ["hf"], saveAdapter: true });
  return { records, result: run.result() };
}

Deno.test("the preset paper is the published settings", () => {
  const { rates, lora, units, start, keptMasks, lambdaRule, prefinetune, postfinetune, preset } = resolveOptions(
    { ...BASE, preset: "paper" },
    spec,
  );
  assert.deepEqual(rates, {
    lora: 5e-5,
    postfinetune: 4e-4,
    mask: 0.1,
    lambda: 0.1,
    temperature: 2 / 3,
    noise: 1,
    spread: rates.spread, // of no use where log α starts from a constant
    saliencyDecay: rates.saliencyDecay, // likewise
    prior: rates.prior,
    warmup: 4 / 7,
    tracking: 0,
    logAlphaLimit: Math.log(1e2),
    clipNorm: 1,
    weightDecay: 0,
  });
  assert.deepEqual(lora, { rank: 8, alpha: 8, targets: ["q", "v"], dropout: 0 });
  assert.deepEqual([units, start, preset], [["heads", "ffn", "hidden"], "constant", "paper"]);
  assert.deepEqual([keptMasks, lambdaRule], ["sigmoid", "adam"]);
  assert.deepEqual([prefinetune, postfinetune], [11, 34]); // of 80 steps: 1, 7 and 3 epochs
});

Deno.test("the constant start is that of each kind, give or take 0.01, by the seed", () => {
  const table = unitTable(spec, ["heads", "ffn", "hidden"]),
    { ranges: { ffn: { first: ffnFirst } }, ranges: { hidden: { first: hiddenFirst } }, count } = table;
  const values = constantLogAlpha(table, { seed: 1 });
  for (
    const [from, to, mean] of [[0, ffnFirst, 10], [ffnFirst, hiddenFirst, Math.log(99)], [
      hiddenFirst,
      count,
      10,
    ]] as const
  ) {
    const own = [...values.subarray(from, to)], n = own.length;
    const average = own.reduce((sum, value) => sum + value, 0) / n;
    const deviation = Math.sqrt(own.reduce((sum, value) => sum + (value - mean) ** 2, 0) / n);
    // Five standard errors.
    assert.ok(Math.abs(average - mean) < 0.05 / Math.sqrt(n), `${average}, not ${mean}`);
    assert.ok(Math.abs(deviation - 0.01) < 0.05 / Math.sqrt(2 * n), `${deviation}`);
  }
  assert.deepEqual(constantLogAlpha(table, { seed: 1 }), values);
  assert.notDeepEqual(constantLogAlpha(table, { seed: 2 }), values);
});

Deno.test("an option beside a preset wins, and without one the recovery has the rate of LoRA", () => {
  const given: Partial<RunOptions> = {
    preset: "paper",
    units: ["ffn"],
    start: "saliency",
    prefinetune: 3,
    postfinetune: 4,
    lora: { rank: 2 },
    rates: { noise: 0.2, postfinetune: 1e-3, logAlphaLimit: 50 },
  };
  const resolved = resolveOptions({ ...BASE, ...given }, spec);
  assert.deepEqual([resolved.units, resolved.start, resolved.prefinetune, resolved.postfinetune], [
    ["ffn"],
    "saliency",
    3,
    4,
  ]);
  assert.deepEqual(resolved.lora, { rank: 2, alpha: 8, targets: ["q", "v"], dropout: 0 });
  const { noise, postfinetune, logAlphaLimit, lora, mask } = resolved.rates;
  assert.deepEqual([noise, postfinetune, logAlphaLimit, lora, mask], [0.2, 1e-3, 50, 5e-5, 0.1]);
  const rates = (options: Partial<RunOptions>): number[] => {
    const { lora, postfinetune } = resolveOptions({ ...BASE, ...options }, spec).rates;
    return [lora, postfinetune];
  };
  assert.deepEqual(rates({}), [1e-3, 1e-3]);
  assert.deepEqual(rates({ rates: { lora: 1e-3 } }), [1e-3, 1e-3]);
  assert.deepEqual(rates({ rates: { postfinetune: 1e-4 } }), [1e-3, 1e-4]);
  assert.deepEqual(rates({ preset: "paper", rates: { lora: 1e-3 } }), [1e-3, 1e-3]);
});

Deno.test("what is given as undefined has its default, by itself, of a preset and of a size", () => {
  const { sparsity: _sparsity, ...base } = BASE,
    size = { bytes: 1e6, file: { format: "gguf", dtype: "q8_0" } } as const;
  const none: Record<string, unknown> = {
    rules: { align: undefined, protect: undefined },
    lora: { targets: undefined, rank: undefined },
    rates: Object.fromEntries(Object.keys(resolveRates(8, {})).map((name) => [name, undefined])),
  };
  for (const plain of [BASE, { ...BASE, preset: "paper" as const }, { ...base, size }]) {
    assert.deepEqual(resolveOptions({ ...plain, ...none }, spec), resolveOptions(plain, spec));
  }
  assert.equal(resolveOptions({ ...base, size, ...none }, spec).rules.align, 32);
});

Deno.test("rates without steps that use them, and rules of units that are not cut, are refused", () => {
  const none = { steps: 0, prefinetune: 0, postfinetune: 0, method: "flap" };
  const refused: readonly (readonly [Record<string, unknown>, Refusal])[] = [
    [{ method: "flap", rates: { lora: 1e-3, postfinetune: 1e-4 } }, { option: "rates.postfinetune", value: "flap" }],
    [{ postfinetune: 0, rates: { postfinetune: 1e-4 } }, { option: "rates.postfinetune" }],
    [{ ...none, rates: { postfinetune: 1e-4 } }, { option: "rates.postfinetune" }],
    [{ ...none, rates: { clipNorm: 2 } }, { option: "rates.clipNorm", value: "flap" }],
    [{ ...none, rates: { lora: 1e-3 } }, { option: "rates.lora", value: "flap" }],
    [{ keptMasks: "median", units: ["hidden"] }, { names: "hidden" }],
    [{ units: ["kv"], rules: { minimum: { ffn: 2 } } }, { value: "kv", names: "ffn" }],
    [{ units: ["kv", "ffn"], rules: { minimum: { hidden: 2 } } }, { value: ["kv", "ffn"] }],
    [{ units: ["hidden"], rules: { minimum: { heads: 2 } } }, { value: "hidden" }],
    [{ units: ["kv", "ffn"], rules: { minimum: { layers: 2 } } }, { value: ["kv", "ffn"] }],
    [{ units: ["kv"], rules: { align: 2 } }, { value: "kv" }],
    [{ units: ["hidden"], rules: { protect: [0] } }, { value: "hidden" }],
    [{ preset: "papers" }, { option: "preset", value: "papers" }],
  ];
  for (const [options, expected] of refused) {
    refuses(() => resolveOptions({ ...BASE, ...options }, spec), "usage", expected);
  }
});

Deno.test("a short run as published stays behind its schedule, within ±log 100, and is cut exactly; its adapter fits what it leaves", async () => {
  const device = await sharedDevice();
  using model = await loadModel("demo", { device });
  const out = await Deno.makeTempDir();
  try {
    const lora = { rank: 2, alpha: 12, rsLora: true, dropout: 0.25, targets: ["q", "v", "down"] } as const;
    const { records, result } = await drive(model, { preset: "paper", steps: 8, lora }, out);
    assert.deepEqual([...new Set(records.map(({ stage }) => stage))], ["finetune", "prune", "postfinetune"]);
    const pruning = records.filter(({ stage }) => stage === "prune"), last = pruning.at(-1);
    assert.equal(last?.target, 0.2);
    assert.ok((last?.expected ?? 1) < 0.05 && (last?.lambda1 ?? 0) < 0, JSON.stringify(last)); // λ pushes, and has hardly begun to
    assert.ok(result.logAlpha.every((value) => Math.abs(value) <= Math.fround(Math.log(100))));
    assert.ok(result.sparsity.hard >= 0.2 - 1e-12 && result.sparsity.hard < 0.21, `${result.sparsity.hard}`);
    assert.deepEqual(pruning.map(({ learningRate }) => learningRate), pruning.map(() => 5e-5));
    assert.ok(Math.abs((records.find(({ stage }) => stage === "postfinetune")?.learningRate ?? 0) - 3.1e-4) < 1e-6);

    const tokens = Array.from({ length: 24 }, (_, i) => 7 + 11 * i);
    const [merged, unmerged] = await Promise.all(["model", "unmerged"].map((name) => openModelFiles(`${out}/${name}`)));
    assert.ok(merged && unmerged);
    const { config, weights, baseModel } = await readPeftAdapter(`${out}/adapter`, unmerged.source.spec);
    assert.equal(baseModel, `${out}/unmerged`);
    assert.match(await Deno.readTextFile(`${out}/adapter/README.md`), /belongs to the folder `unmerged\/`/);
    using one = await loadModelFrom(merged.source, { device, baseDtype: "f32" });
    using two = await loadModelFrom(unmerged.source, { device, baseDtype: "f32" });
    const wanted = await one.logits(tokens), bare = await two.logits(tokens);
    const own = await two.logits(tokens, { lora: { ...config, weights } });
    const plain = await two.logits(tokens, { lora: { ...config, rsLora: false, weights } });
    const largest = wanted.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const differ = (values: Float32Array): number =>
      values.reduce((most, value, at) => Math.max(most, Math.abs(value - (wanted[at] ?? NaN))), 0) / largest;
    assert.ok(differ(own) < 1e-5, `${differ(own)} of the largest logit`); // sums in another order, in f32
    assert.ok(differ(bare) > 10 * differ(own), `LoRA matters: ${differ(bare)}`);
    assert.ok(config.rsLora && differ(plain) > 10 * differ(own), `so does its scale: ${differ(plain)}`);
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

Deno.test("a run with another β, start and warm-up follows its schedule all the same", async () => {
  const device = await sharedDevice();
  using model = await loadModel("demo", { device });
  for (const temperature of [0.5, 5]) {
    const rates = { temperature, noise: 1, warmup: 0.5, mask: 0.05 };
    const { records, result } = await drive(model, {
      steps: 4,
      prefinetune: 0,
      postfinetune: 0,
      rates,
      start: "constant",
    });
    for (const { expected, target } of records) {
      assert.ok(Math.abs((expected ?? NaN) - (target ?? NaN)) < 1e-3, `β ${temperature}: ${expected}, not ${target}`);
    }
    assert.ok(result.sparsity.hard >= 0.2 - 1e-12 && result.sparsity.hard < 0.202, `${result.sparsity.hard}`);
  }
});

Deno.test("runs that differ in the z of what stays, or in how λ moves, are told apart", () => {
  const told = (options: Partial<RunOptions>): string =>
    JSON.stringify(decidingOptions(resolveOptions({ ...BASE, ...options }, spec)));
  const runs = [{}, { keptMasks: "median" }, { keptMasks: "sigmoid" }, { lambdaRule: "adam" }] as const;
  assert.equal(new Set(runs.map(told)).size, runs.length);
  assert.equal(told({ lambdaRule: "plain", keptMasks: "one" }), told({}));
});
