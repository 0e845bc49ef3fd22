// `compresso schedule preview F`: plots what a schedule will do, without a GPU.
import type { CommandUnknownOpts } from "../../packages.ts";
import { fileURLToPath } from "node:url";
import { refuse } from "../../../lib/core/errors.ts";
import { writeFileAtomically } from "../../../lib/files/atomic.ts";
import { isScheduleName, SCHEDULE_NAMES } from "../../../lib/schedule/builtin.ts";
import { firstStageSteps, lastStageSteps } from "../../../lib/run/methods/stages.ts";
import { defaultRates } from "../../../lib/run/options/rates.ts";
import { type OpenSchedule } from "../../../lib/schedule/open.ts";
import { openSchedule } from "../../../lib/schedule/host.ts";
import { checkTrust } from "../../../lib/schedule/open.ts";
import { scriptUrl } from "../../../lib/schedule/source.ts";
import { refuseInputs } from "../../refuse_inputs.ts";
import { verb } from "../../command.ts";
import { plotColumns, plotRows } from "../../terminal/plot.ts";
import { formatShare, note, print, printJson } from "../../terminal/output.ts";
import {
  type Preview,
  previewCharts,
  type PreviewPoint,
  previewSchedule,
  shortfall,
  shortfallLine,
} from "./preview.ts";
import { previewSvg } from "./svg.ts";
import { addFlags, type FlagTable, type FlagValues } from "../../options/flags.ts";

/** What a schedule is and how scripts run, for the help. */
const SCHEDULE_HELP = `Schedules:
  A schedule is ${SCHEDULE_NAMES.join(", ")}, or a script, given as a file or URL:

    import { defineSchedule } from "compresso/schedule";
    export default defineSchedule({
      sparsity: ({ progress }) => progress < 0.5 ? 0.1 : 0.2,
    });

  deno check and editors need a deno.json in the script's folder, with the path or URL of that module:

    { "imports": { "compresso/schedule": "PATH/lib/schedule/mod.ts" } }

  finetune and postfinetune set the numbers of the stages before and after pruning: lora, clipNorm, weightDecay,
  dropout, end; postfinetune also sets focus.

  A script runs isolated: in a process without permissions, with limits of heap, time and memory. It can use the
  JavaScript language and compresso/schedule (defineSchedule, the built-in curves, CompressoError); it has no other
  imports, no clock and no random numbers. Isolation needs the right to run Deno (--allow-run). --trust runs the script
  in this process instead, with all its permissions; its imports come from Deno's cache.

  More: docs/guide/schedules.md`;

/** Default number of layers of the simulated model. */
const LAYERS = 12;

/** Declares the verb. */
export function scheduleVerb(): CommandUnknownOpts {
  return verb("schedule", {
    description: "Show how sparsity and rates of a pruning run change from step to step.",
    examples: ["schedule preview cubic --steps 200 --sparsity 0.3"],
  }).helpCommand("help [verb]", "Show the help of a verb.").addCommand(previewVerb());
}

const FLAGS = {
  steps: { type: "count", least: 1, initially: 200, help: "steps of the pruning stage" },
  sparsity: { type: "number", above: 0, below: 1, placeholder: "share", initially: 0.3, help: "the run's target" },
  warmup: {
    type: "number",
    least: 0,
    most: 1,
    placeholder: "share",
    defaultText: `${defaultRates(1).warmup}`,
    help:
      "share of --steps in which sparsity rises to the target; not for constant, nor for scripts that set the sparsity",
  },
  prefinetune: {
    type: "count",
    defaultText: "a tenth of --steps, as in a run",
    help: "steps of fine-tuning before the pruning stage, for scripts",
  },
  postfinetune: {
    type: "count",
    least: 1,
    defaultText: "three tenths of --steps, as in a run",
    help: "steps of fine-tuning after the pruning stage, for scripts that set its rates",
  },
  layers: {
    type: "count",
    least: 1,
    most: 1000,
    defaultText: `${LAYERS}`,
    help: "layers of the simulated model, for scripts",
  },
  svg: { type: "text", placeholder: "file", help: "also draw the plot to an SVG file" },
  json: { type: "switch", help: "print one JSON object with every step" },
  trust: { type: "switch", help: "run a script in this process, with all its permissions" },
} as const satisfies FlagTable;

