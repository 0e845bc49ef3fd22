// Facts by which runs are told apart, compared in words. Owns the comparison, and the fact that comes of their shape.
import { differencesOf } from "../core/identity.ts";
import { CompressoError } from "../core/errors.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import { fallsByGroup } from "../units/uniform.ts";
import { namesOneShot } from "./methods/names.ts";
import type { RunPosition } from "./contract.ts";
import type { CheckpointOptions, ResolvedOptions } from "./options/options.ts";
import { isObject } from "../core/guards.ts";

/**
 * A fact of runs that are others than they were at first: heads of layers that are to be alike were units by themselves; without tracking nothing
 * led these layers to their goals; and masks were learned with least widths that are no whole groups or blocks. Of other runs none.
 */
export function learnedAnew(
  spec: Pick<DecoderSpec, "layers">,
  options: Pick<ResolvedOptions, "units" | "layout" | "method" | "rates" | "rules">,
): { readonly learning?: number } {
  const { layout, method, rates, units, rules: { minimum: { heads = 0, ffn = 0, hidden = 0 } = {}, align = 1 } } =
    options;
  const isLed = layout === "uniform" && rates.tracking === 0;
  const isPart = ffn % align !== 0 || hidden % align !== 0 ||
    (units.includes("kv") &&
      spec.layers.some((layer) => layer.kvHeads > 0 && heads % (layer.heads / layer.kvHeads) !== 0));
  return method === "compresso" && (isLed || isPart) || fallsByGroup(spec, options) ? { learning: 2 } : {};
}

/** Facts that decide nothing in runs of a method, though they have a value there, which changed with the default: one-shot methods have no warm-up. */
export function idleFacts(method: unknown): readonly string[] {
  return namesOneShot(method) ? ["rates.warmup"] : [];
}

/** Names of all facts that a run may be told apart by, beside those that its caller names. */
const OWN_FACTS: Readonly<Record<Exclude<keyof ResolvedOptions, "rows" | "recompute" | "monitors"> | Found, true>> = {
  ...{ sparsity: true, size: true, preset: true, calibration: true, units: true, lora: true, rules: true },
  ...{ steps: true, prefinetune: true, postfinetune: true, batch: true, seq: true, seed: true, prompt: true },
  ...{ packing: true, layout: true, method: true, ranking: true, start: true, focus: true, rates: true },
  ...{ keptMasks: true, lambdaRule: true, learning: true, scoring: true, schedule: true, examples: true },
  ...{ model: true, baseDtype: true, adapter: true },
};

/** Facts that are no options. */
type Found = "learning" | "scoring" | "schedule" | "examples" | "model" | "baseDtype" | "adapter";

/**
 * Refuses names of what may differ where no run goes on, and facts of the caller's by names that are the run's own. Throws `CompressoError("usage")`.
 */
export function checkFacts(
  { mayDiffer = [], resume = false, identity = {} }: Pick<CheckpointOptions, "mayDiffer" | "resume" | "identity">,
): void {
  if (mayDiffer.length > 0 && !resume) {
    throw new CompressoError("usage", {
      what: "cannot use mayDiffer",
      rule: "it says what a run that goes on may have otherwise, with resume",
      value: mayDiffer.join(", "),
      fix: "leave it out, or resume a run",
    });
  }
  const taken = Object.keys(identity).find((name) => Object.hasOwn(OWN_FACTS, name));
  if (taken === undefined) return;
  throw new CompressoError("usage", {
    what: "cannot tell runs apart by this identity",
    rule: "its names are none of the run's own facts, which it would replace",
    value: taken,
    fix: "name it otherwise",
  });
}

/**
 * What differs, a line each, of what a run that stands there has behind it, and would be accepted and ignored: steps of a stage that is over, or is
 * longer than that now; what masks started from, once they have; what they were made for, and rates that no step to come uses, once they are hard; a method with other
 * stages; and all of it where no step is to come. A pruning stage of just the steps that are done would end at the target that its last one had half-way, so it counts as over.
 */
