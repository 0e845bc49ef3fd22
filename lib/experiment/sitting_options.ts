// What programs may say to runExperiment and planExperiment. Owns the names and words of their options; refuses those that nobody reads.
import { checkNames, checkWord, type NamesOf } from "../given.ts";
import type { ExperimentOverrides } from "./resolve.ts";
import type { RunExperimentOptions } from "./run.ts";

type PlanExperimentOptions = Pick<RunExperimentOptions, "out" | "only"> & ExperimentOverrides;

const PLAN_NAMES: NamesOf<PlanExperimentOptions> = {
  ...{ out: "text", only: true },
  ...{ root: "text", files: true, models: true, data: true, set: true },
};

const RUN_NAMES: NamesOf<RunExperimentOptions> = {
  ...PLAN_NAMES,
  ...{ device: true, maxCells: "number", keep: true, evaluateOnly: "switch", redo: "switch", signal: true },
  ...{ onCell: true, onFailure: true, onNote: true, onModel: true, onRecord: true, onAlarm: true, onPhase: true },
};

/** Throws `CompressoError("usage")` for options that a plan does not have. */
export function checkPlanOptions(options: PlanExperimentOptions): void {
  checkNames(options, PLAN_NAMES, { whose: "planExperiment" });
}

/** Throws `CompressoError("usage")` for options that a sitting does not have, and for another word of what is kept. */
export function checkRunOptions(options: RunExperimentOptions): void {
  checkNames(options, RUN_NAMES, { whose: "runExperiment" });
  const { keep = "none" } = options;
  checkWord(keep, ["none", "models"], { what: `cannot keep '${keep}'` });
}
