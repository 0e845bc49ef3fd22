// `compresso experiment FILE`: runs a grid of prune runs and writes its report.
import type { CommandUnknownOpts } from "../../packages.ts";
import { join } from "node:path";
import { CompressoError, refuse } from "../../../lib/core/errors.ts";
import { exists } from "../../../lib/files/exists.ts";
import { openExperiment } from "../../../lib/experiment/open.ts";
import { CELL_OPTION_NAMES } from "../../../lib/experiment/options.ts";
import { planCells } from "../../../lib/experiment/plan.ts";
import { resolveExperiment } from "../../../lib/experiment/resolve.ts";
import { hasPruned, refusedCells, runExperiment, sittingOf } from "../../../lib/experiment/run.ts";
import { Store } from "../../../lib/experiment/store.ts";
import { launchedRank } from "../../../lib/ranks/mpi.ts";
import { alarmLine } from "../prune/alarms.ts";
import { verb } from "../../command.ts";
import { fetchInputs, type TypedInputs } from "../../hub.ts";
import { namedPaths, selection, settings } from "./values.ts";
import { watchInterrupt } from "../../terminal/interrupt.ts";
import { formatCount, note, print, printJson, silence } from "../../terminal/output.ts";
import { stderrProgress } from "../../terminal/progress.ts";
import { tuneFor } from "../../tuning.ts";
import { addFlags, type FlagTable, type FlagValues, GPU_FLAGS, JSON_FLAG } from "../../options/flags.ts";
import type {
  Experiment,
  ExperimentOverrides,
  PlannedCell,
  ResolvedExperiment,
  RunExperimentOptions,
} from "../../../lib/experiment/types.ts";
import { openDeviceHere } from "../../webgpu.ts";

const FLAGS = {
  out: {
    type: "text",
    placeholder: "dir",
    defaultText: "runs/NAME, with the experiment's name",
    help: "folder for all results",
  },
  model: {
    type: "value",
    placeholder: "path",
    parse: collect(namedPaths("--model", "model")),
    help: "the model, or NAME=PATH if the experiment has several; may be repeated",
  },
  data: {
    type: "value",
    placeholder: "file",
    parse: collect(namedPaths("--data", "data")),
    help: "the data, in place of the definition's, or NAME=PATH if the experiment has several; may be repeated",
  },
  file: {
    type: "value",
    placeholder: "name=path",
    parse: collect(namedPaths("--file", null)),
    help: "path of a file that the experiment calls @NAME; with the path none, measures that use it are left out",
  },
  set: {
    type: "value",
    placeholder: "key=value",
    parse: collect(settings("--set")),
    help: "an option of all runs, or the values of an axis of the grid, such as seed=1,2,3",
  },
  only: {
    type: "value",
    placeholder: "key=value",
    parse: collect(selection("--only"), { joins: true }),
    help: "run only the runs with these values, such as method=taylor,sparsity=0.2; may be repeated",
  },
  shared: {
    type: "switch",
    help: "share the runs with other processes, also on other machines; give all of them the same command and folder",
  },
  shard: {
    type: "value",
    placeholder: "i/n",
    parse: shard,
    help: "do share i of n shares of the runs, for n processes that start together; implies --shared",
  },
  maxCells: { type: "count", least: 1, help: "most runs in this call" },
  keep: {
    type: "word",
    words: ["none", "models"],
    placeholder: "what",
    initially: "none",
    help: "what to keep of the pruned models: models (all of them) or none (each is removed after it was measured)",
  },
  evaluateOnly: { type: "switch", help: "prune nothing, only measure what is missing, on models that were kept" },
  redo: {
    type: "switch",
    help: "repeat runs that failed, whose definition changed, or that lack both measures and model",
  },
  dryRun: {
    type: "switch",
    help:
      "list the runs with their steps, tokens and state, and what this command would do; writes nothing, but runs the scripts of tasks and schedules",
  },
  ...GPU_FLAGS,
  json: JSON_FLAG,
} as const satisfies FlagTable;

/** Declares the verb. */
export function experimentVerb(): CommandUnknownOpts {
  const command = verb("experiment", {
    description: "Run a grid of prune runs, measure every model, and write tables and charts. Finished runs are kept.",
    examples: [
      "experiment scripts/experiments/rank.ts --out runs/rank",
      "experiment scripts/experiments/rank.ts --dry-run --set steps=80 --only rank=2,seed=1",
      "experiment mine.ts --model path/to/model --data alpaca.json --file wiki=wiki.txt --max-cells 3 --out runs/mine",
    ],
    notes: `Options of runs, for base, grid, --set and --only: ${
      CELL_OPTION_NAMES.join(", ")
    }. calibration names a data set; without it, runs have no calibration, unlike those of prune. For units, loraTargets, protect and onAlarm, --set takes one value, whose parts have commas between them.`,
  }).argument(
    "<file>",
    "a .ts, .js or .mjs file with `export default defineExperiment({ … })`, or the same as .json",
  );
  return addFlags(command, FLAGS).action(async (file: string, flags: Settings) => await run(file, flags));
}

