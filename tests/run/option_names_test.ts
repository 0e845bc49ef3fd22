// What programs give as options is checked, since Deno checks no types: names, kinds of values and words, of the options
// of a run by their table, and of every other function that takes options.
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
  sliceModel,
  toRow,
} from "../../mod.ts";
import { selectUnits, sliceLora, uniformMasks, unitTable, verifySliced } from "../../lib/masks/mod.ts";
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
import { fits } from "../../lib/run/memory/advice.ts";
import { adviseMemory, planMemory, type RunHooks } from "../../lib/run/mod.ts";
import { builtinSchedule, openSchedule } from "../../lib/schedule/mod.ts";
import { serveModel } from "../../lib/serve/mod.ts";
import { parseRows } from "../../lib/data/rows.ts";
import { METHOD_NAMES } from "../../lib/run/methods/all.ts";
import { openSpec } from "../../lib/local/open_model.ts";
import { atPaths, PRUNE_PATHS } from "../../lib/run/options/check.ts";
import { entryOf } from "../../lib/run/options/table.ts";
import { methodsOf } from "../../lib/run/options/table/entry.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { randomSource, SPEC } from "../formats/models.ts";
import { checkRefusal, refuses, rejects } from "../refuses.ts";
import { BASE } from "./helpers/demo_run.ts";

const spec = await openSpec("demo");

/** Options as a program without types has them. */
function resolve(options: Record<string, unknown>): unknown {
  return resolveOptions({ ...BASE, ...options }, spec);
}

/** What a call throws, or its promise is rejected with. */
async function thrown(call: () => unknown): Promise<unknown> {
  try {
    await call();
  } catch (error) {
    return error;
  }
  return assert.fail("expected a refusal");
}

/** Values that no option of a type has: JavaScript would take some of them as something else. */
const WRONG: Readonly<Record<string, readonly unknown[]>> = {
  count: [null, true, "10", [10], 1.5, NaN, -1],
  number: [null, true, "1e-4", "", NaN, -1, Infinity],
  parameters: [null, "5M", 0, 1.5],
  bytes: [null, "5M", 0, 1.5],
  switch: ["no", 0, null],
  word: ["foo", null, 1],
  words: ["kv", [], ["foo"], null],
  layers: [0, null, ["0"]],
  list: ["a", { rows: [] }, null],
  text: [5, "", null],
  calibration: ["own", null],
};

Deno.test("an option of a run with a value of another kind is refused by its path", async () => {
  for (const path of PRUNE_PATHS) {
    const { type, endless } = entryOf(path);
    for (const value of WRONG[type] ?? []) {
      const given = atPaths([[path, value]]);
      checkRefusal(await thrown(() => resolve(given)).catch(() => `${path}: ${value}`), "usage", { option: path });
    }
    if (endless) assert.doesNotThrow(() => resolve(atPaths([["checkpoint.path", "x"], [path, Infinity]])));
  }
  const parts = [
    ...new Set(PRUNE_PATHS.filter((path) => path.includes(".")).map((path) => path.split(".", 1)[0] ?? "")),
  ];
  for (const part of [...parts, "hooks", "monitors"]) {
    for (const value of [null, 8]) refuses(() => resolve({ [part]: value }), "usage", { option: part });
  }
  refuses(() => resolve({ monitors: { memory: null } }), "usage", { option: "monitors.memory" });
  refuses(() => resolve({ monitors: { collapse: { threshold: "0.5" } } }), "usage", {
    option: "monitors.collapse.threshold",
  });
});