export function pastDifferences(
  then: Readonly<Record<string, unknown>>,
  now: Readonly<Record<string, unknown>>,
  { stage, stageStep, begun }: Pick<RunPosition, "stage" | "stageStep" | "begun">,
): string[] {
  const isOneShot = namesOneShot(now.method);
  if (namesOneShot(then.method) !== isOneShot) return differencesOf({ method: then.method }, { method: now.method });
  const names = ["prefinetune", "steps", "postfinetune"] as const;
  const steps = (facts: Readonly<Record<string, unknown>>, of: readonly string[]): number =>
    of.reduce((sum, name) => sum + Number(facts[name]), 0);
  const stages: readonly (readonly string[])[] = isOneShot ? [[], names] : names.map((name) => [name]);
  const all = Object.keys({ ...then, ...now }).filter((fact) => !names.some((name) => name === fact));
  const isEnded = stage >= stages.length;
  const pruning = isOneShot ? 0 : 1, isHard = stage > pruning || (stage === pruning && begun === "hard");
  const past = stages.flatMap((of, index) => {
    const left = steps(now, of) - stageStep, isShort = left < 0 || (left === 0 && index === pruning);
    const isOver = stage > index || (stage === index && (begun === "hard" || isShort));
    return isOver && steps(then, of) !== steps(now, of) ? of : [];
  });
  const isStarted = isHard || (stage === pruning && (stageStep > 0 || begun !== null));
  const isMadeAlike = [then, now].some(({ layout }) => layout === "uniform");
  const behind = isEnded ? [...all, ...past] : [
    ...isStarted ? OF_MASKS : [],
    ...isHard ? [...OF_HARD_MASKS, ...isMadeAlike ? ["layout"] : []] : [],
    ...past,
  ];
  const postfinetune = [then, now].map(({ rates }) => partsOf(membersOf(rates), ["postfinetune"])["postfinetune"]);
  const rates = isHard
    ? [
      ...isOneShot ? [] : RATES_OF_MASKS,
      ...postfinetune[0] === postfinetune[1] && postfinetune[0] !== undefined ? ["lora"] : [],
    ]
    : [];
  const only = (facts: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> => ({
    ...Object.fromEntries(behind.map((name) => [name, membersOf(facts[name])])),
    rates: isEnded ? membersOf(facts.rates) : partsOf(membersOf(facts.rates), rates),
  });
  return differencesOf(only(then), only(now), { idle: idleFacts(now.method) });
}

/** Some members of an object. */
function partsOf(whole: unknown, names: readonly string[]): Readonly<Record<string, unknown>> {
  return Object.fromEntries(names.map((name) => [name, isObject(whole) ? whole[name] : undefined]));
}

/** A fact that is written as JSON, by its members. */
export function membersOf(fact: unknown): unknown {
  if (typeof fact !== "string" || !fact.startsWith("{")) return fact;
  try {
    return JSON.parse(fact);
  } catch {
    return fact;
  }
}

/** What masks start from, and how they are led. */
const OF_MASKS = ["method", "start", "calibration"] as const;

/** What hard masks follow from, beside that, rates and a schedule. */
const OF_HARD_MASKS = ["sparsity", "size", "units", "rules", "ranking", "keptMasks", "lambdaRule"] as const;

/** Rates that the pruning stage alone uses. What its steps had by them is behind hard masks. */
const RATES_OF_MASKS = [
  "mask",
  "lambda",
  "temperature",
  "noise",
  "saliencyDecay",
  "warmup",
  "tracking",
  "logAlphaLimit",
] as const;

/** Rates that differ between two identities, which have them as JSON. */
export function changedRates(then: string, now: string): ReadonlySet<string> {
  const before: Record<string, unknown> = JSON.parse(then), after: Record<string, unknown> = JSON.parse(now);
  return new Set(Object.keys({ ...before, ...after }).filter((name) => before[name] !== after[name]));
}
