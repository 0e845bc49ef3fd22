// Runs that cut experts: scores, what is kept and written, another share from the same scores, and refusals.
import assert from "node:assert/strict";
import {
  exportModel,
  loadModelFrom,
  type Model,
  openDevice,
  pruneToFolder,
  readRows,
  type RunSummary,
} from "../../mod.ts";
import { loadModel } from "../../lib/local/load_model.ts";
import type { BaseDtype } from "../../lib/nn/weights.ts";
import { createExpertStatistics, noSums } from "../../lib/nn/expert_use.ts";
import { createPass, recordForward } from "../../lib/nn/pass.ts";
import { IDLE_STATE, writeStepState } from "../../lib/nn/train/step_state.ts";
import { sequencesToMeasure } from "../../lib/run/calibration.ts";
import { encodeRun } from "../../lib/run/data.ts";
import { scoredGroups } from "../../lib/run/experts/measure.ts";
import { adapterOf, planMemory } from "../../lib/run/memory/plan.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { compareQuality, measuredSequences, measureQuality, qualityData } from "../../lib/run/quality.ts";
import type { Group } from "../../lib/slice/by_layers.ts";
import { type ExpertUse, meansOf } from "../../lib/slice/expert_use.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { EXPERT_SCORES, type ExpertMeasures } from "../../lib/run/methods/experts.ts";
import { chooseExperts, expertMagnitudes } from "../../lib/run/experts/choose.ts";
import { parseScores } from "../../lib/run/experts/scores_file.ts";
import type { PruneToFolderOptions } from "../../lib/run/prune_to_folder.ts";
import { readSummary } from "../../lib/run/run_json.ts";
import { keepExperts } from "../../lib/slice/experts.ts";
import { EXPERT_MATRICES, expertsName, tensorShapes } from "../../lib/spec/decoder.ts";
import { openGguf } from "../disk.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { assertSameWeights } from "../formats/models.ts";
import { refuses, rejects } from "../refuses.ts";
import { EXPERT_SHAPE, expertSource, ROWS, writeExperts } from "./helpers/experts.ts";

const device = await openDevice();
const { rows } = await readRows(ROWS, { limit: 40 });
/** About 60 tokens. */
const TEXT = "Tom went to the garden by train. The red ball was in the kitchen, and Ann looked for it all day. ";
const OPTIONS = { rows, units: ["experts"], steps: 0, seq: 48, sparsity: 0.3, prompt: null } as const;

async function cut(
  model: Model,
  out: string,
  more: Partial<PruneToFolderOptions> & { readonly sparsity?: number } = {},
): Promise<RunSummary> {
  const { size: _size, ...others } = more;
  return await pruneToFolder(model, { ...OPTIONS, ...others, out });
}

