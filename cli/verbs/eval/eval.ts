// `compresso eval MODEL…`: perplexity of a text, accuracy on rows with choices, or tasks, of one or several models.
import config from "../../../deno.json" with { type: "json" };
import { checkAlike } from "../../../lib/ranks/alike.ts";
import { modelDigest } from "../../../lib/files/fingerprint.ts";
import type { CommandUnknownOpts } from "../../packages.ts";
import { TASK_NAMES } from "../../../lib/eval/registry.ts";
import { type CompressoError, refusal, refuse } from "../../../lib/core/errors.ts";
import { DEMO, demoData, modelPath } from "../../../lib/local/open_model.ts";
import { checkPerplexity } from "../../../lib/eval/perplexity.ts";
import type { MpiRanks } from "../../../lib/ranks/mpi.ts";
import { withRanks } from "../../ranks.ts";
import { MODEL_TEXT, verb } from "../../command.ts";
import { fetchInputs } from "../../hub.ts";
import { chooseFidelity } from "./fidelity.ts";
import { checkEach } from "./models.ts";
import { chooseRows } from "./rows.ts";
import { differences, differenceTable, type Measured, measurementTable, valuesOf } from "./report.ts";
import { chooseTasks } from "./tasks.ts";
import { chooseText, DEFAULT_WINDOW } from "./text.ts";
import type { EvalSettings, EvalWork } from "./work.ts";
import { print, printJson } from "../../terminal/output.ts";
import {
  ADAPTER_FLAG,
  addFlags,
  type FlagTable,
  type FlagValues,
  JSON_FLAG,
  MODEL_FLAGS,
  wholeNumbers,
} from "../../options/flags.ts";
import { type ModelSettings, readAdapters, tokenizerOf, withModel } from "../../with_model.ts";

const FLAGS = {
  text: {
    type: "value",
    placeholder: "file",
    help:
      "measure the perplexity of a UTF-8 text, in windows that are read independently; each starts with BOS if the tokenizer has one",
  },
  against: {
    type: "value",
    placeholder: "model",
    help:
      "compare each model with this dense one on --text: KL divergence of the next token and share of equal first choices, over the second half of each window, as llama.cpp's --kl-divergence",
  },
  window: {
    type: "value",
    placeholder: "tokens",
    parse: wholeNumbers("--window", 2),
    defaultText: `${DEFAULT_WINDOW}, or the shortest context of the models if that is less`,
    help: "tokens per window; several sizes with commas",
  },
  stride: {
    type: "count",
    least: 1,
    placeholder: "tokens",
    defaultText: "the window size: no overlap",
    help: "tokens between the starts of two windows; if windows overlap, each token counts once",
  },
  limitChars: { type: "count", least: 1, help: "most characters of the text to use" },
  maxWindows: { type: "count", least: 1, help: "most windows to measure" },
  data: {
    type: "value",
    placeholder: "file",
    help:
      "rows with a field choices that contains the output: measure how often the output is the most likely choice (default for the model demo: its held-out rows)",
  },
  exactMatch: {
    type: "switch",
    help:
      "with --data: let the model write an answer to each row, and measure how often it equals the output; rows need no choices",
  },
  limitRows: { type: "count", least: 1, help: "most rows of the data to use" },
  withPrompt: {
    type: "switch",
    help:
      "put the collaborative prompt before each instruction of --data and each question of --tasks that has a context (default: no prompt)",
  },
  prompt: {
    type: "prompt",
    placeholder: "file",
    help: "a file with your own prompt, in place of the collaborative one",
    off: "use no prompt (the default)",
  },
  tasks: {
    type: "list",
    help: `comma-separated tasks: ${
      TASK_NAMES.join(", ")
    } (mmlu and gsm8k with 5 examples, bbh with 3), single subsets such as mmlu_anatomy, or files with your own tasks, such as ./mine.ts or ./mine.json; gsm8k=rows.jsonl names the file of the questions, too`,
  },
  taskData: {
    type: "value",
    placeholder: "folder",
    help: "folder with the data of the tasks: <task>.<split>.jsonl (or .json, .parquet, .jsonl.gz, .jsonl.zst)",
  },
  limit: { type: "count", least: 1, help: "most questions to use of each task, or of each of its subsets" },
  maxTokens: {
    type: "count",
    least: 1,
    placeholder: "tokens",
    defaultText: "as each task says",
    help: "with --tasks: most tokens of an answer that the model writes",
  },
  runCode: {
    type: "switch",
    help:
      "with --tasks humaneval: run the programs that the model writes, each in a process without files, network and other processes, for 3 s of processor time, 10 s in all and 512 MiB; needs Linux and python3",
  },
  plain: {
    type: "switch",
    help: "with --tasks: ask for written answers without the model's chat template",
  },
  refuseLong: {
    type: "switch",
    help: "fail if a question does not fit into the model's context (default: its beginning is cut off)",
  },
  out: {
    type: "text",
    placeholder: "file",
    help:
      "file that keeps each scored question and measured window as a line of JSON; the same command resumes from it",
  },
  adapter: { ...ADAPTER_FLAG, help: `${ADAPTER_FLAG.help}; each of several models gets it` },
  ...MODEL_FLAGS,
  json: JSON_FLAG,
} as const satisfies FlagTable;

