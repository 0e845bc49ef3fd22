// `compresso eval MODEL`: perplexity of a text, or accuracy on rows with choices. Owns the files and the report; refuses to measure.
import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { CompressoError } from "../lib/errors.ts";
import { readRows } from "../lib/io/datasets.ts";
import { DEMO, demoData } from "../lib/io/open_model.ts";
import { encodeChoices } from "../lib/run/choice_rows.ts";
import { perplexity } from "../lib/run/perplexity.ts";
import { scoreChoices } from "../lib/run/score.ts";
import { verb } from "./command.ts";
import { formatShare, print, printJson } from "./output.ts";
import { NO_PROMPT_OPTION, PROMPT_OPTION, type PromptSetting, promptText } from "./prompt.ts";
import { readText } from "./read_text.ts";
import { NO_TUNING_OPTION, TUNING_OPTION } from "./tuning.ts";
import { byteCount, oneOf, wholeNumber } from "./values.ts";
import { ADAPTER_OPTION, BASE_DTYPE_HELP, BASE_DTYPES, type Loaded, tokenizerOf, withModel } from "./with_model.ts";

const DEFAULT_WINDOW = 512;
/** Tokens of a pass: perplexity and scoring fill their batches up to about so many. */
const BATCH_TOKENS = 2048;
/** About what a tokenizer makes of English; only to tell whether the run will be long. */
const CHARS_PER_TOKEN = 4;

/** Declares the verb. */
export function evaluate(): CommandUnknownOpts {
  return verb("eval", {
    description: "Measure a model: perplexity of a text, or accuracy on rows with choices.",
    examples: [
      "eval path/to/model --text book.txt --window 512 --limit-chars 100000 --json",
      "eval demo --data fixtures/demo_data/heldout.jsonl",
    ],
  })
    .argument("<model>", "a Hugging Face folder, a .gguf file, or demo")
    .option("--text <file>", "a UTF-8 text: perplexity over whole windows, each read alone, no BOS added")
    .option(
      "--window <tokens>",
      `tokens of a window (default: ${DEFAULT_WINDOW}, or the model's context where that is shorter)`,
      wholeNumber("--window", { least: 2 }),
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
      "rows with choices: the share whose output is the likeliest choice (demo: its held-out rows)",
    )
    .option("--limit-rows <count>", "use only so many rows of the data", wholeNumber("--limit-rows", { least: 1 }))
    .option("--with-prompt", "put the collaborative prompt before each instruction of the data (default: none)")
    .option(...PROMPT_OPTION)
    .option(...NO_PROMPT_OPTION)
    .option(...ADAPTER_OPTION)
    .option("--base-dtype <type>", BASE_DTYPE_HELP + " (default: f16)", oneOf("--base-dtype", BASE_DTYPES))
    .option("--memory-limit <bytes>", "GPU memory to use at most, such as 6G", byteCount("--memory-limit"))
    .option(...TUNING_OPTION)
    .option(...NO_TUNING_OPTION)
    .option("--json", "print one JSON object")
    .action(async (path, options) => {
      const { json = false } = options;
      const task = await chooseTask(path, options);
      await withModel(path, options, async (loaded) => {
        const report = await task(loaded);
        if (json) printJson(report.values);
        else print(report.line);
      });
    });
}

interface Report {
  readonly values: Readonly<Record<string, number>>;
  readonly line: string;
}

interface Settings {
  readonly text?: string | undefined;
  readonly window?: number | undefined;
  readonly limitChars?: number | undefined;
  readonly maxWindows?: number | undefined;
  readonly data?: string | undefined;
  readonly limitRows?: number | undefined;
  readonly withPrompt?: true | undefined;
  readonly prompt?: PromptSetting | undefined;
}

/** Reads the file before the model is loaded, so that a wrong path fails at once. */
async function chooseTask(path: string, options: Settings): Promise<(loaded: Loaded) => Promise<Report>> {
  const { text, data = path === DEMO && text === undefined ? demoData("heldout") : undefined } = options;
  const prompt = await promptOf(options);
  if (text !== undefined && data === undefined) {
    if (prompt !== null) throw excluded("a prompt goes with --data", "--text was given");
    const content = await readText(text);
    return (loaded) => measureText(content, loaded, options);
  }
  if (data !== undefined && text === undefined) {
    const rows = await readRows(data);
    return async ({ model, adapters, signal, progress, tune }) => {
      const choices = encodeChoices(rows, {
        tokenizer: tokenizerOf(model),
        prompt,
        ...(options.limitRows === undefined ? {} : { limit: options.limitRows }),
      });
      const lengths = choices.flatMap((row) => row.choices.map((choice) => row.prefix.length + choice.length));
      await tune({
        rows: BATCH_TOKENS,
        directions: ["forward"],
        tokens: Math.max(0, ...lengths) * lengths.length,
      });
      const { accuracy, correct, total } = await scoreChoices(model, choices, {
        adapters,
        signal,
        onProgress: (done, all) => progress.phase("scoring", done / all),
      });
      return {
        values: { accuracy, correct, n: total },
        line: `accuracy ${formatShare(accuracy)} (${correct} of ${total})`,
      };
    };
  }
  throw new CompressoError("usage", {
    what: "cannot measure the model",
    rule: "give either --text or --data",
    value: text === undefined ? "neither was given" : "both were given",
  });
}

/** The prompt at inference: none unless asked for, whatever the model was trained with. */
async function promptOf({ withPrompt, prompt = withPrompt ?? false }: Settings): Promise<string | null> {
  if (withPrompt && prompt === false) throw excluded("either --with-prompt or --no-prompt", "both were given");
  return await promptText(prompt);
}

function excluded(rule: string, value: string): CompressoError {
  return new CompressoError("usage", { what: "cannot use these options together", rule, value });
}

async function measureText(
  text: string,
  { model, adapters, signal, progress, tune }: Loaded,
  options: Settings,
): Promise<Report> {
  const { window = Math.min(DEFAULT_WINDOW, model.spec.maxPosition), limitChars, maxWindows } = options;
  const chars = Math.min(text.length, limitChars ?? Infinity);
  const about = Math.min(chars / CHARS_PER_TOKEN, window * (maxWindows ?? Infinity));
  await tune({ rows: BATCH_TOKENS, directions: ["forward"], tokens: about });
  const result = await perplexity(model, text, {
    window,
    adapters,
    signal,
    ...(limitChars === undefined ? {} : { limitChars }),
    ...(maxWindows === undefined ? {} : { maxWindows }),
    onProgress: (done, all) => progress.phase("measuring", done / all),
  });
  const { perplexity: value, tokens, nll, windows } = result;
  return {
    values: { perplexity: value, tokens, nll, windows, window },
    line: `perplexity ${value.toFixed(4)} over ${tokens} tokens (${windows} windows of ${window})`,
  };
}