for (const format of ["folder", "gguf"] as const) {
  Deno.test(`experts of a ${format} are scored, cut and written; another share follows without rows`, async () => {
    await inTemporaryFolder(async (dir) => {
      const { [format]: path } = await writeExperts(dir);
      using model = await loadModel(path, { device, baseDtype: "f32" });
      const summary = await cut(model, `${dir}/a`), { experts } = summary, { count } = EXPERT_SHAPE;
      assert.ok(experts?.use);
      // 0.7 · 6 = 4.2 experts.
      assert.deepEqual([experts.before, experts.after], [12, 8]);
      assert.deepEqual(summary.sparsity, { target: 0.3, expected: 1 / 3, hard: 1 / 3 });
      assert.ok(summary.maskedVsSliced.maxAbs <= 1e-5 * summary.maskedVsSliced.range);
      assert.ok(summary.heldoutLoss && summary.heldoutLoss.agreement);
      assert.notEqual(summary.heldoutLoss.before, summary.heldoutLoss.after);
      for (const [layer, kept] of experts.kept.entries()) {
        const scores = experts.scores[layer] ?? [], gone = [...scores.keys()].filter((e) => !kept?.includes(e));
        assert.ok(kept && kept.length === 4 && scores.length === count);
        assert.ok(Math.min(...kept.map((e) => scores[e] ?? NaN)) >= Math.max(...gone.map((e) => scores[e] ?? NaN)));
        // The experts whose outputs are four times as large.
        assert.ok(kept.includes(1) && kept.includes(4), kept.join());
        assert.equal(experts.use.layers[layer]?.tokens.reduce((a, b) => a + b, 0), 2 * experts.use.tokens);
      }
      assert.deepEqual(await readSummary(`${dir}/a`), JSON.parse(JSON.stringify(summary)));
      const whole = (await openModelFiles(path)).source, wanted = keepExperts(whole, experts.kept);
      const { source: gguf } = await openModelFiles(`${dir}/a/model.gguf`);
      const { source: folder } = await openModelFiles(`${dir}/a/model`);
      assert.deepEqual(folder.spec.layers, wanted.spec.layers);
      assert.deepEqual(gguf.spec.layers, wanted.spec.layers);
      if (format === "gguf") {
        await assertSameWeights(gguf, wanted);
        for (const matrix of EXPERT_MATRICES) {
          const name = expertsName(1, matrix), all = await whole.readStored?.(name), size = (all?.length ?? 0) / count;
          const own: number[] = (experts.kept[1] ?? []).flatMap((
            e,
          ) => [...all?.subarray(e * size, (e + 1) * size) ?? []]);
          assert.deepEqual([...await gguf.readStored?.(name) ?? []], own);
        }
      }
      // The other share: no rows, and nothing is measured again.
      const saved = parseScores(await Deno.readTextFile(`${dir}/a/scores.json`), { path: "scores.json" });
      const second = await cut(model, `${dir}/b`, { rows: [], scores: saved, sparsity: 0.6 });
      assert.equal(second.data.rows, 0);
      assert.equal(second.heldoutLoss, null);
      assert.deepEqual(second.experts?.kept.map((own) => own?.length), [2, 2]);
      assert.deepEqual(second.experts?.scores, experts.scores);
      assert.deepEqual(
        await Deno.readTextFile(`${dir}/b/scores.json`),
        await Deno.readTextFile(`${dir}/a/scores.json`),
      );
      // Another score of the same measures, too.
      const third = await cut(model, `${dir}/c`, { rows: [], scores: saved, method: "frequency" });
      assert.deepEqual(third.experts?.scores[0], saved.use?.layers[0]?.tokens);
      // What the file cannot tell is measured where it needs no rows.
      const fourth = await cut(model, `${dir}/d`, { rows: [], scores: { ...saved, use: null }, method: "magnitude" });
      assert.equal(fourth.experts?.use, null);
      await rejects(
        cut(model, `${dir}/e`, { rows: [], scores: { ...saved, use: null }, method: "reap" }),
        "input",
        { value: "no rows" },
      );
      await rejects(cut(model, `${dir}/f`, { scores: { ...saved, model: "abc" } }), "mismatch", { value: "abc" });
    });
  });
}

/** The use of experts by passes of the whole model. */
async function useOfWhole(model: Model, groups: readonly Group[]): Promise<ExpertUse> {
  const { spec } = model, [first] = groups, sums = spec.layers.map(({ experts }) => noSums(experts?.count ?? 0));
  assert.ok(first);
  using pass = createPass(device, model.weights, first);
  using statistics = createExpertStatistics(device, spec, { rows: pass.act.rows });
  const context = pass.plan();
  using plan = context.plan;
  recordForward({ ...context, observeExperts: statistics.observe });
  plan.finish();
  writeStepState(device, pass.state, IDLE_STATE);
  for (const { seq, pieces, rows: own } of groups) {
    const tokens = new Uint32Array(pass.act.rows), flags = new Uint32Array(pass.act.rows);
    pieces.forEach((piece, at) => tokens.set(piece, at * seq));
    for (const row of own) flags[row] = 1;
    device.write(pass.act.tokens, tokens);
    statistics.choose(flags);
    await plan.run();
    for (const [layer, to] of sums.entries()) await statistics.add(layer, to);
  }
  return { tokens: groups.flatMap(({ rows: own }) => own).length, layers: sums.map((one, at) => meansOf(at, one)) };
}