/** Declares the verb. */
export function evaluate(): CommandUnknownOpts {
  const command = verb("eval", {
    description:
      "Measure models: perplexity on a text, accuracy on multiple-choice rows, or scores of tasks as in lm-evaluation-harness.",
    examples: [
      "eval path/to/model --text book.txt --window 128,512 --limit-chars 100000 --json",
      "eval path/to/model --text book.txt --window 512 --stride 256",
      "eval runs/mine/model --against dense.gguf --text book.txt --max-windows 20",
      "eval demo --data fixtures/demo_data/heldout.jsonl --exact-match",
      "eval path/to/model --tasks gsm8k=gsm8k.jsonl,humaneval=HumanEval.jsonl.gz --run-code --json",
      "eval dense.gguf runs/mine/model --tasks arc_easy,piqa --task-data data --limit 200 --out scores.jsonl",
    ],
  }).argument("<model...>", `${MODEL_TEXT}; the first of several is the baseline`);
  return addFlags(command, FLAGS).action(async (paths: readonly string[], options: FlagValues<typeof FLAGS>) =>
    await withRanks((ranks) => run(paths, { ...options, ranks }), { asJson: options.json ?? false })
  );
}

async function run(
  paths: readonly string[],
  { ranks, ...options }: EvalSettings & {
    readonly ranks: MpiRanks | null;
    readonly json?: boolean | undefined;
  },
): Promise<void> {
  if (ranks && options.out !== undefined) throw noFile(ranks.size);
  const { json = false } = options;
  const { against } = options;
  await fetchInputs({ model: [...paths, against], data: [options.data], adapter: [options.adapter] });
  if (ranks) {
    const { memoryLimit: _bytes, tuning: _kernels, ...facts }: typeof options & ModelSettings = options;
    const files = [...paths, ...(against === undefined ? [] : [against])];
    const weights = await Array.fromAsync(files, async (path) => await modelDigest(await modelPath(path)));
    await checkAlike(ranks, { version: config.version, paths, weights, ...facts });
  }
  using work = await chooseWork(paths, options);
  const measured: Measured[] = [], { readDense } = work;
  if (against !== undefined && readDense) {
    const { adapter: _models, ...settings } = { ...options, ...work.interrupt, ranks };
    await withModel(against, settings, (loaded) => readDense(loaded));
  }
  for (const path of paths) {
    const result = await withModel(
      path,
      { ...options, ...work.interrupt, ranks },
      (loaded) => work.measure(path, loaded),
    );
    measured.push({ model: path, ...result });
  }
  const [first, ...others] = measured;
  if (!first) return;
  if (others.length === 0) {
    if (json) printJson(valuesOf(first));
    else for (const line of measurementTable([first])) print(line);
    return;
  }
  if (first.kind === "fidelity") {
    if (json) printJson({ models: measured.map((one) => ({ model: one.model, ...valuesOf(one) })) });
    else for (const line of measurementTable(measured)) print(line);
    return;
  }
  const gaps = others.map((other) => differences(first, other));
  if (json) {
    const models = measured.map((one) => ({ model: one.model, ...valuesOf(one) }));
    return printJson({ models, differences: gaps.map(({ values }) => values) });
  }
  for (const line of measurementTable(measured)) print(line);
  for (const line of differenceTable(first, gaps)) print(line);
}