Deno.test("an option that does not exist is refused by its name, with what was likely meant", async () => {
  const refused: readonly (readonly [options: Record<string, unknown>, path: string, meant?: string])[] = [
    [{ algin: 32 }, "algin", "rules.align"],
    [{ align: 32 }, "align", "rules.align"],
    [{ sparcity: 0.2 }, "sparcity", "sparsity"],
    [{ layouts: "uniform" }, "layouts", "layout"],
    [{ maskRate: 0.2 }, "maskRate", "rates.mask"],
    [{ xyzzyxyzzy: null }, "xyzzyxyzzy"],
    [{ export: {} }, "export", "hooks.beforeExport"],
    [{ rates: { maskRate: 0.2 } }, "rates.maskRate", "rates.mask"],
    [{ rates: { limit: 5 } }, "rates.limit", "rates.logAlphaLimit"],
    [{ lora: { rankk: 4 } }, "lora.rankk", "lora.rank"],
    [{ lora: { weights: new Map() } }, "lora.weights"],
    [{ rules: { protected: [0] } }, "rules.protected", "rules.protect"],
    [{ rules: { minimum: { head: 2 } } }, "rules.minimum.head", "rules.minimum.heads"],
    [{ checkpoint: { path: "x", every: 1, evry: 2 } }, "checkpoint.evry", "checkpoint.every"],
    [{ hooks: { beforestep: () => {} } }, "hooks.beforestep", "hooks.beforeStep"],
    [
      { monitors: { collapse: { treshold: 0.5 } } },
      "monitors.collapse.treshold",
      "monitors.collapse.threshold",
    ],
    [{ sparsity: undefined, size: { parameter: 5 } }, "size.parameter", "size.parameters"],
    [{ monitors: { loss: { action: "warn" } } }, "monitors.loss"],
  ];
  for (const [options, path, meant] of refused) {
    const { parts } = checkRefusal(await thrown(() => resolve(options)), "usage", { option: path });
    if (meant !== undefined) assert.equal(parts.fix, `did you mean ${meant}?`, path);
  }
  const words = [["layout", "unifrom", "uniform"], ["method", "tailor", "taylor"], ["start", "const", "constant"]];
  for (const [name = "", value, meant] of words) {
    const { parts } = checkRefusal(await thrown(() => resolve({ [name]: value })), "usage", { option: name });
    assert.equal(parts.fix, `did you mean ${meant}?`);
  }
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
  assert.doesNotThrow(() => resolve({ packing: false, recompute: true, lora: { rsLora: true } }));
});

Deno.test("an option whose condition in the table does not hold is refused; so are mixed sizes", () => {
  for (const path of PRUNE_PATHS) {
    const methods = methodsOf(entryOf(path));
    const { type, words = [] } = entryOf(path);
    const value: unknown = { count: 2, number: 0.5, word: words[0], calibration: [] }[String(type)];
    if (methods.length === METHOD_NAMES.length || value === undefined) continue;
    const other = methods.includes("magnitude") ? "compresso" : "magnitude";
    refuses(() => resolve(atPaths([[path, value], ["method", other]])), "usage", { option: path, value: other });
  }
  refuses(() => resolve({ start: "constant", rates: { spread: 3 } }), "usage", { option: "rates.spread" });
  refuses(() => resolve({ vocab: { size: 500 } }), "usage", { option: "vocab.size", names: "kv,ffn" });
  const file = { format: "hf", dtype: "f16" };
  for (
    const size of [
      {},
      { bytes: 5 },
      { bytes: 5, file: { format: "ggfu", dtype: "f16" } },
      { bytes: 5, file: { format: "hf", dtype: "q8_0" } },
      { parameters: 8e5, bytes: 1e6 },
      { bytes: 2e6, file, name: "x" },
    ]
  ) refuses(() => resolve({ sparsity: undefined, size }), "usage");
});

Deno.test("prune, pruneToFolder and a memory plan refuse what they do not know, before anything is written", async () => {
  using device = await openDevice();
  using model = await loadModel("demo", { device });
  const stray = { ...BASE, algin: 32 };
  refuses(() => prune(model, stray), "usage", { option: "algin" });
  const planned: readonly (readonly [Record<string, unknown>, path: string])[] = [
    [{ lora: { ranks: 4 } }, "lora.ranks"],
    [{ rules: { protected: [0] } }, "rules.protected"],
    [{ layout: "unifrom" }, "layout"],
    [{ recompute: "no" }, "recompute"],
    [{ vocab: { size: 500 } }, "vocab.size"],
  ];
  for (const [options, path] of planned) await rejects(() => planMemory(spec, options), "usage", { option: path });
  await inTemporaryFolder(async (folder) => {
    const out = `${folder}/out`, size = { bytes: 1.5e6, file: { format: "gguf", dtype: "f16" } };
    const refused: readonly (readonly [Record<string, unknown>, path?: string])[] = [
      [{ algin: 32 }, "algin"],
      [{ checkpoint: { path: "x", every: 1 } }, "checkpoint"],
      [{ rates: { maskRate: 1 } }, "rates.maskRate"],
      [{ export: { dtypes: "f16" } }, "export.dtypes"],
      [{ export: { replace: "no" } }, "export.replace"],
      [{ resume: "no" }, "resume"],
      [{ export: null }, "export"],
      [{ export: { dtype: "f61" } }, "export.dtype"],
      [{ export: { formats: [] } }],
      [{ layout: "unifrom" }, "layout"],
      [{ export: { formats: ["gguf"], generation: {} } }],
      [{ sparsity: undefined, size, export: { formats: ["hf"] } }],
      [{ calibration: "texts.jsonl" }, "calibration"],
      [{ calibration: null }, "calibration"],
    ];
    for (const [options, path] of refused) {
      const given = { ...BASE, calibration: "none", out, ...options } as const;
      await rejects(() => pruneToFolder(model, given), "usage", path === undefined ? {} : { option: path });
    }
    await assert.rejects(Deno.stat(out), Deno.errors.NotFound);
  });
});

