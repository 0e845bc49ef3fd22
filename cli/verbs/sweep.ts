// `compresso sweep MODEL`: one run through several sparsities, and a table of quality against size.
import type { CommandUnknownOpts } from "../packages.ts";
import { join } from "node:path";
import { CompressoError, refuse } from "../../lib/core/errors.ts";
import { flagNamed } from "../options/spelling.ts";
import { exists } from "../../lib/files/exists.ts";
import { isHubName } from "../../lib/hub/name.ts";
import { sweep, SWEEP_FILE } from "../../lib/experiment/sweep.ts";
import { hasLosses, type SweepResult } from "../../lib/experiment/sweep_points.ts";
import { sweepTable } from "../../lib/experiment/sweep_report.ts";
import { checkTogether, PRUNE_PATHS } from "../../lib/run/options/check.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import type { PruneOptions } from "../../lib/run/options/options.ts";
import { pathsIn } from "../../lib/run/options/table.ts";
import { MODEL_TEXT, verb } from "../command.ts";
import { fetchInputs } from "../hub.ts";
import { promptText } from "../options/prompt.ts";
import { addTableFlags, pruneOptionsOf, type TableFlags } from "../options/table_flags.ts";
import { addFlags, type FlagTable, type FlagValues, required, wrong } from "../options/flags.ts";
import { placeOption } from "../terminal/help.ts";
import { note, print, printJson } from "../terminal/output.ts";
import { calibrationChoice } from "./prune/calibration.ts";
import { UNMEASURED } from "./prune/quality.ts";
import { dataPathOf, evaluationOf } from "./prune/inputs.ts";
import { resumeCommand, startRun } from "./prune/start.ts";
import { refuseFile } from "./prune/run_folder.ts";

/** Default steps of the pruning stage, to the largest sparsity. */
const STEPS = 200;

const FLAGS = {
  sparsities: {
    type: "value",
    placeholder: "list",
    parse: shares("--sparsities"),
    help: "ascending shares to cut, such as 10%,20%,30% or 0.1,0.2,0.3",
  },
  recover: { type: "switch", help: "fine-tune the model at each sparsity, for --postfinetune steps" },
  export: { type: "switch", help: "write the model of each sparsity" },
} as const satisfies FlagTable;

type SweepFlags = TableFlags & FlagValues<typeof FLAGS>;

/** Declares the verb. */
export function sweepVerb(): CommandUnknownOpts {
  const command = verb("sweep", {
    description:
      "Find out how far a model can be pruned: one run through several sparsities, with its quality at each.",
    examples: [
      "sweep demo --sparsities 10%,20%,30% --steps 60 --out runs/sweep",
      "sweep path/to/model --data alpaca.json --sparsities 10%,20%,30%,40% --eval-text wiki.txt --out runs/sweep",
      "sweep path/to/model --data alpaca.json --sparsities 0.1,0.3,0.5 --method taylor --recover --export --out runs/sweep",
    ],
    notes:
      "Writes sweep.json, sweep.svg and sweep.html to --out, and for each sparsity a folder like that of prune. Past " +
      "the knee, pruning costs more than average: it is the point farthest below the line from first to last point.",
  }).argument("<model>", MODEL_TEXT);
  addFlags(command, FLAGS);
  for (const option of command.options) placeOption(option, { isEveryday: true });
  return addTableFlags(command, {
    paths: pathsIn("sweep"),
    help: {
      steps: "steps of the pruning stage, up to the largest sparsity",
      out: "folder for the results, with one folder for each sparsity",
      resume: "continue the sweep in --out, with the same options",
      json: "print sweep.json at the end",
    },
  }).action(async (model: string, flags: SweepFlags) => await runSweep(model, flags));
}

