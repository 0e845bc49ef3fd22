// Options that do not exist, and words that are none of an option's, are refused with what is meant: nobody reads them, and Deno checks no types.
import assert from "node:assert/strict";
import {
  createChat,
  exportModel,
  generateText,
  loadModel,
  openDevice,
  prune,
  pruneToFolder,
  readRows,
  toRow,
} from "../../mod.ts";
import { selectUnits, unitTable, verifySliced } from "../../lib/masks/mod.ts";
import { benchModels } from "../../lib/bench/mod.ts";
import {
  encodeChoices,
  evaluateTasks,
  logLikelihoods,
  perplexity,
  rowPerplexity,
  scoreChoices,
  tokenLogprobs,
} from "../../lib/eval/mod.ts";
import { generate, writeTextFile, writeTexts } from "../../lib/generate/mod.ts";
import { demoData, describeAdapter, loadModelFrom, writePeftAdapter } from "../../lib/model/mod.ts";
import { renderReport } from "../../lib/report/mod.ts";
import { planMemory, type RunHooks } from "../../lib/run/mod.ts";
import { openSchedule } from "../../lib/schedule/mod.ts";
import { serveModel } from "../../lib/serve/mod.ts";
import { parseRows } from "../../lib/data/rows.ts";
import { openSpec } from "../../lib/local/open_model.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { inTemporaryFolder, refuses, rejectsWith } from "../formats/files.ts";
import { randomSource, SPEC } from "../formats/models.ts";
import { BASE } from "./helpers/demo_run.ts";

const spec = await openSpec("demo");

/** Options as a program without types has them. */
function resolve(options: Record<string, unknown>): unknown {
  return resolveOptions({ ...BASE, ...options }, spec);
}

Deno.test("an option that does not exist is refused by its name, with what was likely meant", () => {
  const refused: readonly (readonly [Record<string, unknown>, RegExp])[] = [
    [
      { algin: 32 },
      /'algin'; expected: options of prune are sparsity, .*seed.*; got: algin: 32; fix: did you mean rules.align\?/,
    ],
    [{ align: 32 }, /'align'.*did you mean rules.align\?/],
    [{ sparcity: 0.2 }, /'sparcity'.*did you mean sparsity\?/],
    [{ layouts: "uniform" }, /'layouts'.*did you mean layout\?/],
    [{ maskRate: 0.2 }, /'maskRate'.*did you mean rates.mask\?/],
    [{ xyzzyxyzzy: null }, /'xyzzyxyzzy'.*fix: rename it, or leave it out/],
    [{ export: {} }, /'export'/],
    [
      { rates: { maskRate: 0.2 } },
      /'rates.maskRate'; expected: options within rates are lora, .*logAlphaLimit; got: maskRate: 0.2; fix: did you mean rates.mask\?/,
    ],
    [{ rates: { limit: 5 } }, /did you mean rates.logAlphaLimit\?/],
    [{ lora: { rankk: 4 } }, /'lora.rankk'.*did you mean lora.rank\?/],
    [{ lora: { weights: new Map() } }, /'lora.weights'.*got: weights: an object/],
    [
      { rules: { protected: [0] } },
      /'rules.protected'.*got: protected: a list of 1; fix: did you mean rules.protect\?/,
    ],
    [{ rules: { minimum: { head: 2 } } }, /'rules.minimum.head'.*did you mean rules.minimum.heads\?/],
    [{ checkpoint: { path: "x", every: 1, evry: 2 } }, /'checkpoint.evry'.*did you mean checkpoint.every\?/],
    [{ hooks: { beforestep: () => {} } }, /'hooks.beforestep'.*a function; fix: did you mean hooks.beforeStep\?/],
    [
      { monitors: { collapse: { treshold: 0.5 } } },
      /'monitors.collapse.treshold'; expected: options within monitors.collapse are.*did you mean monitors.collapse.threshold/,
    ],
    [{ sparsity: undefined, size: { parameter: 5 } }, /'size.parameter'.*did you mean size.parameters\?/],
    [{ lora: 8 }, /'lora'; expected: it is an object with some of rank.*; got: 8; fix/],
    [{ rules: [0] }, /'rules'.*got: a list of 1/],
    [
      { monitors: { loss: { action: "warn" } } },
      /'monitors.loss'; expected: options within monitors are rollbacks, coll/,
    ],
  ];
  for (const [options, said] of refused) refuses(() => resolve(options), "usage", said);
});

