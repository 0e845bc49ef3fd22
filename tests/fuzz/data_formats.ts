// Formats of data and of what a run leaves: rows in each form, packed files, parquet, run folders, evaluations, experiments, tasks, schedules' results and tuning tables.
import { constants, gzipSync, zstdCompressSync } from "node:zlib";
import { CompressoError } from "../../lib/core/errors.ts";
import { encodeRows } from "../../lib/data/encode_rows.ts";
import { readRowsFrom } from "../../lib/data/rows.ts";
import { loadTasks } from "../../lib/eval/evaluate.ts";
import { openEvaluationFile, QUESTIONS, WINDOWS } from "../../lib/eval/evaluation_file.ts";
import { openExperiment } from "../../lib/experiment/open.ts";
import { planCells } from "../../lib/experiment/plan.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { Store } from "../../lib/experiment/store.ts";
import { memoryFiles, memorySource } from "../../lib/files/memory.ts";
import { zlibCodecs } from "../../lib/files/platform.ts";
import { parseTuning } from "../../lib/gpu/tuning.ts";
import { readEvaluation } from "../../lib/report/evaluation.ts";
import { readRun } from "../../lib/report/read_run.ts";
import { renderReport } from "../../lib/report/report.ts";
import { recordsIn } from "../../lib/run/record_file.ts";
import { checkOutput } from "../../lib/schedule/output.ts";
import { loadHfTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";
import { madeRecord, madeRun } from "../report/made_run.ts";
import { type Case, type Files, fixture, type Format, jsonFile, linesFile, onDisk, single, utf8 } from "./format.ts";
import { bytes, type Draw, json, jsonLines, type Mutate, oneOf, text } from "./mutate.ts";

const INSTRUCT = [
  { instruction: "Where is Tom?", input: "Tom went to Rome.", output: "in Rome", choices: ["in Rome", "in Bonn"] },
  { instruction: "Say hello.", input: "", output: "Hello, 日本!" },
  { instruction: "Count.", output: "one\ntwo" },
];
const CHATS = [
  { messages: [{ role: "user", content: "Hi" }, { role: "assistant", content: "Hello." }] },
  { system: "Be brief.", messages: [{ role: "user", content: "Who?" }, { role: "assistant", content: "Tom" }] },
];
const SHARED = [
  { conversations: [{ from: "human", value: "Hi" }, { from: "gpt", value: "Hello." }] },
  { conversations: [{ from: "system", value: "S" }, { from: "human", value: "Q" }, { from: "gpt", value: "A" }] },
];
const TEXTS = [{ text: "Tom saw a train." }, { text: "A second text with é and 🙂.", ended: false }, { text: "x" }];

const ROWS: readonly (readonly [name: string, values: readonly unknown[]])[] = [
  ["instruct", INSTRUCT],
  ["chats", CHATS],
  ["shared", SHARED],
  ["texts", TEXTS],
];

let tokenizer: Tokenizer | null = null;

/** Reads rows by drawn options, and encodes them. */
export async function useRows(files: Files, draw: Draw): Promise<void> {
  tokenizer ??= await loadHfTokenizer(
    memoryFiles(["tokenizer.json", "tokenizer_config.json"].map((name) => [
      `t/${name}`,
      fixture(`tokenizer/byte_level/${name}`),
    ])),
    "t",
  );
  for (const [path, file] of files) {
    const { rows } = await readRowsFrom(memorySource(path, file), {
      codecs: zlibCodecs,
      skipBroken: draw.onceIn(2),
      ...(draw.onceIn(5) ? { limit: 1 + draw.below(3) } : {}),
    });
    if (tokenizer) encodeRows(rows.slice(0, 16), { seq: 24, prompt: null, tokenizer, skipBroken: draw.onceIn(2) });
  }
}

const ROW_FILES: Format = {
  name: "rows",
  cases: () => [
    ...ROWS.flatMap(([name, values]) => [
      ...single(`${name}.jsonl`, jsonLines, linesFile(values)),
      ...single(`${name}.json`, json, jsonFile(values)),
    ]),
    ...single("plain.txt", text, utf8("Tom went to Rome.\n\nA second paragraph, é 🙂.\n")),
    ...single("bytes.jsonl", bytes(), linesFile(TEXTS)),
  ],
  read: useRows,
};

/** Changes the packed bytes, or what is packed. */
function packed(pack: (file: Uint8Array) => Uint8Array, unpacked: Uint8Array<ArrayBuffer>): Mutate {
  return (file, draw) => draw.onceIn(3) ? new Uint8Array(pack(jsonLines(unpacked, draw))) : bytes()(file, draw);
}

function packedFormat(name: string, ending: string, pack: (file: Uint8Array) => Uint8Array): Format {
  return {
    name,
    cases: () =>
      ROWS.slice(2).flatMap(([rows, values]) =>
        single(`${rows}.jsonl.${ending}`, packed(pack, linesFile(values)), new Uint8Array(pack(linesFile(values))))
      ),
    read: useRows,
  };
}

const GZIP = packedFormat("gzip", "gz", (file) => gzipSync(file));
const ZSTD = packedFormat(
  "Zstandard",
  "zst",
  (file) => zstdCompressSync(file, { params: { [constants.ZSTD_c_checksumFlag]: 1 } }),
);

/** Bytes of page headers and of the footer, by where they differ from text and compressed pages: the first 80 and the last 700. */
function parquetPlaces(file: Uint8Array): number[] {
  const ends = Array.from({ length: Math.min(700, file.length) }, (_, index) => file.length - 1 - index);
  return [...Array.from({ length: 80 }, (_, index) => index), ...ends];
}

const PARQUET: Format = {
  name: "parquet",
  cases: () => {
    const names = ["chats_snappy", "instructions_gzip", "nulls", "odd_columns", "texts_brotli"];
    const tables = [...names, "texts_zstd"].map((name) => fixture(`parquet/${name}.parquet`));
    return single("a.parquet", bytes(parquetPlaces), ...tables);
  },
  read: useRows,
};

const RUN = madeRun("a");

const RUN_FOLDER: Format = {
  name: "run folder and records",
  cases(): Case[] {
    const { summary, options, adapter, origin } = RUN,
      alarm = {
        ...{ monitor: "constraint", step: 8, action: "stop", restored: null },
        ...{ message: "the constraint is not met", change: "let the schedule end later" },
      };
    const summaryFile = jsonFile({
      ...{ ...summary, options, inputs: { schedule: "cubic" }, adapter, origin, alarms: [alarm], files: [] },
      changes: [{ step: 12, differences: ["schedule: cubic then, linear now"] }],
    });
    const records = linesFile(Array.from({ length: 12 }, (_, index) => madeRecord(3 * index + 1)));
    const evaluation = jsonFile({ perplexity: 20.5, tokens: 100, nll: 302, windows: 3, window: 128 });
    const unfinished = new Map([["run/records.jsonl", records]]);
    return [
      {
        files: new Map([...unfinished, ["run/run.json", summaryFile], ["run/eval.json", evaluation]]),
        mutators: { "run/run.json": json, "run/records.jsonl": jsonLines, "run/eval.json": json },
      },
      { files: unfinished, mutators: { "run/records.jsonl": oneOf(jsonLines, bytes()) } },
    ];
  },
  read: (files) =>
    onDisk(files, async (folder) => {
      await recordsIn(`${folder}/run/records.jsonl`);
      renderReport([await readRun(`${folder}/run`)]);
    }),
};

const IDENTITY = { models: ["demo"], tasks: ["piqa"] };

const EVALUATION: Format = {
  name: "evaluation",
  cases(): Case[] {
    const score = { acc: 0.5, acc_stderr: 0.1, acc_norm: 0.6, acc_norm_stderr: 0.1, n: 20, truncated: 0 };
    const model = { model: "a", tasks: { piqa: score }, perplexities: [{ perplexity: 9, window: 64, tokens: 99 }] };
    const difference = { model: "b", against: "a", tasks: { piqa: { acc: { difference: 0.1, low: 0, high: 0.2 } } } };
    const several = { models: [model, { ...model, model: "b" }], differences: [difference] };
    const head = { compresso: "evaluation", version: 1, identity: IDENTITY };
    const question = { model: "demo", task: "piqa", place: 0, label: "line 1", scores: [-1, -2], truncated: false };
    const window = { model: "demo", window: 64, place: 0, nll: 90.5, tokens: 64 };
    return [
      ...single("eval.json", json, jsonFile(model), jsonFile(several)),
      ...single("questions.jsonl", oneOf(jsonLines, bytes()), linesFile([head, question, { ...question, place: 1 }])),
      ...single("windows.jsonl", jsonLines, linesFile([head, window, { ...window, place: 1 }])),
    ];
  },
  read: (files) =>
    onDisk(files, async (folder) => {
      if (files.has("eval.json")) renderReport([RUN], { evaluations: await readEvaluation(`${folder}/eval.json`) });
      if (files.has("questions.jsonl")) {
        using kept = await openEvaluationFile(`${folder}/questions.jsonl`, IDENTITY, { kind: QUESTIONS });
        kept.known("demo", "piqa");
      }
      if (files.has("windows.jsonl")) {
        using kept = await openEvaluationFile(`${folder}/windows.jsonl`, IDENTITY, { kind: WINDOWS });
        kept.known("demo", 64);
      }
    }),
};

/** A task as JSON, and rows for it. */
const OWN_TASK = {
  name: "own",
  context: "Q: {{question}}\nA:",
  choices: "options",
  answer: "right",
  labels: "letters",
  shots: 1,
  splits: ["test"],
  shotSplits: ["dev"],
  description: "Answer {{kind}}.",
  subset: "kind",
};
const TASK_ROW = {
  question: "Where?",
  options: ["in Rome", "in Bonn"],
  letters: ["A", "B"],
  right: "A",
  kind: "place",
};
const TASK_ROWS = [TASK_ROW, { ...TASK_ROW, right: "B", kind: "thing" }];

const EXPERIMENT: Format = {
  name: "experiment",
  cases(): Case[] {
    const definition = {
      name: "small",
      question: "Does it?",
      model: { demo: "demo" },
      data: { rows: { file: "rows.jsonl", limit: 3 }, own: { generate: { count: 2, tokens: 8 } } },
      base: { sparsity: 0.2, steps: 4, batch: 1, seq: 24, prompt: false, units: ["kv", "ffn"] },
      grid: [{ rank: [2, 4], seed: [1, 2], data: ["rows"] }, { method: ["random", "magnitude"], data: ["rows"] }],
      evaluate: {
        rows: [{ name: "answers", file: "rows.jsonl", last: 2, seq: 24 }],
        tasks: { names: ["task.json"], data: ".", limit: 3 },
      },
    };
    const identity = { weights: "0", sparsity: 0.2, seed: 1 };
    const cell = { identity, isMeasured: true, failure: { message: "failed", tries: 1 } };
    const files = new Map([
      ["experiment.json", jsonFile(definition)],
      ["rows.jsonl", linesFile(INSTRUCT)],
      ["task.json", jsonFile(OWN_TASK)],
      ["own.test.jsonl", linesFile(TASK_ROWS)],
      ["own.dev.jsonl", linesFile(TASK_ROWS)],
      ["out/cells/a/cell.json", jsonFile(cell)],
      ["out/cells/a/measures.json", jsonFile({ "rows answers": { identity: "x", values: [{ name: "n", value: 1 }] } })],
      ["out/report.json", jsonFile({ name: "small", cells: [] })],
    ]);
    return [
      { files, mutators: { "experiment.json": json } },
      {
        files,
        mutators: {
          "experiment.json": json,
          "out/cells/a/cell.json": json,
          "out/report.json": json,
        },
      },
    ];
  },
  read: (files, draw) =>
    onDisk(files, async (folder) => {
      const store = new Store(`${folder}/out`);
      for (const name of (await store.identities()).keys()) {
        await store.cellFile(name);
        await store.measured(store.cell(name));
      }
      const experiment = await openExperiment(`${folder}/experiment.json`);
      const resolved = resolveExperiment(experiment, {});
      // The plan reads the model.
      if (draw.onceIn(200)) await planCells(resolved, store);
    }),
};

const TASK: Format = {
  name: "task and its data",
  cases(): Case[] {
    const builtin = ["piqa.validation", "boolq.validation", "race.test", "winogrande.validation", "arc_easy.test"];
    const data = (name: string): [string, Uint8Array<ArrayBuffer>] => [
      `data/${name}.jsonl`,
      fixture(`tasks/${name}.jsonl`),
    ];
    return [
      {
        files: new Map([
          ["own.json", jsonFile(OWN_TASK)],
          ["data/own.test.jsonl", linesFile(TASK_ROWS)],
          ["data/own.dev.jsonl", linesFile(TASK_ROWS)],
        ]),
        mutators: { "own.json": json, "data/own.test.jsonl": jsonLines, "data/own.dev.jsonl": jsonLines },
      },
      ...builtin.map((name) => ({ files: new Map([data(name)]), mutators: { [`data/${name}.jsonl`]: jsonLines } })),
    ];
  },
  read: (files) =>
    onDisk(files, async (folder) => {
      const [first = ""] = [...files.keys()].filter((path) => path.startsWith("data/"));
      const name = files.has("own.json") ? `${folder}/own.json` : first.slice("data/".length).split(".")[0] ?? "";
      await loadTasks({ tasks: [name], taskData: `${folder}/data` });
    }),
};

const LAYER = { heads: 0.1, ffn: 0.2, sparsity: 0.15 };
const INPUT = {
  ...{ stage: "prune", step: 3, steps: 20, progress: 0.2, target: 0.3, records: [], ramp: 0.1 },
  layers: [LAYER, LAYER],
} as unknown as Parameters<typeof checkOutput>[1];

const SCHEDULE: Format = {
  name: "schedule result",
  cases: () =>
    single(
      "output.json",
      json,
      jsonFile({ sparsity: 0.2, layers: [0.1, null], freeze: [], end: false, rates: { lora: 1e-3, focus: 0.5 } }),
      jsonFile({
        sparsity: 0.2,
        freeze: [{ layer: 0, kind: "heads", units: [0, 1] }, { layer: 1, kind: "ffn" }],
        rates: {},
      }),
    ),
  read(files): Promise<void> {
    let raw: unknown;
    try {
      raw = JSON.parse(new TextDecoder().decode(files.get("output.json")));
    } catch {
      // The process of the script is stopped for such a reply.
      return Promise.reject(new CompressoError("input", { what: "cannot use the reply" }));
    }
    checkOutput(raw, INPUT);
    return Promise.resolve();
  },
};

const TUNING: Format = {
  name: "tuning table",
  cases: () =>
    single(
      "tuning.json",
      oneOf(json, text),
      utf8(`${
        JSON.stringify(
          { format: "compresso-tuning", version: 1, adapter: "a", kernels: "k", entries: { "1": "x", "2": "y" } },
          null,
          2,
        )
      }\n`),
    ),
  read(files): Promise<void> {
    parseTuning(new TextDecoder().decode(files.get("tuning.json")), { adapter: "a", kernels: "k" });
    return Promise.resolve();
  },
};

export const DATA_FORMATS: readonly Format[] = [
  ...[ROW_FILES, GZIP, ZSTD, PARQUET, RUN_FOLDER, EVALUATION, EXPERIMENT, TASK, SCHEDULE, TUNING],
];
