// Checks, when a schedule is opened, which of its parts a run can follow and which of the run's own numbers it
// replaces.
import { option, refuse } from "../core/errors.ts";
import { type LoopNumber, LORA_RATES, OUTER_STAGES, RATE_NAMES, type SchedulePart } from "../schedule/definition.ts";
import { compensates, methodOf } from "./methods/all.ts";
import { stagesOf } from "./methods/stages.ts";
import type { PruneOptions, ResolvedOptions } from "./options/options.ts";
import type { OpenSchedule } from "../schedule/open.ts";
import type { Rates, Stage, StagePlan } from "./contract.ts";
import { twofoldGoals } from "../masks/learner.ts";
import { atPaths, checkTogether } from "./options/check.ts";
import { isOptionPath } from "./options/table.ts";

/** Rates that only the pruning stage uses. A schedule may set all of them. */
const OF_PRUNING = ["mask", "lambda", "saliencyDecay", "warmup", "tracking"] as const;
/** Rates of the pruning stage, and the numbers of the last stage. */
const OF_ONE_STAGE = [...OF_PRUNING, "postfinetune", "focus"] as const;

type ScheduledNumber = typeof OF_ONE_STAGE[number] | typeof LORA_RATES[number];

function isOfPruning(name: ScheduledNumber): name is typeof OF_PRUNING[number] {
  return OF_PRUNING.some((one) => one === name);
}

/** Numbers that the options of a run give and that a schedule may set. */
export type OptionNumbers = Partial<Rates> & {
  /** Dropout of LoRA; 0 counts as not given. */
  readonly dropout?: number | undefined;
  readonly focus?: number | undefined;
};

/** Numbers that are set by options and that a schedule may set. */
export function optionNumbers({ rates, lora, focus }: Pick<PruneOptions, "rates" | "lora" | "focus">): OptionNumbers {
  return { ...rates, dropout: lora?.dropout, focus };
}

/** Properties of a run that determine which parts of a schedule it can follow. */
export type Following = Pick<ResolvedOptions, "method" | "layout" | "start" | "prefinetune" | "steps" | "postfinetune">;

/**
 * Refuses a schedule with parts that a run cannot follow at any value, and given rates that would have no effect with
 * it. Throws `CompressoError("usage")`.
 */
export function checkFollowed(
  schedule: Pick<OpenSchedule, "name" | "parts">,
  { given = {}, options }: { readonly given?: OptionNumbers | undefined; readonly options: Following },
): void {
  checkParts(schedule.parts, options);
  checkReplaced(OF_ONE_STAGE, schedule, { given, options });
  // Experiment cells without LoRA have a rate of 0 and no LoRA steps, independent of other options.
  if (given.lora === 0 && !given.postfinetune) return;
  checkStages(schedule, options);
  checkReplaced(LORA_RATES, schedule, { given, options });
}

/** Refuses given numbers that the schedule sets in each stage that uses them. */
function checkReplaced(
  names: readonly ScheduledNumber[],
  { name: scheduleName, parts }: Pick<OpenSchedule, "name" | "parts">,
  { given, options }: { readonly given: OptionNumbers; readonly options: Following },
): void {
  for (const name of names) {
    const value = given[name];
    if (value === undefined || (name === "dropout" && value === 0)) continue;
    const sets = partsThatSet(name, { given, options });
    if (sets.length === 0 || !sets.every((part) => parts.includes(part))) continue;
    refuse(
      "usage",
      name === "dropout" || name === "focus" ? `cannot use the ${name} given` : `cannot use the rate '${name}'`,
      {
        rule: "some step uses it: a schedule that sets it does so at each step of a stage",
        value: `${value}, and ${scheduleName} sets ${sets.join(", ")}`,
        fix: "leave it out of the options or of the schedule",
      },
    );
  }
}