Deno.test("null is no object of options, what is neither true nor false no switch, what is no number none, and no text a number", () => {
  for (const name of ["rates", "lora", "rules", "size", "hooks", "monitors", "checkpoint"]) {
    refuses(
      () => resolve({ [name]: null }),
      "usage",
      new RegExp(`'${name}'; expected: it is an object with .*; got: null`),
    );
  }
  refuses(() => resolve({ monitors: { memory: null } }), "usage", /'monitors.memory'; expected: it is an object/);
  for (const name of ["packing", "recompute", "skipBroken", "trustSchedule"]) {
    for (const value of ["no", 0, null]) {
      refuses(
        () => resolve({ [name]: value }),
        "usage",
        new RegExp(`'${name}'; expected: it is true or false; got: ${value === "no" ? 'the text "no"' : value}`),
      );
    }
  }
  refuses(
    () => resolve({ lora: { rsLora: "no" } }),
    "usage",
    /'lora.rsLora'; expected: it is true or false; got: the text "no"; fix/,
  );
  const checkpoint = { path: "x", every: 1, resume: "no" };
  refuses(() => resolve({ checkpoint }), "usage", /'checkpoint.resume'; expected: it is true or false/);
  assert.doesNotThrow(() => resolve({ packing: false, recompute: true, lora: { rsLora: true } }));
  for (const name of ["lora", "postfinetune", "mask", "warmup", "weightDecay"]) {
    for (const value of [null, true, "1e-4", ""]) {
      refuses(
        () => resolve({ rates: { [name]: value } }),
        "usage",
        new RegExp(`'rates.${name}'; expected: it is a number; got: ${typeof value === "string" ? "the text" : value}`),
      );
    }
  }
  for (const name of ["sparsity", "steps", "prefinetune", "postfinetune", "batch", "seq", "seed", "focus"]) {
    for (const value of [null, true, "10", [10]]) {
      refuses(() => resolve({ [name]: value }), "usage", new RegExp(`'${name}'; expected: it is a number; got:`));
    }
  }
  const inner: readonly (readonly [Record<string, unknown>, RegExp])[] = [
    [
      { lora: { rank: "8" } },
      /'lora.rank'; expected: it is a number; got: the text "8"; fix: give one, or leave it out/,
    ],
    [{ rules: { minimum: { ffn: null } } }, /'rules.minimum.ffn'; expected: it is a number; got: null/],
    [
      { sparsity: undefined, size: { parameters: "5M" } },
      /'size.parameters'; expected: it is a number; got: the text "5M"/,
    ],
    [{ monitors: { collapse: { threshold: "0.5" } } }, /'monitors.collapse.threshold'; expected: it is a number/],
    [{ checkpoint: { path: 5, every: 1 } }, /'checkpoint.path'; expected: it is a text; got: 5/],
  ];
  for (const [options, said] of inner) refuses(() => resolve(options), "usage", said);
});

Deno.test("a name whose value is undefined is as absent, and all that a run takes is taken", () => {
  const known = { xyzzy: undefined, rates: { maskRate: undefined, mask: 0.1 }, lora: { rank: undefined }, hooks: {} };
  assert.doesNotThrow(() => resolve({ ...known, checkpoint: { path: "x", every: 3, identity: { mine: 1 } } }));
  class Counting implements RunHooks {
    steps = 0;
    beforeStep(): void {
      this.steps++;
    }
  }
  assert.doesNotThrow(() => resolve({ hooks: new Counting() }), "an object of a class has fields of its own");
});

