// `compresso eval MODEL…`: perplexity of a text, accuracy on rows with choices, or tasks. Owns the options and the report of one or several models; refuses to measure.
import type { CommandUnknownOpts } from "../../packages.ts";
import { TASK_NAMES } from "../../../lib/eval/registry.ts";
import { CompressoError } from "../../../lib/core/errors.ts";
import { DEMO, demoData } from "../../../lib/disk/open_model.ts";
import { checkPerplexity } from "../../../lib/eval/perplexity.ts";
import { verb } from "../../command.ts";
import { checkEach } from "./models.ts";
import { chooseRows } from "./rows.ts";
import { differences, differenceTable, type Measured, measurementTable, valuesOf } from "./report.ts";
import { chooseTasks } from "./tasks.ts";
import { chooseText, DEFAULT_WINDOW } from "./text.ts";
import type { EvalSettings, EvalWork } from "./work.ts";
import { print, printJson } from "../../terminal/output.ts";
import { NO_TUNING_OPTION, TUNING_OPTION } from "../../tuning.ts";
import { byteCount, oneOf, outputPath, wholeNumber, wholeNumbers, wordList } from "../../options/values.ts";
import {
  ADAPTER_OPTION,
  BASE_DTYPE_HELP,
  BASE_DTYPES,
  readAdapters,
  tokenizerOf,
  withModel,
} from "../../with_model.ts";

/** Declares the verb. */
export function evaluate(): CommandUnknownOpts {
  return verb("eval", {
    description:
      "Measure models: perplexity of a text, accuracy on rows with choices, or tasks as lm-evaluation-harness asks them.",
    examples: [
      "eval path/to/model --text book.txt --window 128,512 --limit-chars 100000 --json",
      "eval path/to/model --text book.txt --window 512 --stride 256",
      "eval demo --data fixtures/demo_data/heldout.jsonl",
      "eval dense.gguf runs/mine/model --tasks arc_easy,piqa --task-data data --limit 200 --out scores.jsonl",
    ],
  })
    .argument(
      "<model...>",
      "a Hugging Face folder, a .gguf file, or demo; of several the first is what the others are compared with",
    )
    .option("--text <file>", "a UTF-8 text: perplexity over whole windows, each read alone, no BOS added")
    .option(
      "--window <tokens>",
      `tokens of a window, or several such with commas (default: ${DEFAULT_WINDOW}, or the shortest context of the models where that is less)`,
      wholeNumbers("--window", { least: 2 }),
    )
    .option(
      "--stride <tokens>",
      "let windows slide by so many tokens; only those that are new in a window count (default: windows side by side)",
      wholeNumber("--stride", { least: 1 }),
    )
    .option(
      "--limit-chars <count>",
      "use only so many characters of the text",
      wholeNumber("--limit-chars", { least: 1 }),
    )
    .option(
      "--max-windows <count>",
      "measure only so many windows",
      wholeNumber("--max-windows", { least: 1 }),
    )
    .option(
      "--data <file>",
      "instructions with a field choices, texts with the output among them: the share whose output is the likeliest (demo alone: its held-out rows)",
    )
    .option("--limit-rows <count>", "use only so many rows of the data", wholeNumber("--limit-rows", { least: 1 }))
    .option(
      "--with-prompt",
      "put the collaborative prompt before each instruction of the data, or each question of the tasks that has a context (default: none)",
    )
    .option("--prompt <file>", "put your own text there, in place of that prompt")
    .option("--no-prompt", "put none there, which is the default")
    .option(
      "--tasks <list>",
      `tasks with commas between: ${
        TASK_NAMES.join(", ")
      } (mmlu with 5 examples, bbh with 3), single subsets such as mmlu_anatomy, or a file with your own, such as ./mine.ts or ./mine.json`,
      wordList("--tasks"),
    )
    .option(
      "--task-data <folder>",
      "where the tasks' data lie, as <task>.<split>.jsonl (or .json, .parquet, .jsonl.gz, .jsonl.zst)",
    )
    .option(
      "--limit <count>",
      "use only so many questions of each task, or of each of its subsets",
      wholeNumber("--limit", { least: 1 }),
    )
    .option(
      "--refuse-long",
      "fail where a question does not fit the model's context (default: its beginning is cut off)",
    )
    .option(
      "--out <file>",
      "keep each scored question of the tasks, or each measured window of the text, as a JSON line; the same command goes on from there",
      outputPath("--out"),
    )
    .option(ADAPTER_OPTION[0], `${ADAPTER_OPTION[1]}; of several models to each`)
    .option("--base-dtype <type>", BASE_DTYPE_HELP + " (default: f16)", oneOf("--base-dtype", BASE_DTYPES))
    .option("--memory-limit <bytes>", "GPU memory to use at most, such as 6G", byteCount("--memory-limit"))
    .option(...TUNING_OPTION)
    .option(...NO_TUNING_OPTION)
    .option("--json", "print one JSON object")
    .action(async (paths, options) => {
      const { json = false } = options;
      using work = await chooseWork(paths, options);
      const measured: Measured[] = [];
      for (const path of paths) {
        const result = await withModel(path, { ...options, ...work.interrupt }, (loaded) => work.measure(path, loaded));
        measured.push({ model: path, ...result });
      }
      const [first, ...others] = measured;
      if (!first) return;
      if (others.length === 0) {
        if (json) printJson(valuesOf(first));
        else for (const line of measurementTable([first])) print(line);
        return;
      }
      const gaps = others.map((other) => differences(first, other));
      if (json) {
        const models = measured.map((one) => ({ model: one.model, ...valuesOf(one) }));
        return printJson({ models, differences: gaps.map(({ values }) => values) });
      }
      for (const line of measurementTable(measured)) print(line);
      for (const line of differenceTable(first, gaps)) print(line);
    });
}