function previewVerb(): CommandUnknownOpts {
  const command = verb("preview", {
    description: "Plot sparsity and rates that a schedule gives a run. Needs no GPU.",
    examples: [
      "schedule preview cubic --steps 200 --sparsity 0.3",
      "schedule preview scripts/examples/layerwise.ts --svg schedule.svg",
    ],
    notes: SCHEDULE_HELP,
  }).argument("<schedule>", `a file, a URL, or one of ${SCHEDULE_NAMES.join(", ")}`);
  return addFlags(command, FLAGS).action(async (source: string, flags: FlagValues<typeof FLAGS>) => {
    const { prefinetune: before, postfinetune: after, ...settings } = flags;
    const { steps, sparsity, warmup, layers = LAYERS, svg, json, trust } = settings;
    checkTrust(source, trust);
    if (svg !== undefined && !isScheduleName(source)) {
      const url = scriptUrl(source);
      if (url.protocol === "file:") await refuseInputs(svg, [fileURLToPath(url)], { option: "--svg" });
    }
    const ramp = warmup === undefined ? {} : { warmup };
    await using schedule = await openSchedule(source, {
      trust,
      ...ramp,
      onLog: (line) => note(`script: ${line}`),
    });
    checkWarmup(schedule, warmup);
    checkSeen(source, { option: "--prefinetune", value: before, what: "the records of fine-tuning" });
    checkSeen(source, { option: "--layers", value: settings.layers, what: "the layers" });
    checkPostfinetune(schedule, after);
    const stages = {
      prefinetune: before ?? firstStageSteps(steps),
      postfinetune: after ?? lastStageSteps(steps),
    };
    const preview = await previewSchedule(schedule, { steps, ...stages, sparsity, layers, ...ramp });
    if (svg !== undefined) {
      await writeFileAtomically(svg, previewSvg(preview));
      note(`wrote ${svg}`);
    }
    const short = shortfall(preview);
    if (short !== null) note(shortfallLine(short));
    if (json) printJson({ ...preview, shortfall: short });
    else show(preview);
  });
}

/** Throws `CompressoError("usage")` for a warm-up that has no effect on the schedule. */
function checkWarmup({ name, parts }: OpenSchedule, warmup: number | undefined): void {
  if (warmup === undefined || isScheduleName(name) && name !== "constant") return;
  const own = (["sparsity", "rates.warmup"] as const).find((part) => parts.includes(part));
  if (own === undefined) return;
  refuse("usage", "cannot use --warmup", {
    rule: "it says when a built-in schedule, or that of the run, reaches the target",
    value: name === "constant"
      ? "constant, which is at the target from the first step on"
      : `${name} sets ${own.replace("rates.", "")} itself`,
    option: "rates.warmup",
  });
}

/** Throws `CompressoError("usage")` for an option that affects scripts only. */
function checkSeen(
  source: string,
  { option, value, what }: { readonly option: string; readonly value: number | undefined; readonly what: string },
): void {
  if (value === undefined || !isScheduleName(source)) return;
  refuse("usage", `cannot use ${option}`, {
    rule: `only a script sees ${what}`,
    value: source,
    option: option.replace("--", ""),
  });
}

/** Throws `CompressoError("usage")` for steps of the last stage where nothing steers them. */
function checkPostfinetune({ name, parts }: OpenSchedule, postfinetune: number | undefined): void {
  if (postfinetune === undefined || parts.includes("postfinetune")) return;
  refuse("usage", "cannot use --postfinetune", {
    rule: "it is for scripts that steer the last stage (`postfinetune`)",
    value: name,
    option: "postfinetune",
  });
}

function show(preview: Preview): void {
  const { name, isolated, steps, sparsity, simulated, finetune, points, postfinetune, endsBefore } = preview;
  print(`schedule    ${name}${isolated ? ", isolated" : ""}`);
  print(`run         ${steps} steps to ${formatShare(sparsity)} sparsity`);
  print(`simulated   ${simulated}`);
  const charts = previewCharts(preview);
  if (charts.length > 0) print();
  for (const [index, chart] of charts.entries()) {
    for (const line of plotRows(chart, { rows: index === 0 ? 8 : 3, columns: plotColumns(), count: chart.steps })) {
      print(line);
    }
    print();
  }
  for (const line of layerLines(points.at(-1))) print(line);
  const frozen = points.filter(({ freeze }) => freeze.length > 0);
  if (frozen.length > 0) print(`freezes     units in ${frozen.length} of ${points.length} steps`);
  print(endsBefore === null ? "ends        after the last step" : `ends        before step ${endsBefore} of ${steps}`);
  for (const [name, stage] of [["finetune", finetune], ["postfinetune", postfinetune]] as const) {
    if (!stage || stage.endsBefore === null) continue;
    print(`            stage ${name} before step ${stage.endsBefore} of ${stage.steps}`);
  }
}

const BAR = 24;

/** Targets of the layers at the last step. */
function layerLines(last: PreviewPoint | undefined): string[] {
  if (!last?.layers) return [];
  return [
    "layers at the last step",
    ...last.layers.map((value, layer) => {
      const filled = Math.round(BAR * (value ?? 0));
      const bar = value === null ? "free" : "█".repeat(filled) + "·".repeat(BAR - filled) + ` ${formatShare(value)}`;
      return `${String(layer).padStart(5)}       ${bar}`;
    }),
    "",
  ];
}