Deno.test("a word that an option does not have is shown beside those that it has", () => {
  const refused: readonly (readonly [Record<string, unknown>, RegExp])[] = [
    [
      { start: "foo" },
      /cannot use start; expected: it is one of saliency, constant; got: foo; fix: change it, or leave it out/,
    ],
    [{ start: "const" }, /fix: did you mean constant\?/],
    [{ keptMasks: "soft" }, /expected: it is one of one, median, sigmoid; got: soft/],
    [{ lambdaRule: "sgd" }, /expected: it is one of plain, adam; got: sgd/],
    [{ start: "foo", method: "taylor" }, /expected: it is one of saliency, constant; got: foo/],
    [
      { start: "constant", method: "taylor" },
      /start is for the method compresso; got: method taylor; fix: leave it out/,
    ],
    [
      { method: "tailor" },
      /cannot use method; expected: it is one of compresso, .*; got: tailor; fix: did you mean taylor\?/,
    ],
    [{ ranking: "foo", method: "taylor" }, /expected: it is one of all, layer; got: foo/],
    [
      { layout: "unifrom" },
      /layout; expected: it is one of compact, padded, uniform; got: unifrom; fix: did you mean uniform\?/,
    ],
    [{ units: "kv" }, /'units'; expected: it is a list; got: the text "kv"/],
    [{ units: ["kv", "fnn"] }, /cannot use units; expected: it is some of heads, kv, ffn.*, each once; got: kv, fnn/],
    [{ sparsity: undefined, size: {} }, /{ parameters }, or { bytes, file: .*; got: {}/],
    [{ sparsity: undefined, size: { bytes: 5 } }, /{ parameters }, or { bytes, file: /],
    [
      { sparsity: undefined, size: { bytes: 5, file: { format: "ggfu", dtype: "f16" } } },
      /got: ggfu; fix: did you mean gguf/,
    ],
    [
      { sparsity: undefined, size: { bytes: 5, file: { format: "hf", dtype: "q8_0" } } },
      /it is f32 or f16 or bf16; got: q8_0/,
    ],
  ];
  for (const [options, said] of refused) refuses(() => resolve(options), "usage", said);
});

Deno.test("prune, pruneToFolder and a memory plan refuse what they do not know, before anything is written", async () => {
  using device = await openDevice();
  using model = await loadModel("demo", { device });
  const stray = { ...BASE, algin: 32 };
  refuses(() => prune(model, stray), "usage", /'algin'; expected: options of prune are/);
  const planned: readonly (readonly [Record<string, unknown>, RegExp])[] = [
    [{ lora: { ranks: 4 } }, /'lora.ranks'/],
    [{ rules: { protected: [0] } }, /'rules.protected'/],
    [{ layout: "unifrom" }, /did you mean uniform\?/],
    [{ recompute: "no" }, /'recompute'; expected: it is true or false; got: the text "no"/],
  ];
  for (const [options, said] of planned) await rejectsWith(planMemory(spec, options), "usage", said);
  await inTemporaryFolder(async (folder) => {
    const out = `${folder}/out`,
      refused: readonly (readonly [Record<string, unknown>, RegExp])[] = [
        [{ algin: 32 }, /'algin'; expected: options of pruneToFolder are sparsity, .*out/],
        [{ checkpoint: { path: "x", every: 1 } }, /'checkpoint'.*did you mean checkpointEvery\?/],
        [{ rates: { maskRate: 1 } }, /did you mean rates.mask\?/],
        [{ export: { dtypes: "f16" } }, /'export.dtypes'.*did you mean export.dtype\?/],
        [{ export: { replace: "no" } }, /'export.replace'; expected: it is true or false; got: the text "no"/],
        [{ resume: "no" }, /resume; expected: it is true, false or "auto"; got: no/],
        [{ export: null }, /'export'; expected: it is an object with some of .*layout.*; got: null/],
        [{ export: { dtype: "f61" } }, /export.dtype; expected: it is one of f32, f16, bf16; got: f61/],
        [{ export: { formats: [] } }, /list of hf, gguf, or one of these; got: an empty list/],
        [{ layout: "unifrom" }, /did you mean uniform\?/],
        [{ export: { formats: ["gguf"], generation: {} } }, /'generation'; expected: it is for the folder \(hf\)/],
        [
          {
            sparsity: undefined,
            size: { bytes: 1.5e6, file: { format: "gguf", dtype: "f16" } },
            export: { formats: ["hf"] },
          },
          /the size is that of the gguf file; got: hf/,
        ],
      ];
    for (const [options, said] of refused) {
      const given = { ...BASE, calibration: "none", out, ...options } as const;
      await rejectsWith(pruneToFolder(model, given), "usage", said);
    }
    await assert.rejects(Deno.stat(out), Deno.errors.NotFound);
  });
});

Deno.test("an export refuses options, layouts, formats and types that do not exist, and writes nothing", async () => {
  const source = randomSource(SPEC), base = { tokenizer: null, name: "made" };
  const refused: readonly (readonly [Record<string, unknown>, RegExp])[] = [
    [{ format: ["hf"] }, /'format'; expected: options of exportModel are layout, .*did you mean formats\?/],
    [{ formats: [] }, /list of hf, gguf, or one of these; got: an empty list; fix: name one/],
    [{ formats: "hf" }, /list of hf, gguf.*got: hf/],
    [{ formats: ["hf", "ggfu"] }, /expected: it is hf or gguf; got: ggfu; fix: did you mean gguf\?/],
    [{ dtype: "f61" }, /expected: it is f32 or f16 or bf16; got: f61/],
    [{ ggufDtype: "q8" }, /it is auto or f32 or f16 or bf16 or q8_0 or .*; got: q8; fix: did you mean q8_0\?/],
    [{ layout: "unifrom" }, /did you mean uniform\?/],
    [{ tokenizer: undefined }, /given its `tokenizer`; got: not given; fix: .* or null for files of token ids only/],
    [{ name: undefined }, /given a `name`, which a GGUF has within it; got: not given/],
    [{ name: 5 }, /'name'; expected: it is a text; got: 5/],
    [{ formats: ["hf"], ggufDtype: "q4_0" }, /'ggufDtype'; expected: it is for the GGUF; got: formats hf/],
    [{ formats: ["gguf"], generation: {} }, /'generation'; expected: it is for the folder \(hf\); got: formats gguf/],
  ];
  await inTemporaryFolder(async (folder) => {
    const out = `${folder}/out`;
    for (const [options, said] of refused) {
      await rejectsWith(exportModel(source, out, { ...base, ...options }), "usage", said);
    }
    await assert.rejects(Deno.stat(out), Deno.errors.NotFound);
    await exportModel(source, out, { ...base, formats: ["hf"] });
  });
});

Deno.test("what measures and generates refuses options that it does not have, and texts as numbers", async () => {
  using device = await openDevice();
  using model = await loadModel("demo", { device });
  const ids = [5, 6, 7, 8], text = { kind: "text", text: "Tom went to Rome.", extra: {} } as const;
  const calls: readonly (readonly [string, (options: object) => unknown, number: string])[] = [
    ["perplexity", (options) => perplexity(model, ids, { window: 4, ...options }), "stride"],
    ["rowPerplexity", (options) => rowPerplexity(model, [text], { seq: 8, ...options }), "seq"],
    ["evaluateTasks", (options) => evaluateTasks(model, { tasks: [], taskData: "x", ...options }), "limit"],
    ["generate", (options) => generate(model, ids, { maxTokens: 1, ...options }).next(), "topK"],
    ["generateText", (options) => generateText(model, "Tom", { maxTokens: 1, ...options }).next(), "temperature"],
    ["createChat", (options) => createChat(model, { maxTokens: 1, ...options }), "maxTokens"],
  ];
  for (const [name, call, number] of calls) {
    await assert.rejects(
      async () => await call({ adaptors: {} }),
      new RegExp(`'adaptors'; expected: options of ${name} are .*did you mean adapters\\?`),
    );
    for (const value of ["4", null]) {
      await rejectsWith(
        (async () => await call({ [number]: value }))(),
        "usage",
        new RegExp(`the option '${number}'; expected: it is a number; got: (the text "4"|null)`),
      );
    }
  }
});

Deno.test("what opens, reads and writes refuses options that it does not have, and values of another kind", async () => {
  using device = await openDevice();
  using model = await loadModel("demo", { device });
  const table = unitTable(spec, ["ffn"]), scores = new Float32Array(table.count);
  const { tokenizer, source } = model, how = { device, adapters: {}, tokens: [[5, 6]] };
  assert.ok(tokenizer);
  const data = await readRows(demoData("heldout"), { limit: 2 }), choices = { tokenizer, prompt: null };
  const adapter = { spec, config: { rank: 2, alpha: 2, targets: ["q" as const] }, weights: new Map(), baseModel: null };
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/texts.jsonl`, texts = { count: 1, tokens: 4 };
    const calls: readonly (readonly [(options: object) => unknown, options: object, said: RegExp])[] = [
      [
        openDevice,
        { memoryLimits: 5 },
        /'memoryLimits'; expected: options of a device are .*did you mean memoryLimit\?/,
      ],
      [openDevice, { memoryLimit: "5 GB" }, /'memoryLimit'; expected: it is a number; got: the text "5 GB"/],
      [openDevice, { powerPreference: "fast" }, /expected: it is low-power or high-performance; got: fast/],
      [describeAdapter, { power: "low-power" }, /'power'.*did you mean powerPreference\?/],
      [(options) => loadModel("demo", { device, ...options }), { dtype: "f32" }, /'dtype'.*did you mean baseDtype\?/],
      [
        (options) => loadModel("demo", { device, ...options }),
        { baseDtype: "int8" },
        /it is f32 or f16 or q8 or q4; got: int8/,
      ],
      [(options) => loadModelFrom(model.source, { device, ...options }), { tokeniser: null }, /mean tokenizer\?/],
      [
        (options) => readRows(demoData("heldout"), options),
        { max: 5 },
        /'max'; expected: options of readRows are textField/,
      ],
      [(options) => readRows(demoData("heldout"), options), { limit: "5" }, /'limit'; expected: it is a number/],
      [(options) => scoreChoices(model, [], options), { adapter: {} }, /'adapter'.*did you mean adapters\?/],
      [(options) => logLikelihoods(model, [], options), { onScore: 1 }, /'onScore'.*did you mean onScores\?/],
      [(options) => tokenLogprobs(model, [[5]], options), { top: null }, /'top'; expected: it is a number; got: null/],
      [(options) => writeTexts(model, { ...texts, ...options }), { temp: 1 }, /'temp'.*did you mean temperature\?/],
      [
        (options) => writeTextFile(model, { ...texts, path, ...options }),
        { skip: 1 },
        /'skip'; expected: options of write/,
      ],
      [(options) => benchModels([], options), { repeat: 2 }, /'repeat'.*did you mean repeats\?/],
      [(options) => openSchedule("cubic", options), { trusted: true }, /'trusted'.*did you mean trust\?/],
      [(options) => renderReport([], options), { title: 5 }, /'title'; expected: it is a text; got: 5/],
      [(options) => unitTable(spec, ["ffn"], options), { protected: [0] }, /'protected'.*did you mean protect\?/],
      [(options) => unitTable(spec, ["ffn"], options), { minimum: { fnn: 8 } }, /'minimum.fnn'.*mean minimum.ffn\?/],
      [
        (options) => encodeChoices(data.rows, { ...choices, ...options }),
        { max: 1 },
        /'max'; expected: options of encodeChoices/,
      ],
      [(options) => verifySliced(source, source, { ...how, ...options }), { tol: 1 }, /'tol'.*mean tolerance\?/],
      [(options) => writePeftAdapter(folder, { ...adapter, ...options }), { base: "x" }, /'base'.*mean baseModel\?/],
      [(options) => toRow({ text: "a" }, options), { text: "body" }, /'text'.*did you mean textField\?/],
      [
        (options) => selectUnits(table, scores, { target: 0.2, ...options }),
        { layerTarget: [] },
        /mean layerTargets\?/,
      ],
    ];
    for (const [call, options, said] of calls) {
      await rejectsWith((async () => await call(options))(), "usage", said);
    }
    assert.deepEqual([...Deno.readDirSync(folder)], []);
  });
});

Deno.test("a prompt is a text with something in it, or none: true and false are no words to put before instructions", async () => {
  using device = await openDevice();
  using model = await loadModel("demo", { device });
  const { tokenizer } = model;
  assert.ok(tokenizer);
  const text = toRow({ text: "Tom went to Rome." }),
    chosen = { instruction: "Choose.", choices: ["a", "b"], output: "a" };
  const choices = parseRows(JSON.stringify(chosen), "choices.jsonl");
  const calls: readonly ((options: { readonly prompt: null }) => unknown)[] = [
    resolve,
    (options) => rowPerplexity(model, [text], { seq: 8, ...options }),
    (options) => evaluateTasks(model, { tasks: ["piqa"], taskData: "fixtures/tasks", limit: 1, ...options }),
    (options) => encodeChoices(choices.rows, { tokenizer, ...options }),
    ({ prompt }) => createChat(model, { maxTokens: 1, system: prompt })[Symbol.dispose](),
    async (options) => await serveModel(model, { port: 0, ...options })[Symbol.asyncDispose](),
  ];
  const values: readonly (readonly [object, RegExp])[] = [
    [{ prompt: true }, /got: true; fix: .*null/],
    [
      { prompt: false },
      /cannot use this (prompt|system text); expected: it is a text with something in it, or null; got: false/,
    ],
    [{ prompt: " \n" }, /got: an empty text/],
  ];
  for (const call of calls) {
    for (const [value, said] of values) {
      await rejectsWith((async () => await call({ prompt: null, ...value }))(), "usage", said);
    }
    await call({ prompt: null });
  }
  refuses(() => resolve({ prompt: false }), "usage", /fix: null for none; leave it out for the collaborative prompt/);
  resolve({ prompt: undefined });
});
