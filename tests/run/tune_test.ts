// Runs that cut nothing: LoRA alone is trained, and written merged and as an adapter of the model that was given.
import assert from "node:assert/strict";
import { exportModel, loadModel, loadModelFrom, type PruneOptions, pruneToFolder } from "../../mod.ts";
import { readPeftAdapter } from "../../lib/model/mod.ts";
import { planMemory } from "../../lib/run/mod.ts";
import { memoryOptionsOf, resolveOptions } from "../../lib/run/options/resolve.ts";
import { adapterOf } from "../../lib/run/memory/plan.ts";
import { shortDemo } from "../demo.ts";
import { sharedDevice } from "../device.ts";
import { refuses } from "../refuses.ts";
import { BASE, bitsOf, drive, interrupted, withShortDemo } from "./helpers/demo_run.ts";

/** Options of a short run that only trains. */
const TUNE = { rows: BASE.rows.slice(0, 40), sparsity: 0, steps: 3, batch: 1, seq: 48 } as const;
/** The same for the helpers, whose options have stages. */
const STAGES = { ...TUNE, prefinetune: 0, postfinetune: 0 } as const;

Deno.test("at sparsity 0 the model keeps its shape, and adapter and base give what the merged model gives", async () => {
  await withShortDemo(async ({ model, device }) => {
    const out = await Deno.makeTempDir();
    try {
      const summary = await pruneToFolder(model, { ...TUNE, out, export: { saveAdapter: true, dtype: "f32" } });
      const { parameters, options, masks, sparsity, files } = summary;
      assert.equal(parameters.after, parameters.before);
      assert.deepEqual([options.units, options.method, options.prompt, options.calibration], [[], "none", null, false]);
      assert.deepEqual([sparsity.target, sparsity.hard, masks.hidden.every((share) => share === 1)], [0, 0, true]);
      const names = files.map(({ file }) => file.slice(out.length + 1));
      assert.deepEqual(names, ["model", "model.gguf", "adapter"]);
      const adapter = await readPeftAdapter(`${out}/adapter`, model.spec), tokens = [5, 9, 200, 7, 31];
      assert.ok([...adapter.weights.values()].some((values) => values.some((value) => value !== 0)));
      using merged = await loadModel(`${out}/model`, { device, baseDtype: "f32" });
      using base = await loadModelFrom(model.source, { device, baseDtype: "f32" });
      const lora = { ...adapter.config, weights: adapter.weights };
      const [own, other, before] = [
        await merged.logits(tokens),
        await base.logits(tokens, { lora }),
        await base.logits(tokens),
      ];
      const farthest = (values: Float32Array): number =>
        Math.max(...own.map((one, at) => Math.abs(one - (values[at] ?? NaN))));
      // Both in f32, in another order of sums; logits span some 25.
      assert.ok(farthest(other) < 1e-3, `${farthest(other)}`);
      assert.ok(farthest(before) > 1e-2, `${farthest(before)}: training changed nothing`);
      assert.match(await Deno.readTextFile(`${out}/model/README.md`), /^# A model, tuned$/m);
    } finally {
      await Deno.remove(out, { recursive: true });
    }
  });
});

Deno.test("a run that cuts nothing is resumed with the same bits, and uses the memory of its plan", async () => {
  await withShortDemo(async ({ model, device }) => {
    const whole = await drive(model, STAGES), parts = await interrupted(model, STAGES, 2);
    assert.equal(bitsOf(parts), bitsOf(whole));
    assert.deepEqual(whole.records.map(({ stage }) => stage), Array(TUNE.steps).fill("postfinetune"));
    assert.ok(whole.records.every(({ target }) => target === null));
    const resolved = resolveOptions(TUNE, model.spec);
    const plan = await planMemory(
      model.spec,
      memoryOptionsOf(resolved, { adapter: adapterOf(device), baseDtype: "f16" }),
    );
    assert.equal(whole.records[0]?.plannedGpuBytes, plan.peakBytes);
  });
});

Deno.test("a base of 4 bits and a GGUF are tuned; the adapter of a GGUF comes with its base", async () => {
  const { source, tokenizer } = await shortDemo(), folder = await Deno.makeTempDir(), device = await sharedDevice();
  try {
    await exportModel(source, folder, { formats: ["gguf"], ggufDtype: "q8_0", tokenizer, name: "short" });
    using model = await loadModel(`${folder}/model.gguf`, { device, baseDtype: "q4" });
    const out = `${folder}/out`;
    const summary = await pruneToFolder(model, { ...TUNE, steps: 1, out, export: { saveAdapter: true } });
    assert.equal(summary.ggufDtype, "q8_0");
    assert.deepEqual(
      summary.files.map(({ file }) => file.slice(out.length + 1)),
      ["model", "model.gguf", "unmerged", "adapter"],
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("what concerns a cut is refused where nothing is cut, and so are no steps", () => {
  const cases: readonly (readonly [string, Partial<PruneOptions> & object])[] = [
    ["units", { units: ["ffn"] }],
    ["units", { units: [], sparsity: 0.2 }],
    ["units", { units: ["vocab"] }],
    ["method", { method: "taylor" }],
    ["rules.protect", { rules: { protect: [0] } }],
    ["calibration", { calibration: BASE.rows.slice(0, 8) }],
    ["rates.mask", { rates: { mask: 0.1 } }],
    ["preset", { preset: "paper" }],
    ["steps", { steps: 0 }],
  ];
  for (const [option, more] of cases) {
    refuses(() => resolveOptions({ ...TUNE, ...more } as PruneOptions), "usage", { option });
  }
  assert.deepEqual(resolveOptions({ ...TUNE, units: [] } as PruneOptions).units, []);
});