Deno.test("names of flags and of other toolkits are answered with the option of a run", () => {
  const cases = {
    targetParams: "size.parameters",
    loraRate: "rates.lora",
    vocabSize: "vocab.size",
    learningRate: "rates.lora",
    pruningRatio: "sparsity",
    maxSteps: "steps",
    batchSize: "batch",
  };
  for (const [name, meant] of Object.entries(cases)) {
    const options = { rows: [], sparsity: 0.2, steps: 2, [name]: 5 };
    refuses(() => resolveOptions(options), "usage", { option: name, value: 5, names: `did you mean ${meant}?` });
  }
});

Deno.test('"none" turns calibration and the prompt off, by whichever function a run starts', () => {
  const base = { rows: [], sparsity: 0.2, steps: 2 };
  const none = resolveOptions({ ...base, calibration: "none", prompt: "none" });
  assert.deepEqual([none.calibration, none.prompt], [false, null]);
  assert.deepEqual(none, resolveOptions({ ...base, prompt: null }));
  assert.notEqual(resolveOptions(base).prompt, null);
  const stray: object = { calibration: null };
  refuses(() => resolveOptions({ ...base, ...stray }), "usage", {
    option: "calibration",
    value: "null",
    names: "none",
  });
});

Deno.test("an export refuses options, layouts, formats and types that do not exist, and writes nothing", async () => {
  const source = randomSource(SPEC), base = { tokenizer: null, name: "made" };
  const refused: readonly (readonly [Record<string, unknown>, name: string])[] = [
    [{ format: ["hf"] }, "formats"],
    [{ formats: [] }, "hf"],
    [{ formats: "hf" }, "hf"],
    [{ formats: ["hf", "ggfu"] }, "ggfu"],
    [{ dtype: "f61" }, "f61"],
    [{ ggufDtype: "q8" }, "q8_0"],
    [{ layout: "unifrom" }, "uniform"],
    [{ tokenizer: undefined }, "tokenizer"],
    [{ name: undefined }, "name"],
    [{ name: 5 }, "5"],
    [{ formats: ["hf"], ggufDtype: "q4_0" }, "ggufDtype"],
    [{ formats: ["gguf"], generation: {} }, "generation"],
  ];
  await inTemporaryFolder(async (folder) => {
    const out = `${folder}/out`;
    for (const [options, name] of refused) {
      await rejects(() => exportModel(source, out, { ...base, ...options }), "usage", { names: name });
    }
    await assert.rejects(Deno.stat(out), Deno.errors.NotFound);
    await exportModel(source, out, { ...base, formats: ["hf"] });
  });
});