async function runSweep(path: string, typed: SweepFlags): Promise<void> {
  const out = required(typed.out, "--out"), sparsities = required(typed.sparsities, "--sparsities");
  const { json, overwrite = false, resume: asked = false } = typed;
  const recover = typed.recover === true, writesModels = typed.export === true;
  const isThere = await exists(join(out, SWEEP_FILE)), resume = asked === "auto" ? isThere : asked;
  checkExported(typed);
  checkTogether(pruneOptionsOf(typed), { paths: PRUNE_PATHS });
  await refuseFile(out);
  const flags = { ...typed, out, steps: typed.steps ?? STEPS, resume, sparsity: sparsities.at(-1) },
    prompt = await promptText(flags.prompt ?? true);
  const options: PruneOptions = {
    ...pruneOptionsOf(flags),
    sparsity: sparsities.at(-1) ?? 0,
    rows: [],
    steps: flags.steps,
    prompt,
    ...await evaluationOf(flags),
  };
  // Only a check, so that nothing is fetched for a mistake; `startRun` resolves the options with the model's shape.
  const checked = resolveOptions(options);
  if (isHubName(path)) dataPathOf(path, flags);
  await fetchInputs({ model: [path], data: [flags.data, flags.calibration, flags.valData] }, { resumes: resume });
  const calibration = await calibrationChoice({ ...flags, resume: false }, checked);
  const words = (sparsity: number): string => `${Number((100 * sparsity).toPrecision(6))} %`;
  try {
    const result = await startRun(path, {
      flags: { ...flags, calibration },
      options,
      dashboard: null,
      ranks: null,
      go: (model, run) => {
        const { sparsity: _last, size: _none, schedule: _own, trustSchedule: _a, onScheduleLog: _b, ...rest } = run;
        const { mayDiffer: _c, onReady: _d, export: files, ...others } = rest;
        return sweep(model, {
          ...others,
          sparsities,
          recover,
          writesModels,
          resume,
          export: { ...files, replace: overwrite },
          onPoint: (sparsity, { index, isDone }) =>
            note(`${words(sparsity)}, ${index + 1} of ${sparsities.length}${isDone ? ": measured already" : ""}`),
        });
      },
    });
    if (!result) return;
    if (json) printJson(result);
    else show(result, out);
  } catch (error) {
    if (!(error instanceof CompressoError) || error.code !== "aborted") throw error;
    throw error.with({ fix: `to resume, run: ${await resumeCommand()}` });
  }
}

/** Refuses options of files that are not written. */
function checkExported({ export: isWritten, ...files }: SweepFlags): void {
  const idle = (["dtype", "formats", "ggufImatrix", "saveAdapter"] as const).find((name) => files[name] !== undefined);
  if (isWritten || idle === undefined) return;
  refuse("usage", `cannot use ${flagNamed(idle)}`, {
    rule: "it applies only to the models that --export writes",
    value: "no --export",
  });
}

/** Prints the table as columns, and where the rest is. */
function show(result: SweepResult, out: string): void {
  const { head, rows } = sweepTable(result), all = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...all.map((row) => (row[column] ?? "").length)));
  for (const row of all) print(row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ").trimEnd());
  const { knee } = result, none = hasLosses(result) ? "the loss rises evenly, or not at all" : UNMEASURED;
  print(
    `knee        ${
      knee
        ? `${Number((100 * knee.sparsity).toPrecision(6))} %: past it, pruning costs more than average`
        : `none: ${none}`
    }`,
  );
  print(`results     ${out}/sweep.html, ${out}/sweep.svg, ${out}/${SWEEP_FILE}`);
}

/** Comma-separated shares in ascending order, in per cent or not. */
function shares(option: string): (text: string) => readonly number[] {
  return (text) => {
    const values = text.split(",").map((part) => {
      const [, digits, percent] = /^\s*(\d+(?:\.\d+)?|\.\d+)\s*(%?)\s*$/.exec(part) ?? [];
      return digits === undefined ? NaN : Number(digits) / (percent ? 100 : 1);
    });
    const isRising = values.every((value, index) => value > (values[index - 1] ?? 0) && value < 1);
    if (isRising) return values;
    throw wrong(option, text, "ascending shares above 0 and below 1, such as 10%,20%,30%");
  };
}