/** Refuses what is known of the models before the first one is measured. */
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
        ...(stride === undefined ? {} : { stride }),
      });
    }
  });
}

/** What is to be measured: files are read before a model is loaded, so that a wrong path fails at once. */
async function chooseWork(paths: readonly string[], options: EvalSettings): Promise<EvalWork> {
  const twice = paths.find((path, index) => paths.indexOf(path) !== index);
  if (twice !== undefined) {
    const what = "cannot compare models", rule = "each is named once";
    throw new CompressoError("usage", { what, rule, value: twice, fix: "leave it out once" });
  }
  const isDemo = paths.length === 1 && paths[0] === DEMO;
  const isElse = options.text !== undefined || options.tasks !== undefined;
  const data = options.data ?? (isDemo && !isElse ? demoData("heldout") : undefined);
  const given = Object.entries({ "--text": options.text, "--data": data, "--tasks": options.tasks })
    .filter(([, value]) => value !== undefined).map(([name]) => name);
  if (given.length !== 1) {
    throw new CompressoError("usage", {
      what: "cannot measure the model",
      rule: "give either --text, --data or --tasks",
      value: given.length === 0 ? "none was given" : `${given.join(" and ")} were given`,
      fix: "give one of the three",
    });
  }
  checkOptions(given[0] ?? "", options);
  await checkModels(paths, options);
  if (options.text !== undefined) return await chooseText(paths, options.text, options);
  if (options.tasks !== undefined) return await chooseTasks(paths, options.tasks, options);
  return await chooseRows(paths, data ?? "", options);
}

/** Which options each work has; some belong to several. */
const BELONGS: Readonly<Record<string, readonly (keyof EvalSettings)[]>> = {
  "--text": ["window", "stride", "limitChars", "maxWindows", "out"],
  "--data": ["limitRows", "withPrompt", "prompt"],
  "--tasks": ["taskData", "limit", "refuseLong", "out", "withPrompt", "prompt"],
};

function checkOptions(work: string, options: EvalSettings): void {
  for (const name of new Set(Object.values(BELONGS).flat())) {
    if (options[name] === undefined || BELONGS[work]?.includes(name)) continue;
    const works = Object.keys(BELONGS).filter((other) => BELONGS[other]?.includes(name));
    const flag = name === "prompt" ? "a prompt" : `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    throw new CompressoError("usage", {
      what: "cannot use these options together",
      rule: `${flag} goes with ${works.join(" or ")}`,
      value: work === "--data" && options.data === undefined
        ? "nothing was given to measure, which takes the demo's own rows"
        : `${work} was given`,
      fix: `leave ${flag} out, or give ${works.join(" or ")} alone`,
    });
  }
}
