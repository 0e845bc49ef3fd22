// The layout and units that a run takes by itself, the hints of refusals, and the cut that is announced.
import assert from "node:assert/strict";
import { loadModel, pruneToFolder, type PruneToFolderOptions, readRows, type RunSummary } from "../../mod.ts";
import { CompressoError } from "../../lib/core/errors.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { exportModel } from "../../lib/local/export_model.ts";
import { demoData, openModelFiles } from "../../lib/local/open_model.ts";
import type { Model } from "../../lib/model/model.ts";
import { atPaths } from "../../lib/run/options/check.ts";
import { type ExpectedCut, expectedCut } from "../../lib/run/expected_cut.ts";
import { fittingShape } from "../../lib/run/options/fitting.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { layoutLines } from "../../cli/verbs/prune/layout_lines.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { tableOf, uniformCounts } from "../../lib/units/uniform.ts";
import { openWeights } from "../disk.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { randomSource } from "../slice/helpers.ts";

/** The demo's shape as a Gemma 3 with one KV group a layer, as Gemma 3 270M. */
function gemmaOf(spec: DecoderSpec): DecoderSpec {
  const local = { window: 16, rope: "local" as const };
  return {
    ...spec,
    layers: spec.layers.slice(0, 2).map((layer, index) => ({ ...layer, kvHeads: 1, ...index === 0 ? local : {} })),
    tied: true,
    activation: "gelu_tanh",
    normPlaces: "both",
    scales: { embedding: Math.sqrt(spec.hidden) },
    qkNorm: "head",
    rope: { ...spec.rope, localBase: 500 },
  };
}

Deno.test("the usual units fit each model of fixtures in each layout", async () => {
  for await (const { name, isDirectory } of Deno.readDir("fixtures/golden")) {
    if (!isDirectory || name === "peft") continue;
    const { spec } = await openWeights(`fixtures/golden/${name}/model`);
    for (const layout of ["compact", "padded", "uniform"] as const) {
      const shape = fittingShape(spec, { layout }, {}), table = tableOf(spec, { ...shape, rules: {} });
      assert.ok(shape.units.includes("ffn"), name);
      if (layout === "uniform") assert.ok(uniformCounts(table, { target: 0.1 }).ffn > 0, name);
    }
  }
});

Deno.test("a Gemma 3 from a GGUF gives a GGUF by itself, and each hint of a refusal leads to a run", async () => {
  await inTemporaryFolder(async (folder) => {
    const demo = await openModelFiles("demo"), { rows } = await readRows(demoData("train"), { limit: 12 });
    const made = randomSource(gemmaOf(demo.source.spec));
    await exportModel(made, folder, { tokenizer: demo.tokenizer, name: "gemma", ggufDtype: "f32", dtype: "f32" });
    using device = await openDevice();
    using gguf = await loadModel(`${folder}/model.gguf`, { device });
    using hf = await loadModel(`${folder}/model`, { device });
    let runs = 0;
    const announced: (ExpectedCut | null)[] = [];
    const run = async (model: Model, options: Partial<PruneToFolderOptions>): Promise<RunSummary> =>
      await pruneToFolder(model, {
        ...{ rows, prompt: null, sparsity: 0.2, method: "magnitude", steps: 0, postfinetune: 0, batch: 1, seq: 48 },
        onStart: (session) => announced.push(session.expected),
        ...options,
        out: `${folder}/run${++runs}`,
      } as PruneToFolderOptions);
    const { options, skipped, sparsity, parameters } = await run(gguf, {});
    assert.deepEqual([options.layout, options.units, skipped], ["uniform", ["ffn"], []]);
    // What was announced is what was cut.
    const { uniform, sparsity: { least, most } } = announced[0] ?? assert.fail("nothing was announced");
    assert.deepEqual([least, most, uniform?.parameters], [sparsity.hard, sparsity.hard, parameters.after]);
    // A folder stays compact, and has no GGUF.
    assert.equal((await run(hf, {})).options.layout, "compact");
    const gone = await run(gguf, { export: { formats: ["hf"] } });
    assert.deepEqual([gone.options.layout, gone.files.length], ["compact", 1]);
    const refused: readonly Partial<PruneToFolderOptions>[] = [
      { layout: "compact", export: { formats: ["hf", "gguf"] } },
      { layout: "compact", export: { formats: ["gguf"] }, units: ["kv", "ffn"] },
      { layout: "uniform", units: ["kv", "ffn"] },
      { units: ["kv"] },
    ];
    for (const asked of refused) {
      const hints = await hintsOf(() => run(gguf, asked));
      assert.ok(hints.length > 0, JSON.stringify(asked));
      for (const hint of hints) {
        const summary = await run(gguf, { ...asked, ...atPaths(hint) });
        assert.ok(summary.files.length > 0, JSON.stringify({ asked, hint }));
      }
    }
  });
});

Deno.test("--align 32 is named with its sparsity where it comes nearer to the asked one, and nowhere else", async () => {
  const { spec: demo } = (await openModelFiles("demo")).source;
  const spec = { ...demo, layers: demo.layers.map((layer) => ({ ...layer, ffn: 1024 })) };
  const said = (sparsity: number, align: number): { readonly cut: ExpectedCut | null; readonly text: string } => {
    const shape = { layout: "uniform", units: ["ffn"], rules: { align } } as const;
    const options = resolveOptions({ rows: [], steps: 4, sparsity, ...shape }, spec);
    const cut = expectedCut(options, { table: tableOf(spec, options), goal: null });
    return { cut, text: layoutLines(spec, options, cut).join("\n") };
  };
  const { cut, text } = said(0.1, 256), finer = said(0.1, 32);
  assert.deepEqual(cut?.nearer, { align: 32, sparsity: finer.cut?.sparsity.least });
  assert.ok(cut.sparsity.least > 0.2 && cut.nearer.sparsity < 0.11);
  assert.match(text, / 21\.1 % where 10\.0 % is asked \(--align 32 cuts 10\.5 %\);/);
  // The same widths are multiples of 32 and of 256.
  for (const [sparsity, align] of [[0.1, 32], [0.2, 256]] as const) {
    const { cut, text } = said(sparsity, align);
    assert.ok(cut?.uniform && cut.nearer === null && cut.sparsity.least > sparsity);
    assert.ok(!text.includes("--align"), text);
  }
});

/** The options of each way out that a refusal names. */
async function hintsOf(work: () => Promise<unknown>): Promise<(readonly (readonly [string, unknown])[])[]> {
  const error = await work().then(() => null, (error: unknown) => error);
  assert.ok(error instanceof CompressoError, String(error));
  const { fix = "" } = error.partsAs((path, value = "") => `<${path}=${value}>`);
  return fix.split(", or ").map((way) =>
    [...way.matchAll(/<([\w.]+)=([^>]*)>/g)].map(([, path = "", value = ""]) =>
      [path, path === "units" || path === "export.formats" ? value.split(",") : value] as const
    )
  ).filter((way) => way.length > 0);
}