/** The parts of a schedule that set a number, in all stages that use it. */
function partsThatSet(
  name: ScheduledNumber,
  { given, options }: { readonly given: OptionNumbers; readonly options: Following },
): readonly SchedulePart[] {
  if (name === "postfinetune") return ["postfinetune.lora"];
  if (name === "focus") return ["postfinetune.focus"];
  if (isOfPruning(name)) return [`rates.${name}`];
  const hasOwn = name === "lora" && given.postfinetune !== undefined;
  return stagesOf(options)
    .filter(({ stage, steps }) => steps > 0 && !(hasOwn && stage === "postfinetune"))
    .map(({ stage }) => `${stage === "prune" ? "rates" : stage}.${name}` as const);
}

/** Refuses parts of a schedule for stages that have no steps. */
function checkStages({ name, parts }: Pick<OpenSchedule, "name" | "parts">, options: Following): void {
  const stages = stagesOf(options),
    steps = (stage: string): number => stages.find((one) => one.stage === stage)?.steps ?? 0;
  const idle = OUTER_STAGES.find((stage) => parts.includes(stage) && steps(stage) === 0);
  if (idle === undefined) return;
  refuse("usage", "cannot follow the schedule", {
    rule: "a stage that it controls has steps",
    value: `${name} controls ${idle}, which has no steps`,
    fix: `give the stage steps (${option(idle === "finetune" ? "prefinetune" : idle)}), or leave the part out`,
  });
}

/** Refuses a schedule with parts that method or layout cannot follow at any value. Throws `CompressoError("usage")`. */
function checkParts(
  parts: readonly SchedulePart[],
  { method, layout, start }: Pick<ResolvedOptions, "method" | "layout" | "start">,
): void {
  const inRecovery = (part: SchedulePart): boolean => part.split(".")[0] === "postfinetune";
  const cutting = parts.find((part) => !inRecovery(part));
  const { kind, name } = methodOf(method);
  if (kind === "one-shot" && cutting !== undefined) {
    refuse("usage", "cannot follow the schedule", {
      rule:
        `the method ${name} cuts everything before its first step: a schedule steers its recovery alone, \`postfinetune\``,
      value: `it decides ${cutting}`,
      fix: "leave that part out, or take the method compresso or gradual",
    });
  }
  if (compensates(method) && parts.includes("postfinetune.focus")) {
    refuse("usage", "cannot follow the schedule", {
      rule: `labels are chosen by the model before pruning, which ${name}'s compensation has changed`,
      value: `method ${name}, and it decides postfinetune.focus`,
    });
  }
  const all: readonly string[] = parts;
  const rates = all.filter(isOptionPath).filter((path) => path.startsWith("rates."));
  checkTogether(atPaths([["method", method], ["start", start], ...rates.map((path) => [path, 1] as const)]), {
    paths: rates,
    what: "cannot follow the schedule",
  });
  if (layout === "uniform" && parts.includes("layers")) throw twofoldGoals();
}

const STAGES: readonly Stage[] = ["finetune", "prune", "postfinetune"];

/** Names of the numbers that a schedule sets in every stage that uses them; numbers of the last stage by their own. */
export function ratesSet(parts: readonly SchedulePart[], stages: readonly StagePlan[]): readonly string[] {
  const left = stages.filter(({ steps }) => steps > 0).map(({ stage }) => stage);
  const isLed = (name: LoopNumber, by: readonly Stage[]): boolean => {
    const users = left.filter((stage) => by.includes(stage)), said: readonly string[] = parts;
    return users.length > 0 && users.every((stage) => said.includes(`${stage === "prune" ? "rates" : stage}.${name}`));
  };
  const ofLora: readonly string[] = LORA_RATES;
  return [
    ...RATE_NAMES.filter((name) =>
      isLed(name, name === "lora" ? ["finetune", "prune"] : ofLora.includes(name) ? STAGES : ["prune"])
    ),
    ...(isLed("lora", ["postfinetune"]) ? ["postfinetune"] : []),
    ...(isLed("focus", ["postfinetune"]) ? ["focus"] : []),
  ];
}