for (const format of ["folder", "gguf"] as const) {
  Deno.test(`a ${format} is cut layer by layer as if it were loaded whole, in the memory that was planned`, async () => {
    await inTemporaryFolder(async (dir) => {
      const { [format]: path } = await writeExperts(dir), baseDtype = format === "gguf" ? "q8" : "f32";
      const { source, tokenizer } = await openModelFiles(path), { spec } = source, text = TEXT.repeat(12);
      const facts = { ...OPTIONS, evaluate: { text } }, resolved = resolveOptions(facts, spec, { source });
      const plan = await planMemory(spec, { units: ["experts"], seq: 48, baseDtype, adapter: adapterOf(device) });
      using small = await openDevice({ memoryLimit: plan.peakBytes });
      const opened = { device: small, source, tokenizer, baseDtype } as const;
      const summary = await pruneToFolder(opened, { ...facts, out: `${dir}/a` }), { experts } = summary;
      const { peakGpuBytes, plannedGpuBytes } = summary;
      assert.deepEqual([small.peakBytes, peakGpuBytes, plannedGpuBytes], Array(3).fill(plan.peakBytes));
      assert.equal(small.bytes, 0);
      // The same choice, from passes of the loaded model.
      using model = await loadModelFrom(source, { device, baseDtype, tokenizer });
      const data = encodeRun(model, resolved);
      const use = await useOfWhole(model, scoredGroups(sequencesToMeasure(data, resolved), { spec, seq: 48 }));
      assert.deepEqual(experts?.use, use);
      const scores = use.layers.map((layer) => layer?.output.map((one) => one) ?? null);
      const kept = chooseExperts(spec, scores, { sparsity: 0.3 }), cut = keepExperts(source, kept);
      assert.deepEqual(experts?.kept, kept);
      // The same figures, from passes of both models.
      const measured = await qualityData(model, data, {
        seq: 48,
        most: measuredSequences(resolved),
        evaluation: { text },
        loadTasks: null,
        signal: new AbortController().signal,
      });
      using after = await loadModelFrom(cut, { device, baseDtype, tokenizer });
      const how = { adapters: {}, signal: new AbortController().signal };
      const dense = await measureQuality(model, measured, how), side = { weights: model.weights, ids: null };
      const other = await measureQuality(after, measured, { ...how, dense: { states: dense.states, side } });
      const { heldout, text: ofText } = compareQuality(measured, dense, other);
      assert.ok(heldout && ofText && heldout.labels > 0 && ofText.labels > 0);
      assert.deepEqual([summary.heldoutLoss, summary.evaluation.text], [heldout, ofText]);
      // The same bytes.
      await exportModel(cut, `${dir}/b`, { tokenizer, name: "pruned by Compresso", ggufDtype: "auto" });
      const { source: one } = await openModelFiles(`${dir}/a/model.gguf`), two = await openGguf(`${dir}/b/model.gguf`);
      for (const name of tensorShapes(cut.spec).keys()) {
        assert.equal(one.storedDtype(name), two.storedDtype(name));
        assert.deepEqual(await one.readStored?.(name), await two.readStored?.(name), name);
      }
      assert.deepEqual(
        await Deno.readFile(`${dir}/a/model/model.safetensors`),
        await Deno.readFile(`${dir}/b/model/model.safetensors`),
      );
    });
  });
}

Deno.test("the memory of a cut does not depend on the number of layers; one byte less than planned is refused", async () => {
  await inTemporaryFolder(async (dir) => {
    const { source, tokenizer } = await openModelFiles((await writeExperts(dir)).folder), { spec } = source;
    const planned = async (layers: number, baseDtype: BaseDtype = "f16"): Promise<number> => {
      const own = { ...spec, layers: Array.from({ length: layers }, () => spec.layers).flat() };
      return (await planMemory(own, { units: ["experts"], seq: 48, baseDtype, adapter: adapterOf(device) })).peakBytes;
    };
    const peak = await planned(1);
    assert.equal(await planned(24), peak);
    assert.ok(await planned(1, "f32") > peak);
    using small = await openDevice({ memoryLimit: peak - 1 });
    const opened = { device: small, source, tokenizer, baseDtype: "f16" } as const;
    // Before anything is measured, with what would fit.
    await rejects(pruneToFolder(opened, { ...OPTIONS, out: `${dir}/a` }), "gpu", { option: "memoryLimit" });
    assert.equal(small.peakBytes, 0);
    const { source: demo } = await openModelFiles("demo"), ofDemo = { ...opened, source: demo };
    // @ts-expect-error other units need a loaded model
    const others = pruneToFolder(ofDemo, { rows, sparsity: 0.2, steps: 2, seq: 48, out: `${dir}/a` });
    await rejects(others, "usage", { option: "units" });
    await rejects(planMemory(demo.spec, { units: ["experts"] }), "usage", { value: "dense" });
  });
});