Deno.test("every function with options refuses one that it does not have, says what was meant, and takes no text as a number", async () => {
  using device = await openDevice();
  using model = await loadModel("demo", { device });
  const ids = [5, 6, 7, 8], text = { kind: "text", text: "Tom went to Rome.", extra: {} } as const;
  const table = unitTable(spec, ["ffn"]), scores = new Float32Array(table.count);
  const { tokenizer, source } = model, how = { device, adapters: {}, tokens: [[5, 6]] };
  assert.ok(tokenizer);
  const data = await readRows(demoData("heldout"), { limit: 2 }), choices = { tokenizer, prompt: null };
  const adapter = { spec, config: { rank: 2, alpha: 2, targets: ["q" as const] }, weights: new Map(), baseModel: null };
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/texts.jsonl`, texts = { count: 1, tokens: 4 };
    const random = randomSource(SPEC), lora = { rank: 1, alpha: 1, targets: [], weights: new Map() };
    /** A call, a name that it does not have and the one that was meant, and a number that it has. */
    const calls: readonly (readonly [
      call: (options: object) => unknown,
      stray: string,
      meant: string | null,
      number?: string,
    ])[] = [
      [(options) => perplexity(model, ids, { window: 4, ...options }), "adaptors", "adapters", "stride"],
      [(options) => rowPerplexity(model, [text], { seq: 8, ...options }), "adaptors", "adapters", "seq"],
      [(options) => evaluateTasks(model, { tasks: [], taskData: "x", ...options }), "adaptors", "adapters", "limit"],
      [(options) => generate(model, ids, { maxTokens: 1, ...options }).next(), "adaptors", "adapters", "topK"],
      [
        (options) => generateText(model, "Tom", { maxTokens: 1, ...options }).next(),
        "adaptors",
        "adapters",
        "temperature",
      ],
      [(options) => createChat(model, { maxTokens: 1, ...options }), "adaptors", "adapters", "maxTokens"],
      [openDevice, "memoryLimits", "memoryLimit", "memoryLimit"],
      [describeAdapter, "power", "powerPreference"],
      [(options) => loadModel("demo", { device, ...options }), "dtype", "baseDtype"],
      [(options) => loadModelFrom(source, { device, ...options }), "tokeniser", "tokenizer"],
      [(options) => readRows(demoData("heldout"), options), "max", null, "limit"],
      [(options) => scoreChoices(model, [], options), "adapter", "adapters"],
      [(options) => logLikelihoods(model, [], options), "onScore", "onScores"],
      [(options) => tokenLogprobs(model, [[5]], options), "tops", "top", "top"],
      [(options) => writeTexts(model, { ...texts, ...options }), "temp", "temperature", "temperature"],
      [(options) => writeTextFile(model, { ...texts, path, ...options }), "skip", null, "count"],
      [(options) => benchModels([], options), "repeat", "repeats", "repeats"],
      [(options) => openSchedule("cubic", options), "trusted", "trust", "warmup"],
      [(options) => renderReport([], options), "titel", "title"],
      [(options) => unitTable(spec, ["ffn"], options), "protected", "protect", "align"],
      [(options) => encodeChoices(data.rows, { ...choices, ...options }), "max", null, "limit"],
      [(options) => verifySliced(source, source, { ...how, ...options }), "tol", "tolerance", "tolerance"],
      [(options) => writePeftAdapter(folder, { ...adapter, ...options }), "base", "baseModel"],
      [(options) => toRow({ text: "a" }, options), "text", "textField"],
      [(options) => selectUnits(table, scores, { target: 0.2, ...options }), "layerTarget", "layerTargets"],
      [(options) => sliceModel(random, options), "mask", "masks"],
      [(masks) => sliceModel(random, { masks }), "heads", "head"],
      [(masks) => sliceLora(SPEC, { masks, lora }), "fnn", "ffn"],
      [(options) => uniformMasks(SPEC, {}, { masks: {}, ...options }), "targets", "target", "target"],
      [(scores) => uniformMasks(SPEC, scores, { masks: {} }), "hiden", "hidden"],
      [(options) => planMemory(SPEC, { seq: 64, ...options }), "bacth", "batch", "seq"],
      [(options) => adviseMemory(SPEC, { seq: 64, ...options }, {}), "bacth", "batch", "seq"],
      [(budget) => adviseMemory(SPEC, { seq: 64 }, budget), "memory", "memoryLimit", "memoryLimit"],
      [async (budget) => fits(await planMemory(SPEC, { seq: 64 }), budget), "limit", null],
      [(options) => builtinSchedule("cubic", options), "warmpu", "warmup", "warmup"],
    ];
    for (const [call, stray, meant, number] of calls) {
      const { parts } = checkRefusal(await thrown(() => call({ [stray]: 5 })), "usage", { option: stray });
      if (meant !== null) assert.equal(parts.fix, `did you mean ${meant}?`);
      for (const value of number === undefined ? [] : ["4", null]) {
        await rejects(async () => await call({ [number ?? ""]: value }), "usage", { option: number ?? "" });
      }
    }
    assert.deepEqual([...Deno.readDirSync(folder)], []);
  });
  await rejects(() => openDevice(JSON.parse('{ "powerPreference": "fast" }')), "usage", { value: "fast" });
  await rejects(() => loadModel("demo", JSON.parse('{ "baseDtype": "int8" }')), "usage", { value: "int8" });
  refuses(() => Reflect.apply(unitTable, null, [spec, ["ffn"], { minimum: { fnn: 8 } }]), "usage", {
    option: "minimum.fnn",
  });
  refuses(() => Reflect.apply(unitTable, null, [spec, "kv,ffn"]), "usage", { value: "kv,ffn" });
  refuses(() => Reflect.apply(selectUnits, null, [table, scores, { size: 5e5 }]), "usage", { option: "size" });
  refuses(() => Reflect.apply(sliceLora, null, [spec, { masks: {} }]), "usage");
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
  for (const call of calls) {
    for (const value of [true, false, " \n"]) {
      const options: object = { prompt: value };
      await rejects(async () => await call({ prompt: null, ...options }), "usage");
    }
    await call({ prompt: null });
  }
  refuses(() => resolve({ prompt: false }), "usage", { value: "false" });
  resolve({ prompt: undefined });
});
