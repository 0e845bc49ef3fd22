// Identity of a run: its options, rows, schedule, model and adapter as one JSON object. A resumed run is compared by
// it.
import { type MethodChoice, nameOfMethod } from "./methods/all.ts";
import { option, refuse } from "../core/errors.ts";
import { differencesOf, type RunIdentity } from "../core/identity.ts";
import { digestOf } from "../core/digest.ts";
import { isObject } from "../core/guards.ts";
import type { Model } from "../model/model.ts";
import { isCrossEntropy } from "../nn/train/objective.ts";
import type { RunData } from "./data.ts";
import type { CheckpointOptions, ResolvedOptions } from "./options/options.ts";
import { DECIDING_PATHS, OPTION_TABLE } from "./options/table.ts";

/** Options of a run, or of its run.json, where the method is a name. */
type DecidingOptions = Omit<ResolvedOptions, "rows" | "recompute" | "check" | "monitors" | "method"> & {
  readonly method: MethodChoice | string;
};

/**
 * The options that determine a run's bits, nested as in the options object. If a size is given, the sparsity follows
 * from it.
 */
export function decidingOptions(
  { sparsity, rules, method, objective, optimizer, val, evalEvery, patience, documentMask, allTokens, ...others }:
    DecidingOptions,
): RunIdentity {
  const { protect } = rules;
  const options = {
    ...others,
    method: nameOfMethod(method),
    // Runs from before these options existed have none of them.
    ...(documentMask ? { documentMask } : {}),
    ...(allTokens ? { allTokens } : {}),
    ...(val === null ? {} : { val }),
    ...(evalEvery === OPTION_TABLE.evalEvery.default ? {} : { evalEvery }),
    ...(patience === OPTION_TABLE.patience.default ? {} : { patience }),
    ...(isCrossEntropy(objective) ? {} : { objective }),
    ...(optimizer === OPTION_TABLE.optimizer.default ? {} : { optimizer }),
    ...(others.size ? {} : { sparsity }),
    rules: { ...rules, ...(protect ? { protect: [...new Set(protect)].sort((a, b) => a - b) } : {}) },
  };
  const found: Record<string, unknown> = {};
  // The default multiples of widths follow from the type of the file that is written.
  for (const path of [...DECIDING_PATHS, "rules.fit"]) copyPath(path.split("."), options, found);
  return JSON.parse(JSON.stringify(found)); // without what is undefined
}

/**
 * Everything that determines a run. Recomputing layers changes no bit, and monitors may change to continue after an
 * alarm, so these are left out.
 */
export function identityOf(
  { spec, weights, device }: Model,
  { report, digest, heldOutDigest, calibration }: Pick<RunData, "report" | "digest" | "heldOutDigest" | "calibration">,
  { options, schedule, further }: {
    readonly options: ResolvedOptions;
    /** Identity of the opened schedule. */
    readonly schedule: string;
    /** Further facts given by the caller. */
    readonly further: CheckpointOptions["identity"];
  },
): RunIdentity {
  const { calibration: _isThere, ...facts } = decidingOptions(options);
  return {
    ...facts,
    ...(calibration ? { calibration: calibration.digest } : {}),
    ...(heldOutDigest === null ? {} : { valRows: heldOutDigest }),
    schedule,
    examples: `${report.examples} examples, ${report.tokens} tokens, ${digest}`,
    model: digestOf([JSON.stringify(spec)]),
    baseDtype: weights.baseDtype,
    adapter: device.facts.description,
    ...further,
  };
}

/** Facts of a run that are not options. */
const FOUND = ["calibration", "schedule", "examples", "model", "baseDtype", "adapter"] as const;
/** Options that give the state of a run its meaning and cannot change. */
const FIXED = ["method", "units", "rules", "optimizer", "evalEvery"];

/** Names of all facts of a run, without the caller's. */
const OWN_FACTS: readonly string[] = [
  ...new Set([...DECIDING_PATHS.map((path) => path.split(".", 1)[0] ?? path), ...FOUND]),
];

/**
 * Differences between a resumed run and its checkpoint, one per line: `rates.lora: 0.001 then, 0.0001 now`. A change of
 * an option named in `mayDiffer` affects only later steps.
 *
 * @throws CompressoError("mismatch") for other differences.
 * @throws CompressoError("usage") for names that may not differ.
 */
export function changesBetween(
  then: RunIdentity,
  now: RunIdentity,
  { path, mayDiffer = [] }: { readonly path: string; readonly mayDiffer?: readonly string[] | undefined },
): readonly string[] {
  const names = [...new Set([...OWN_FACTS, ...Object.keys(then), ...Object.keys(now)])];
  const may = names.filter((name) => !FIXED.includes(name)), unknown = mayDiffer.find((name) => !may.includes(name));
  const what = `cannot resume from ${path}`;
  if (unknown !== undefined) {
    refuse("usage", what, {
      rule: `what may differ is among ${may.join(", ")}`,
      value: unknown,
      fix: "name some of these, or leave it out",
    });
  }
  const changes = new Map(names.map((name) => [name, differencesOf({ [name]: then[name] }, { [name]: now[name] })]));
  const refused = names.filter((name) => changes.get(name)?.length && !mayDiffer.includes(name));
  if (refused.length === 0) return [...changes.values()].flat();
  const isUsual = refused.every((name) => name === "schedule" || name === "rates");
  refuse("mismatch", what, {
    rule: "options, data, model and adapter are those of the first run",
    value: refused.flatMap((name) => changes.get(name) ?? []).join("; "),
    fix: `give the same options, or another ${option("out")}${
      isUsual ? `, or accept the changes by ${option("mayDiffer", refused.join(","))}` : ""
    }`,
  });
}

/** Names of the rates that differ. */
export function changedRates({ rates: then }: RunIdentity, { rates: now }: RunIdentity): readonly string[] {
  if (!isObject(then) || !isObject(now)) return [];
  return Object.keys({ ...then, ...now }).filter((name) => then[name] !== now[name]);
}

/**
 * Refuses names in `mayDiffer` if no run is resumed, and facts of the caller with the name of one of the run's own.
 * Throws `CompressoError("usage")`.
 */
export function checkResuming(
  { mayDiffer = [], resume = false, identity = {} }: Pick<CheckpointOptions, "mayDiffer" | "resume" | "identity">,
): void {
  if (mayDiffer.length > 0 && !resume) {
    refuse("usage", `cannot use ${option("mayDiffer")}`, {
      rule: `it says what may differ in a resumed run, with ${option("resume")}`,
      value: mayDiffer.join(", "),
      fix: "leave it out, or resume a run",
    });
  }
  const taken = Object.keys(identity).find((name) => OWN_FACTS.includes(name));
  if (taken === undefined) return;
  refuse("usage", "cannot tell runs apart by this identity", {
    rule: "its names differ from those of the run's own facts",
    value: taken,
    fix: "choose another name",
  });
}

/** Copies the value at a path. */
function copyPath(
  [name = "", ...rest]: readonly string[],
  from: Readonly<Record<string, unknown>>,
  to: Record<string, unknown>,
): void {
  const value = from[name];
  if (rest.length === 0) {
    to[name] = value;
    return;
  }
  if (!isObject(value)) return;
  const inner = to[name];
  const part: Record<string, unknown> = isObject(inner) ? { ...inner } : {};
  copyPath(rest, value, part);
  to[name] = part;
}
