// Names of the options of `prune` and `pruneToFolder`, and those within them: any other would be accepted and do nothing. Owns the names, and what each is; refuses ranges and words.
import { checkNames, type NamesOf, type OptionNames } from "../../core/check_options.ts";
import type { LoraConfig } from "../../spec/lora.ts";
import { RULE_NAMES } from "../../units/rules.ts";
import type { RunHooks } from "../hooks.ts";
import { MONITOR_NAMES, type MonitorSetting } from "../monitors/alarm.ts";
import type { CheckpointOptions, PruneOptions } from "./options.ts";
import type { MemoryOptions, Rates } from "../contract.ts";

const LORA = {
  ...{ rank: "number", alpha: "number", rsLora: "switch", targets: "list", dropout: "number" },
} satisfies NamesOf<LoraConfig>;

const RATES = {
  ...{ lora: "number", postfinetune: "number", mask: "number", lambda: "number", temperature: "number" },
  ...{ noise: "number", spread: "number", saliencyDecay: "number", prior: "number", warmup: "number" },
  ...{ tracking: "number", logAlphaLimit: "number", clipNorm: "number", weightDecay: "number" },
} satisfies NamesOf<Rates>;

const CHECKPOINT = {
  ...{ path: "text", every: "number", resume: "switch", mayDiffer: "list", identity: true },
} satisfies NamesOf<CheckpointOptions>;

const HOOKS = {
  ...{ beforeStep: true, afterStep: true, beforeStage: true, afterStage: true, beforeExport: true, afterExport: true },
} satisfies NamesOf<RunHooks>;

const SIZE: OptionNames = { parameters: "number", bytes: "number", file: { format: true, dtype: true }, name: "text" };

const SETTING = { action: true, threshold: "number" } satisfies NamesOf<MonitorSetting>;

const MONITORS: OptionNames = {
  rollbacks: "number",
  ...Object.fromEntries(MONITOR_NAMES.map((name) => [name, SETTING])),
};

/** What both have. */
export const RUN = {
  ...{ rows: "list", sparsity: "number", size: SIZE, units: true, lora: LORA, prompt: true },
  ...{ steps: "number", prefinetune: "number", postfinetune: "number", batch: "number", seq: "number" },
  ...{ seed: "number", layout: true, recompute: "switch", rules: RULE_NAMES, method: true, ranking: true },
  ...{ schedule: true, trustSchedule: "switch", onScheduleLog: true, packing: "switch", reading: true },
  ...{
    calibrationReading: true,
    skipBroken: "switch",
    hooks: HOOKS,
    onScoring: true,
    onMasks: true,
    rates: RATES,
    start: true,
  },
  ...{ keptMasks: true, lambdaRule: true, focus: "number", preset: true, monitors: MONITORS, signal: true },
} satisfies NamesOf<Omit<PruneOptions, "checkpoint" | "calibration">>;

const PRUNE = { ...RUN, checkpoint: CHECKPOINT, calibration: "list" } satisfies NamesOf<PruneOptions>;

const MEMORY = {
  ...{ batch: "number", seq: "number", lora: LORA, units: true, rules: RULE_NAMES, layout: true, recompute: "switch" },
  ...{ method: true, focus: "number", baseDtype: true, adapter: { limits: true, isCpu: "switch" } },
} satisfies NamesOf<MemoryOptions>;

/** Refuses options that plans of memory do not have; `whose` is the function that they are given to. Throws `CompressoError("usage")`. */
export function checkMemoryNames(options: MemoryOptions, whose: string): void {
  checkNames(options, MEMORY, { whose });
}

/** Refuses options that `prune` does not have. Throws `CompressoError("usage")`. */
export function checkPruneNames(options: PruneOptions): void {
  checkRun(options, PRUNE, "prune");
}

export function checkRun(
  options: Pick<PruneOptions, "hooks">,
  names: OptionNames,
  whose: "prune" | "pruneToFolder",
): void {
  const { hooks } = options;
  // An object of a class may have fields of its own beside the hooks.
  const isPlain = !(hooks instanceof Object) || Object.getPrototypeOf(hooks) === Object.prototype;
  checkNames(options, isPlain ? names : { ...names, hooks: true }, { whose });
}