type Settings = FlagValues<typeof FLAGS>;

/** Parses `--shard`. Throws `CompressoError("usage")`. */
function shard(text: string): { readonly index: number; readonly count: number } {
  const [, index = 0, count = 0] = (/^(\d{1,6})\/(\d{1,6})$/.exec(text) ?? []).map(Number);
  if (index >= 1 && index <= count) return { index, count };
  refuse("usage", `cannot use --shard ${text}`, {
    rule: "it is i/n with 1 ≤ i ≤ n, such as 2/8",
    value: text,
  });
}

async function run(file: string, settings: Settings): Promise<void> {
  const place = launchedRank();
  if (place && place.rank > 0) silence();
  const experiment = await openExperiment(file), { only, json = false } = settings;
  const out = settings.out ?? join("runs", experiment.definition.name), overrides = overridesOf(settings);
  await fetchInputs(inputsOf(resolveExperiment(experiment, overrides)), { resumes: await exists(out) });
  if (settings.dryRun) {
    const { cells } = await planCells(resolveExperiment(experiment, overrides), new Store(out), { only });
    const isRefused = refusedCells(cells, settings).length > 0;
    const sitting = (isRefused ? [] : sittingOf(cells, settings)).map((cell): Turn => {
      const { name, steps, tokens, state } = cell;
      return hasPruned(cell)
        ? { name, steps: 0, tokens: 0, isStopped: false }
        : { name, steps, tokens, isStopped: isGoingOn(state, settings) };
    });
    if (json) printJson({ out, cells: cells.map(cellFacts), sitting });
    else showPlan(cells, { sitting, out });
    if (isRefused) {
      note("compresso: the command would be refused: definitions of runs have changed (--redo runs them again)");
    }
    return;
  }
  const { report, files, failed, left } = await drive(experiment, {
    settings: place ? { ...settings, shared: true } : settings,
    out,
    overrides,
  });
  if (json) printJson({ ...report, losses: undefined, out, failed, left });
  else {
    const rest = left === 0 ? "none is left" : `${left} left: the same command continues`;
    print(`finished    ${runsText(report.cells.length)}; ${rest}`);
    print(`tables      ${files[0]}, ${files[1]}`);
    for (const chart of files.slice(2)) print(`chart       ${chart}`);
  }
  const [first] = failed;
  if (!first) return;
  refuse("mismatch", `${failed.length} ${failed.length === 1 ? "run has" : "runs have"} failed`, {
    rule: "every run ends with a pruned model and its measures",
    value: `${first.cell}: ${first.message}`,
    fix:
      "the same command tries failed runs again, from their checkpoints if there are any; with --redo from the start. Runs whose pruned model exists are only measured",
  });
}

/** Models and files with rows. */
function inputsOf(
  { models, data, evaluate: { perplexity = [], rows = [], choices = [] } }: ResolvedExperiment,
): TypedInputs {
  const files = Object.values(data).map((source) =>
    typeof source === "string" ? { file: source } : "answers" in source ? source.answers : source
  );
  const all = [...files, ...rows, ...choices].flatMap((source) => "file" in source ? [source.file] : []);
  return { model: Object.values(models), data: [...all, ...perplexity.map(({ text }) => text)] };
}

async function drive(experiment: Experiment, { settings, out, overrides }: {
  readonly settings: Settings;
  readonly out: string;
  readonly overrides: ExperimentOverrides;
}): ReturnType<typeof runExperiment> {
  const { memoryLimit, tuning = true } = settings;
  using interrupt = watchInterrupt("stopping after a checkpoint; press Ctrl-C again to end at once");
  interrupt.start();
  using progress = stderrProgress();
  using device = await openDeviceHere({ memoryLimit });
  const { signal } = interrupt;
  const options: RunExperimentOptions = {
    ...overrides,
    device,
    out,
    only: settings.only,
    shared: settings.shared ?? false,
    shard: settings.shard,
    maxCells: settings.maxCells,
    keep: settings.keep,
    evaluateOnly: settings.evaluateOnly ?? false,
    redo: settings.redo ?? false,
    signal,
    onCell: (cell, { index, count }) =>
      progress.note(
        `run ${index + 1} of ${count}: ${cell.name} (${stateWord(cell.state)}${
          hasPruned(cell) ? "" : `, ${cell.steps} steps`
        })`,
      ),
    onFailure: (cell, { message }) => progress.note(`${cell.name} failed: ${message}`),
    onNote: (line) => progress.note(line),
    onModel: async (model, { prune: { batch = 4, seq = 256, lora }, tokens }) =>
      await tuneFor(model, { rows: batch * seq, ...(lora?.rank ? { rank: lora.rank } : {}), tokens }, {
        setting: tuning,
        progress,
        signal,
      }),
    onRecord: (record) => progress.step(record),
    onAlarm: (_cell, alarm) => progress.note(`alarm at ${alarmLine(alarm)}`),
    onPhase: (text, share) => progress.phase(text, share),
  };
  try {
    return await runExperiment(experiment, options);
  } catch (error) {
    if (!(error instanceof CompressoError) || error.code !== "aborted") throw error;
    throw error.with({ fix: "the same command continues from there" });
  }
}

