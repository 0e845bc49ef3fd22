// `compresso data`: inspects the rows of a file, and generates texts with a model.
import { join } from "node:path";
import type { CommandUnknownOpts } from "../../packages.ts";
import { CompressoError, refuse } from "../../../lib/core/errors.ts";
import { exists, isFolder } from "../../../lib/files/exists.ts";
import { modelPath } from "../../../lib/local/open_model.ts";
import { sequencesAtOnce } from "../../../lib/nn/decode/batch.ts";
import { writeAnswerFile } from "../../../lib/generate/answers_file.ts";
import { writeTextFile } from "../../../lib/generate/self_data_file.ts";
import { partPath, type SelfDataResult } from "../../../lib/generate/series_file.ts";
import type { Row } from "../../../lib/data/row.ts";
import { dataPath, readRows } from "../../../lib/local/rows.ts";
import { withRanks } from "../../ranks.ts";
import { MODEL_TEXT, verb } from "../../command.ts";
import { fetchInputs } from "../../hub.ts";
import { inspectData } from "./inspect.ts";
import { fileDigest, fileNames, modelDigest } from "../../../lib/files/fingerprint.ts";
import { MAX_SEED } from "../../../lib/core/random.ts";
import { formatCount, print, printJson } from "../../terminal/output.ts";
import { refuseInputs } from "../../refuse_inputs.ts";
import { duration } from "../../../lib/report/numbers.ts";
import { addFlags, type FlagTable, type FlagValues, JSON_FLAG, MODEL_FLAGS, required } from "../../options/flags.ts";
import { type Loaded, type ModelSettings, withModel } from "../../with_model.ts";

/** Declares the verb. */
export function data(): CommandUnknownOpts {
  return verb("data", {
    description: "Inspect training data, or generate it with a model.",
    examples: [
      "data inspect alpaca.json --model path/to/model --seq 256",
      "data generate path/to/model --count 1000 --tokens 256 --out own.jsonl",
    ],
  })
    .helpCommand("help [verb]", "Show the help of a verb.")
    .addCommand(inspectVerb())
    .addCommand(generateVerb());
}

const INSPECT_FLAGS = {
  model: { type: "value", placeholder: "model", help: `${MODEL_TEXT}: also count tokens as prune does` },
  seq: {
    type: "count",
    least: 2,
    placeholder: "tokens",
    defaultText: "256",
    help: "with --model: tokens per sequence",
  },
  textField: {
    type: "value",
    placeholder: "name",
    defaultText: "detected from the fields",
    help: "the field with the text of every row",
  },
  limit: { type: "count", least: 1, placeholder: "rows", help: "most rows to read" },
  prompt: {
    type: "prompt",
    placeholder: "file",
    help: "with --model: a file with your own prompt, in place of the collaborative one",
    off: "with --model: use no collaborative prompt",
  },
  packing: {
    type: "switch",
    default: true,
    initially: true,
    help: "with --model: pack rows into full sequences",
    off: "with --model: one sequence for each row, padded or cut, instead of packing rows into full sequences",
  },
  json: JSON_FLAG,
} as const satisfies FlagTable;

function inspectVerb(): CommandUnknownOpts {
  const command = verb("inspect", {
    description: "Count the rows of a file, list broken and empty ones, and show how they are used in training.",
    examples: ["data inspect alpaca.json --model demo --seq 128", "data inspect c4.json.gz --limit 1000 --json"],
  }).argument(
    "<file>",
    "JSON, JSON lines or text, also gzip or Zstandard, or parquet; or hf:owner/name[:file], of a data set",
  );
  return addFlags(command, INSPECT_FLAGS).action(
    async (file: string, flags: FlagValues<typeof INSPECT_FLAGS>) => await inspectData(file, flags),
  );
}

const GENERATE_FLAGS = {
  out: {
    type: "text",
    placeholder: "file",
    help:
      'file for the texts, one JSON object {text} per line, or {instruction, input, output}; with "ended": false if the text was cut off (required)',
  },
  prompts: {
    type: "value",
    placeholder: "file",
    help:
      "answer the instructions of these rows, by the model's chat template or prompt style, in place of their outputs",
  },
  count: {
    type: "count",
    least: 1,
    placeholder: "texts",
    defaultText: "1000; with --prompts all rows",
    help: "texts to generate; with --prompts, from the first row on",
  },
  tokens: { type: "count", least: 2, initially: 256, help: "most tokens of a text" },
  temperature: {
    type: "number",
    least: 0,
    defaultText: "1; with --prompts 0",
    help: "sampling temperature; 1 is the model's own distribution, 0 takes the likeliest tokens (with --prompts)",
  },
  seed: {
    type: "count",
    most: MAX_SEED,
    placeholder: "number",
    initially: 1,
    help: "seed of the first tokens and of the sampling",
  },
  resume: { type: "switch", help: "resume an earlier run with the same options" },
  overwrite: { type: "switch", help: "replace an existing --out" },
  ...MODEL_FLAGS,
  json: JSON_FLAG,
} as const satisfies FlagTable;

type GenerateFlags = FlagValues<typeof GENERATE_FLAGS>;

