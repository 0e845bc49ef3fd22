// The command that makes a choice of `fit` by an export or a prune run.
import { cutsAny, runOf } from "../../../lib/fit/choice.ts";
import type { FitRow } from "../../../lib/fit/make.ts";
import type { FitPlan } from "../../../lib/fit/plan.ts";
import { FOLDER_PATHS, valueAt } from "../../../lib/run/options/check.ts";
import { nameOf } from "../../../lib/run/options/table.ts";
import type { BaseDtype } from "../../../lib/nn/weights.ts";
import { shellWord } from "../../command.ts";
import { flagNamed, flagOf } from "../../options/spelling.ts";
import { NONE } from "../prune/calibration.ts";
import { type Inputs, inputsOf } from "../prune/inputs.ts";

/** What a command names besides the choice. */
export interface Named {
  readonly model: string;
  readonly data: string | null;
  readonly textField: string | undefined;
  readonly baseDtype: BaseDtype | undefined;
  readonly out: string;
  /** Steps that recover the cut. */
  readonly steps: number;
}

/** The command line of a choice. */
export function commandOf(
  { choice }: Pick<FitRow, "choice">,
  { cutRows, workshop: { shape } }: Pick<FitPlan, "cutRows" | "workshop">,
  { model, data, textField, baseDtype, out, steps }: Named,
): string {
  if (!cutsAny(choice)) {
    return lineOf("export", model, [["ggufSize", shape.bytes], ["formats", "gguf"], ["out", out]]);
  }
  const run = runOf(choice, shape, { rows: [], steps });
  const flags = FOLDER_PATHS.flatMap((path): [string, string][] => {
    const value = valueAt(run, path);
    if (value === undefined || path === "rows" || path === "prompt" || nameOf(path) === null) return [];
    return [[flagOf(path), String(value)]];
  });
  return lineOf("prune", model, [
    ...model === "demo" && data !== null ? [] : [["data", data] as const],
    ...[["textField", textField], ["limitRows", cutRows], ["baseDtype", baseDtype]] as const,
    ...flags,
    ...run.prompt === undefined ? [] : [["--no-prompt", ""] as const],
    ["out", out],
  ]);
}

/** What tells the run of a choice from others, as `prune` has it of the same command: so it can be resumed by it. */
export async function inputsOfChoice(
  { choice }: Pick<FitRow, "choice">,
  { cutRows, workshop: { shape } }: Pick<FitPlan, "cutRows" | "workshop">,
  { model, data, textField, baseDtype, out, steps }: Named,
): Promise<Inputs> {
  const { export: { ggufDtype, ggufSize } = {} } = runOf(choice, shape, { rows: [], steps });
  const read = { data: data ?? undefined, textField, limitRows: cutRows, baseDtype };
  return await inputsOf(model, { ...read, ggufDtype, ggufSize, out, steps, resume: false, calibration: NONE });
}

/** A command line of flags. Flags without a value are left out; a flag with an empty value is a switch. */
function lineOf(
  verb: string,
  model: string,
  flags: readonly (readonly [name: string, value: string | number | null | undefined])[],
): string {
  const words = flags.flatMap(([name, value]) => {
    if (value === null || value === undefined) return [];
    return [name.startsWith("--") ? name : flagNamed(name), ...value === "" ? [] : [String(value)]];
  });
  return ["compresso", verb, model, ...words].map(shellWord).join(" ");
}