/** Options that a comparison with the dense model does not have. */
function checkAgainst({ against, stride, out }: EvalSettings): void {
  for (const [flag, value] of [["--stride", stride], ["--out", out]] as const) {
    if (against === undefined || value === undefined) continue;
    refuse("usage", "cannot use these options together", {
      rule: `--against measures windows that do not overlap, and keeps nothing: it goes without ${flag}`,
      value: `${flag} ${value}`,
      fix: `leave ${flag} out`,
    });
  }
}

function noFile(ranks: number): CompressoError {
  return refusal("usage", "cannot keep scores in the file of --out", {
    rule: "one process writes to it",
    value: `${ranks} ranks`,
    fix: "leave --out out, or start one process",
  });
}

/** Checks the models before the first one is measured. */
async function checkModels(
  paths: readonly string[],
  { text, window, stride, adapter, out }: EvalSettings,
): Promise<void> {
  await checkEach(paths, { out }, async ({ source: { spec }, tokenizer }) => {
    tokenizerOf({ tokenizer });
    await readAdapters(adapter, spec);
    for (const size of text === undefined ? [] : window ?? []) {
      checkPerplexity({ spec }, "", {
        window: size,
        stride,
      });
    }
  });
}

/** What is measured. Files are read before a model is loaded, so that a wrong path fails at once. */
async function chooseWork(paths: readonly string[], options: EvalSettings): Promise<EvalWork> {
  const twice = paths.find((path, index) => paths.indexOf(path) !== index);
  if (twice !== undefined) {
    const what = "cannot compare models", rule = "each model is named once";
    refuse("usage", what, { rule, value: twice });
  }
  const isDemo = paths.length === 1 && paths[0] === DEMO;
  const isElse = options.text !== undefined || options.tasks !== undefined;
  const data = options.data ?? (isDemo && !isElse ? demoData("heldout") : undefined);
  const given = Object.entries({ "--text": options.text, "--data": data, "--tasks": options.tasks })
    .filter(([, value]) => value !== undefined).map(([name]) => name);
  if (given.length !== 1) {
    refuse("usage", "cannot measure the model", {
      rule: "give either --text, --data or --tasks",
      value: given.length === 0 ? "none was given" : `${given.join(" and ")} were given`,
    });
  }
  checkOptions(given[0] ?? "", options);
  checkAgainst(options);
  await checkModels(paths, options);
  if (options.text !== undefined && options.against !== undefined) {
    return await chooseFidelity(paths, options.text, { ...options, against: options.against });
  }
  if (options.text !== undefined) return await chooseText(paths, options.text, options);
  if (options.tasks !== undefined) return await chooseTasks(paths, options.tasks, options);
  return await chooseRows(paths, data ?? "", options);
}

/** Options of each kind of work; some belong to several. */
const BELONGS: Readonly<Record<string, readonly (keyof EvalSettings)[]>> = {
  "--text": ["against", "window", "stride", "limitChars", "maxWindows", "out"],
  "--data": ["limitRows", "exactMatch", "withPrompt", "prompt"],
  "--tasks": ["taskData", "limit", "maxTokens", "plain", "runCode", "refuseLong", "out", "withPrompt", "prompt"],
};

function checkOptions(work: string, options: EvalSettings): void {
  for (const name of new Set(Object.values(BELONGS).flat())) {
    if (options[name] === undefined || BELONGS[work]?.includes(name)) continue;
    const works = Object.keys(BELONGS).filter((other) => BELONGS[other]?.includes(name));
    const flag = name === "prompt" ? "a prompt" : `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    refuse("usage", "cannot use these options together", {
      rule: `${flag} goes with ${works.join(" or ")}`,
      value: work === "--data" && options.data === undefined
        ? "without --text, --data and --tasks the demo's own rows are measured"
        : `${work} was given`,
      fix: `leave ${flag} out, or give ${works.join(" or ")} alone`,
    });
  }
}