Deno.test("each method scores experts as its definition says", async () => {
  const source = await expertSource({ loud: [2] }), { count, ffn, hidden } = EXPERT_SHAPE;
  const layer = { tokens: [3, 0, 5], weight: [0.5, 0, 0.25], output: [2, 0, 1.5] };
  const measures: ExpertMeasures = {
    counts: [3, 0],
    seed: 4,
    use: () => Promise.resolve({ tokens: 4, layers: [layer, null] }),
    magnitude: () => Promise.reject(new Error("not asked for")),
  };
  assert.deepEqual(await EXPERT_SCORES.reap(measures), [[2, 0, 1.5], null]);
  assert.deepEqual(await EXPERT_SCORES["reap-sum"](measures), [[6, 0, 7.5], null]);
  assert.deepEqual(await EXPERT_SCORES.frequency(measures), [[3, 0, 5], null]);
  const [drawn, none] = await EXPERT_SCORES.random(measures), [again] = await EXPERT_SCORES.random(measures);
  const [other] = await EXPERT_SCORES.random({ ...measures, seed: 5 });
  assert.equal(drawn?.length, 3);
  assert.equal(none, null);
  assert.deepEqual(drawn, again);
  assert.notDeepEqual(drawn, other);
  const [own] = await expertMagnitudes(source);
  for (let e = 0; e < count; e++) {
    let squares = 0;
    for (const matrix of EXPERT_MATRICES) {
      const values = await source.read(expertsName(0, matrix)), size = values.length / count;
      squares += values.subarray(e * size, (e + 1) * size).reduce((sum, value) => sum + value * value, 0);
    }
    const wanted = squares / (3 * ffn * hidden);
    assert.ok(Math.abs((own?.[e] ?? NaN) - wanted) <= 1e-6 * wanted);
  }
  assert.equal(own?.indexOf(Math.max(...own)), 2);
});

Deno.test("as many experts stay in each layer as the share leaves, ties to the lower number", () => {
  const layers = [8, 0, 8].map((count) => ({
    heads: 1,
    kvHeads: 1,
    ffn: 0,
    ...count ? { experts: { count, ffn: 1 } } : {},
  }));
  const spec = { layers, router: { topK: 2 } }, even = [1, 1, 1, 1, 1, 1, 1, 1], rising = [1, 2, 3, 4, 5, 6, 7, 8];
  const kept = (sparsity: number) => chooseExperts(spec, [even, null, rising], { sparsity });
  assert.deepEqual(kept(0.25), [[0, 1, 2, 3, 4, 5], null, [2, 3, 4, 5, 6, 7]]);
  assert.deepEqual(kept(0.01), [[0, 1, 2, 3, 4, 5, 6], null, [1, 2, 3, 4, 5, 6, 7]]);
  assert.deepEqual(kept(0.75), [[0, 1], null, [6, 7]]);
  refuses(() => kept(0.76), "usage", { option: "sparsity", value: 0.76, names: 0.75 });
});

Deno.test("a run that cuts experts refuses what it cannot do, before it reads or measures", async () => {
  await inTemporaryFolder(async (dir) => {
    const { folder } = await writeExperts(dir);
    using model = await loadModel(folder, { device });
    const refused = async (more: Parameters<typeof cut>[2], option: string, value: string | number): Promise<void> => {
      await rejects(cut(model, `${dir}/out`, more), "usage", { option, value });
    };
    await refused({ sparsity: 0.9 }, "sparsity", 0.9);
    await refused({ steps: 3 }, "steps", 3);
    await refused({ units: ["experts", "ffn"] }, "units", "experts");
    await refused({ method: "taylor" }, "method", "taylor");
    await refused({ method: "compresso" }, "method", "compresso");
    await refused({ layout: "compact" }, "layout", "compact");
    await rejects(cut(model, `${dir}/out`, { rounds: 2 }), "usage");
    await rejects(cut(model, `${dir}/out`, { prefinetune: 2 }), "usage");
    await rejects(cut(model, `${dir}/out`, { rows: [] }), "input");
    const { sparsity: _none, ...others } = OPTIONS;
    // @ts-expect-error no target
    await rejects(pruneToFolder(model, { ...others, out: `${dir}/out` }), "usage", { option: "sparsity" });
    using dense = await loadModel("demo", { device });
    await rejects(cut(dense, `${dir}/out`), "usage", { value: "dense" });
    await rejects(
      pruneToFolder(dense, { rows, sparsity: 0.2, steps: 2, method: "reap", out: `${dir}/out` }),
      "usage",
      { option: "method", value: "reap" },
    );
    assert.deepEqual([...Deno.readDirSync(dir)].map(({ name }) => name).sort(), ["moe", "moe.gguf"]);
  });
});

Deno.test("a damaged scores.json is refused", () => {
  const read = (text: string): unknown => parseScores(text, { path: "a/scores.json" });
  for (
    const text of [
      "",
      "{",
      "[]",
      "{}",
      '{"model":"x","use":null}',
      '{"model":"x","use":{"tokens":-1,"layers":[]},"magnitude":null}',
    ]
  ) {
    refuses(() => read(text), "input", { names: "a/scores.json" });
  }
  assert.deepEqual(read('{"model":"x","use":null,"magnitude":[[1,2],null]}'), {
    model: "x",
    use: null,
    magnitude: [[1, 2], null],
  });
});