function generateVerb(): CommandUnknownOpts {
  const command = verb("generate", {
    description:
      "Generate training texts with a model, as in LLM-QAT: a random first token, a few greedy tokens, then sampled ones. Or let it answer instructions: --prompts.",
    examples: [
      "data generate demo --count 50 --tokens 64 --out own.jsonl",
      "data generate path/to/model --out own.jsonl --resume",
      "data generate path/to/model --prompts alpaca.json --out answers.jsonl",
    ],
  }).argument("<model>", MODEL_TEXT);
  return addFlags(command, GENERATE_FLAGS).action(async (model: string, flags: GenerateFlags) => {
    const settings = { ...flags, out: required(flags.out, "--out") };
    await withRanks((ranks) => runGenerate(model, { ...settings, ranks }), { asJson: flags.json ?? false });
  });
}

interface GenerateSettings extends GenerateFlags, Pick<ModelSettings, "ranks"> {
  readonly out: string;
}

async function runGenerate(path: string, settings: GenerateSettings): Promise<void> {
  const { out, prompts, overwrite = false, ranks } = settings;
  await fetchInputs({ model: [path], data: [prompts] });
  const place = await modelPath(path);
  // A model that does not exist is refused when it is read.
  const read = await exists(place) ? (await fileNames(place)).map((name) => join(place, name)) : [];
  const asked = prompts === undefined ? [] : [await dataPath(prompts)];
  await refuseInputs(out, [...read, ...asked], { option: "--out" });
  if (!ranks || ranks.rank === 0) await checkTarget(settings);
  const onInterrupt = "stopping; finished texts are kept; press Ctrl-C again to end at once";
  try {
    const rows = prompts === undefined ? null : await promptRows(prompts, settings);
    await withModel(path, { ...settings, onInterrupt }, async (loaded) => {
      const { signal, progress } = loaded, start = performance.now();
      if (ranks) signal.addEventListener("abort", () => ranks.stopAll(signal.reason));
      const result = await write(loaded, { ...settings, rows, weights: await modelDigest(place) });
      progress[Symbol.dispose]();
      const seconds = (performance.now() - start) / 1000;
      if (settings.json) return printJson({ ...result, seconds });
      const speed = result.tokens === 0
        ? ""
        : ` in ${duration(seconds)}, ${(result.tokens / seconds).toFixed(1)} tokens/s`;
      print(
        `${formatCount(result.count)} ${rows ? "answers" : "texts"} in ${out}; ${
          formatCount(result.tokens)
        } tokens generated now${speed}`,
      );
    });
  } catch (error) {
    if (!(error instanceof CompressoError) || error.code !== "aborted" || !(await exists(partPath(out)))) throw error;
    const fix = `resume with the same command and --resume${overwrite ? " in place of --overwrite" : ""}`;
    throw error.with({ fix });
  }
}

/** The first rows of --prompts, as many as --count says. */
async function promptRows(path: string, { count }: Pick<GenerateFlags, "count">): Promise<readonly Row[]> {
  const { rows } = await readRows(path, { ...(count === undefined ? {} : { limit: count }) });
  return rows;
}

/** Writes the texts, or the answers to rows, and tells of the progress. */
async function write(
  { model, signal, progress, tune }: Loaded,
  { out, prompts, rows, count = 1000, tokens, temperature, seed, resume, baseDtype = "f16", ranks, weights }:
    & GenerateSettings
    & { readonly rows: readonly Row[] | null; readonly weights: string },
): Promise<SelfDataResult> {
  const texts = rows?.length ?? count, atOnce = tokens + (model.tokenizer?.leading.length ?? 0);
  const together = sequencesAtOnce(model.device, model.weights, { capacity: atOnce });
  await tune({ rows: Math.min(texts, together), directions: ["forward"], tokens: texts * tokens });
  const one = rows ? "answer" : "text",
    asked = prompts === undefined ? {} : { rows: await fileDigest(await dataPath(prompts)) };
  const how = {
    path: out,
    tokens,
    temperature,
    seed,
    resume: resume ?? false,
    identity: { weights, baseDtype, ...asked },
    ...(ranks ? { ranks, signal: ranks.signal } : { signal }),
    onStart: (there: number): void => {
      if (there > 0) progress.note(`resuming after ${one} ${there}`);
    },
    onProgress: (share: number): void => progress.phase(`generating ${one}s`, share),
  };
  return await (rows ? writeAnswerFile(model, rows, how) : writeTextFile(model, { ...how, count }));
}

/** Refuses to replace a file, or the part of an unfinished run, without --overwrite. */
async function checkTarget({ out, resume, overwrite }: GenerateSettings): Promise<void> {
  const stop = (rule: string, value: string, fix: string): never => {
    refuse("usage", `cannot write texts to ${out}`, { rule, value, fix });
  };
  if (resume && overwrite) stop("either --resume or --overwrite", "both were given", "leave one out");
  if (await isFolder(out)) stop("--out is a file", "a folder", "name a file in it");
  if (overwrite) return;
  const part = partPath(out);
  if (await exists(part)) {
    // A run with --overwrite leaves the earlier file until it ends.
    if (resume) return;
    stop(
      "--out has no unfinished run",
      `${part} is there`,
      "resume it with --resume, or start again with --overwrite",
    );
  }
  if (!(await exists(out))) return;
  if (resume) {
    const fix = "choose another --out, or replace the file with --overwrite in place of --resume";
    stop("--resume continues an unfinished run", `the file is there, and no ${part}`, fix);
  }
  stop("--out is a new file", "the file exists", "choose another --out, or replace it with --overwrite");
}
