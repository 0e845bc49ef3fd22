// `compresso bench MODEL…`: latency and throughput of models, side by side.
import type { CommandUnknownOpts } from "../packages.ts";
import {
  benchModels,
  checkSizes,
  type ModelBenchResult,
  type ModelFigures,
  type NamedModel,
} from "../../lib/bench/models.ts";
import type { Repeats } from "../../lib/bench/stats.ts";
import { MOST_SEQUENCES } from "../../lib/nn/decode/batch.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { MODEL_TEXT, verb } from "../command.ts";
import { fetchInputs } from "../hub.ts";
import { formatBytes, formatCount, print, printJson } from "../terminal/output.ts";
import { tuneFor } from "../tuning.ts";
import { addFlags, type FlagTable, type FlagValues, JSON_FLAG, MODEL_FLAGS } from "../options/flags.ts";
import { type Loaded, withModel } from "../with_model.ts";

const FLAGS = {
  promptTokens: { type: "count", least: 1, initially: 128, help: "tokens of a prompt" },
  tokens: { type: "count", least: 2, initially: 32, help: "tokens to generate after the prompt" },
  batch: {
    type: "count",
    least: 1,
    most: MOST_SEQUENCES,
    initially: 8,
    help: "prompts that are read, and sequences that are written, at once; a batch of one is measured too",
  },
  repeats: { type: "count", least: 1, initially: 5, help: "how often each figure is measured" },
  ...MODEL_FLAGS,
  json: JSON_FLAG,
} as const satisfies FlagTable;

type Flags = FlagValues<typeof FLAGS>;

/** Declares the verb. */
export function benchVerb(): CommandUnknownOpts {
  const command = verb("bench", {
    description: "Measure the latency and throughput of models, such as a dense and a pruned one.",
    examples: ["bench path/to/model runs/mine/model", "bench demo --prompt-tokens 64 --tokens 16 --batch 4 --json"],
  }).argument("<models...>", `${MODEL_TEXT}; the others are compared with the first`);
  return addFlags(command, FLAGS).action(async ([path = "", ...others]: readonly string[], options: Flags) => {
    // All are opened before the first is loaded, so that a wrong path, or a prompt beyond a context, fails at once.
    const paths = [path, ...others];
    await fetchInputs({ model: paths });
    // One after the other: a wrong path leaves no file of another half-read.
    const sources = await Array.fromAsync(paths, (one) => openModelFiles(one));
    const opened = sources.map(({ source: { spec } }, index) => ({ name: paths[index] ?? "", spec }));
    const { promptTokens: prompt, tokens, batch, repeats } = options;
    checkSizes(opened, { prompt, tokens, batch, repeats });
    await withModel(path, options, (loaded) => run(loaded, { ...options, path, others }));
  });
}

interface Settings extends Flags {
  readonly path: string;
  readonly others: readonly string[];
}

async function run({ model, signal, progress }: Loaded, settings: Settings): Promise<void> {
  const { path, others, promptTokens: prompt, tokens, batch, repeats, baseDtype = "f16", tuning = true, json } =
    settings;
  const { device } = model;
  using stack = new DisposableStack();
  const models: NamedModel[] = [{ name: path, model }];
  for (const other of others) {
    const { source } = await openModelFiles(other);
    const onProgress = (share: number): void => progress.phase(`loading ${other}`, share);
    models.push({
      name: other,
      model: stack.use(await loadModelFrom(source, { device, baseDtype, signal, onProgress })),
    });
  }
  for (const each of models) {
    for (const rows of new Set([prompt, batch * prompt])) {
      const request = { rows, directions: ["forward"], tokens: rows * repeats } as const;
      await tuneFor(each.model, request, { setting: tuning, progress, signal });
    }
  }
  const result = await benchModels(models, {
    prompt,
    tokens,
    batch,
    repeats,
    signal,
    onProgress: (done, total) => progress.phase("measuring", done / total),
  });
  progress[Symbol.dispose](); // the table may share its terminal
  if (json) printJson({ ...result, baseDtype });
  else printTable(result, baseDtype);
}

type Row = readonly [label: string, figure: keyof ModelFigures<unknown>, show: (value: number) => string];

function printTable({ adapter, prompt, tokens, batch, repeats, rows }: ModelBenchResult, baseDtype: string): void {
  const ms = (value: number): string => `${short(1000 * value)} ms`, rate = (value: number): string => short(value);
  const shown: readonly Row[] = [
    [`first token after ${prompt}`, "firstToken", ms],
    ["each next token", "nextToken", ms],
    ["tokens/s read, 1 prompt", "promptRate", rate],
    [`tokens/s read, ${batch} prompts`, "promptRateMany", rate],
    ["tokens/s written, 1 sequence", "decodeRate", rate],
    [`tokens/s written, ${batch} together`, "decodeRateMany", rate],
  ];
  print(`${adapter.description}; weights in ${baseDtype}; ${tokens} tokens after a prompt of ${prompt}`);
  print(`medians of ${repeats} with least and most, by wall clock; models take turns`);
  for (const { name, parameters, tokenBytes, figures, faster } of rows) {
    print();
    print(`${name}: ${formatCount(parameters)} parameters, ${formatBytes(tokenBytes)} of weights a token`);
    for (const [label, figure, show] of shown) {
      const times = faster ? `  ${spread(faster[figure], (value) => `${value.toFixed(2)}×`)}` : "";
      print(`  ${label.padEnd(32)} ${spread(figures[figure], show).padEnd(36)}${times}`.trimEnd());
    }
  }
}

function spread({ median, least, most }: Repeats, show: (value: number) => string): string {
  return `${show(median)} (${show(least)} – ${show(most)})`;
}

/** Three digits, without an exponent. */
function short(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}