/** Paths of the definition are relative to its file, those of the command line to the current folder. */
function overridesOf({ model, data, file: files, set }: Settings): ExperimentOverrides {
  const paths = (map: ReadonlyMap<string, readonly string[]> | undefined): Record<string, string> =>
    Object.fromEntries([...map ?? []].map(([name, values]) => [name, values[0] ?? ""]));
  return {
    models: paths(model),
    data: paths(data),
    files: paths(files),
    set: Object.fromEntries(
      [...set ?? []].map(([name, values]) => [name, values.map((value) => valueOf(name, value))]),
    ),
  };
}

/** Whether a run continues from its checkpoint, if it has one: also after a failure. */
function isGoingOn({ kind }: PlannedCell["state"], { redo }: Pick<Settings, "redo">): boolean {
  return kind === "stopped" || (kind === "failed" && !redo);
}

/** What the command would do with a run. `steps` are all steps of the run, also if it stopped or failed after some. */
interface Turn {
  readonly name: string;
  readonly steps: number;
  readonly tokens: number;
  readonly isStopped: boolean;
}

function showPlan(
  cells: readonly PlannedCell[],
  { sitting, out }: { readonly sitting: readonly Turn[]; readonly out: string },
): void {
  const width = Math.max(4, ...cells.map(({ name }) => name.length));
  print(`${"run".padEnd(width)}  steps    tokens  state`);
  for (const { name, steps, tokens, state } of cells) {
    print(
      `${name.padEnd(width)}  ${String(steps).padStart(5)} ${formatCount(tokens).padStart(9)}  ${stateWord(state)}`,
    );
  }
  const atMost = sitting.some(({ isStopped }) => isStopped) ? "at most " : "";
  print();
  print(
    `${runsText(cells.length)}, ${sitting.length} to do: ${atMost}${
      formatCount(sum(sitting, ({ steps }) => steps))
    } steps, ${formatCount(sum(sitting, ({ tokens }) => tokens))} tokens with padding; results in ${out}`,
  );
  for (const { name, state } of cells) if (state.kind === "changed") note(`${name} has changed: ${state.what}`);
}

function runsText(count: number): string {
  return `${count} ${count === 1 ? "run" : "runs"}`;
}

function cellFacts({ name, folder, steps, tokens, state, identity }: PlannedCell): Readonly<Record<string, unknown>> {
  return { name, folder, steps, tokens, state, identity };
}

function stateWord(state: PlannedCell["state"]): string {
  if (state.kind === "unmeasured") {
    return `${state.hasModel ? "to be measured" : "lacks measures"}${state.failure ? ", failed before" : ""}`;
  }
  if (state.kind === "changed") return state.failure ? "changed, failed before" : "changed";
  if (state.kind === "pruned") return "pruned, to be measured";
  return state.kind === "stopped" ? "stopped, continues" : state.kind;
}

/** Options whose values are names and paths, which may be called as a number is. */
const NAMED: readonly string[] = ["model", "data", "calibration", "schedule"];

/** A value of `--set`: parsed if it is JSON, else the text. */
function valueOf(name: string, text: string): unknown {
  try {
    const value: unknown = JSON.parse(text);
    return NAMED.includes(name) && (typeof value === "number" || typeof value === "boolean") ? text : value;
  } catch {
    return text;
  }
}

function sum(turns: readonly Turn[], of: (turn: Turn) => number): number {
  return turns.reduce((total, turn) => total + of(turn), 0);
}

type Pairs = ReadonlyMap<string, readonly string[]>;

/** Joins what an option gives each time; of a key that is given twice the last values count, or with `joins` all of them. */
function collect(
  parse: (text: string) => Pairs,
  { joins = false }: { readonly joins?: boolean } = {},
): (text: string, before?: Pairs) => Pairs {
  return (text, before = new Map()) => {
    const added = [...parse(text)].map(([key, values]) =>
      [key, joins ? [...new Set([...before.get(key) ?? [], ...values])] : values] as const
    );
    return new Map([...before, ...added]);
  };
}
