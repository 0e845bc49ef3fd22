// Fills in the defaults of a run's options, and refuses those that cannot work.
import { CompressoError } from "../../core/errors.ts";
import { given } from "../../core/check_options.ts";
import { COLLABORATIVE_PROMPT } from "../../data/prompts/encode.ts";
import { checkPromptText } from "../../data/prompts/format.ts";
import { checkLora } from "../../spec/lora.ts";
import { type DecoderSpec, PROJECTIONS } from "../../spec/decoder.ts";
import { checkKept } from "../../masks/harden.ts";
import type { Layout } from "../../units/layout.ts";
import { leastLimit, shownLimit } from "../../masks/saliency.ts";
import { checkSeed } from "../../core/random.ts";
import { checkKinds, checkTakenRules, type UnitKind } from "../../units/units.ts";
import { checkContext } from "../../data/batches.ts";
import { checkFacts } from "../facts.ts";
import { checkFocus } from "../focus.ts";
import { firstStageSteps, isOneShot, lastStageSteps, learnsBesideCalibration, type Method } from "../methods/names.ts";
import { resolveMonitors } from "../monitors/alarm.ts";
import { checkPruneNames } from "./names.ts";
import { checkWords } from "./words.ts";
import { type PresetOptions, presetOptions, PRESETS } from "./presets.ts";
import { checkLoraRates, checkTaken, LORA_RATE, resolveRates } from "./rates.ts";
import { alignment } from "../size_goal.ts";
import type { PruneOptions, ResolvedOptions } from "./options.ts";

/** Defaults that do not follow from other options; the command line shows the same ones. */
export const DEFAULTS = {
  batch: 4,
  seq: 256,
  seed: 1,
  units: ["kv", "ffn"] as readonly UnitKind[],
  lora: { rank: 8, alpha: 16, targets: PROJECTIONS, dropout: 0 },
  packing: true,
  layout: "compact" as Layout,
  loraRate: LORA_RATE,
  focus: 0.3,
} as const;

/**
 * Fills in defaults. Sparsity is 0 where a size is given: `sizeGoal` finds it. Throws `CompressoError("usage")` for options that do not exist and values out of
 * range.
 */
export function resolveOptions(options: PruneOptions, spec: Pick<DecoderSpec, "maxPosition">): ResolvedOptions {
  checkPruneNames(options);
  checkWords(options);
  const { steps, batch = DEFAULTS.batch, seq = DEFAULTS.seq, seed = DEFAULTS.seed, method = "compresso" } = options;
  whole("steps", steps, isOneShot(method) ? 0 : 1); // by which the rates go
  const preset = presetOf(options), units = [...checkKinds(options.units ?? preset.units ?? DEFAULTS.units)];
  const postfinetune = options.postfinetune ?? preset.postfinetune ?? lastStageSteps(steps);
  const resolved: ResolvedOptions = {
    rows: options.rows,
    sparsity: options.sparsity ?? 0,
    size: options.size ?? null,
    preset: options.preset ?? null,
    calibration: options.calibration !== undefined,
    steps,
    prefinetune: options.prefinetune ?? preset.prefinetune ?? firstStageSteps(steps),
    postfinetune,
    batch,
    seq,
    seed,
    units,
    lora: { ...DEFAULTS.lora, ...preset.lora, ...given(options.lora ?? {}) },
    prompt: options.prompt === undefined ? COLLABORATIVE_PROMPT : options.prompt,
    packing: options.packing ?? preset.packing ?? DEFAULTS.packing,
    layout: options.layout ?? DEFAULTS.layout,
    recompute: options.recompute ?? true,
    method,
    ranking: options.ranking ?? (BY_LAYER.includes(method) || isOneShotAlike({ ...options, method }) ? "layer" : "all"),
    rules: { ...alignment(options.size, units), ...given(options.rules ?? {}) },
    start: options.start ?? preset.start ?? "saliency",
    keptMasks: options.keptMasks ?? preset.keptMasks ?? "one",
    lambdaRule: options.lambdaRule ?? preset.lambdaRule ?? "plain",
    focus: options.focus ?? preset.focus ?? (method === "compresso" && postfinetune > 0 ? DEFAULTS.focus : 1),
    rates: resolveRates(steps, { preset: preset.rates, given: options.rates }),
    monitors: resolveMonitors(options.monitors),
  };
  checkPromptText(resolved.prompt, { fix: "null for none; leave it out for the collaborative prompt" });
  checkLora(resolved.lora);
  checkKept(options.keptMasks, resolved.units);
  checkTakenRules(resolved.units, options.rules ?? {});
  checkTaken((name) => options.rates?.[name] !== undefined, { ...resolved, what: "cannot use these rates" });
  checkLoraRates(options.rates, resolved);
  checkStart(resolved);
  checkFocus(resolved);
  checkCalibration(resolved);
  checkGoal(options);
  whole("prefinetune", resolved.prefinetune, 0);
  whole("postfinetune", resolved.postfinetune, 0);
  whole("batch", batch, 1);
  whole("seq", seq, 2);
  checkSeed(seed);
  const { every = Infinity } = options.checkpoint ?? {};
  checkFacts(options.checkpoint ?? {});
  if (every !== Infinity) whole("checkpoint-every", every, 1);
  checkContext(seq, spec);
  return resolved;
}

function presetOf({ preset, steps }: PruneOptions): Partial<PresetOptions> {
  if (preset === undefined) return {};
  if (PRESETS.includes(preset)) return presetOptions(preset, steps);
  throw new CompressoError("usage", {
    what: "cannot use this preset",
    rule: `presets are ${PRESETS.join(", ")}`,
    value: String(preset),
    fix: "take one of these, or leave it out",
  });
}

function checkGoal({ sparsity, size }: PruneOptions): void {
  if ((sparsity === undefined) !== (size === undefined)) return;
  throw new CompressoError("usage", {
    what: "cannot tell how small the model is to become",
    rule: "exactly one of these is given: a sparsity, a number of parameters, a number of bytes",
    value: size === undefined ? "none of them" : "a sparsity and a size",
    fix: "give --sparsity, --target-params or --target-bytes",
  });
}

/** Methods whose published codes take the same share of every layer. */
const BY_LAYER: readonly Method[] = ["magnitude", "taylor", "wanda-sp"];

/** One-shot methods that look at rows. */
const LOOKING: readonly Method[] = ["taylor", "wanda-sp", "flap"];

/** Whether a one-shot method cuts all layers alike, so that it compares units within a layer whatever its default is. */
function isOneShotAlike({ method, layout }: { readonly method: Method; readonly layout?: Layout }): boolean {
  return isOneShot(method) && layout === "uniform";
}

/** Refuses a clamp under which half of all units may be cut at the first step. */
function checkStart({ method, start, rates }: ResolvedOptions): void {
  const least = leastLimit(rates), { logAlphaLimit: limit, spread } = rates;
  if (method !== "compresso" || start !== "saliency" || limit >= least) return;
  throw new CompressoError("usage", {
    what: "cannot start masks from saliency",
    rule: `the limit of log α is at least ${
      shownLimit(least)
    } here, so that half of all units begin open: three times the spread, and what opens a unit`,
    value: `a limit of ${limit} at a spread of ${spread}`,
    fix: "raise --log-alpha-limit, lower --spread, or start from a constant (--start constant, without --spread)",
  });
}

function checkCalibration(options: ResolvedOptions): void {
  const { calibration, method, start } = options;
  if (!calibration || LOOKING.includes(method) || learnsBesideCalibration(options)) return;
  throw new CompressoError("usage", {
    what: "cannot use calibration rows",
    rule: `they are for learned masks that start from saliency with a prior, and for ${LOOKING.join(", ")}`,
    value: method !== "compresso"
      ? `method ${method}`
      : start === "saliency"
      ? "the rate 'prior' is 0"
      : `masks that start from '${start}'`,
    fix: "leave --calibration out",
  });
}

/**
 * Options by which a run is told from another one: those that came later than runs that are still there only where they make a difference to
 * what these were.
 */
export function telling<T extends Pick<ResolvedOptions, "method" | Later | Scored>>(
  { keptMasks, lambdaRule, calibration, focus, ...options }: T,
): Omit<T, Later> & Partial<Pick<ResolvedOptions, Later> & { readonly scoring: number }> {
  const { method } = options;
  // Layers that are cut alike were said to be ranked by the method's default, though nothing followed from it.
  const ranking = isOneShotAlike(options) && !BY_LAYER.includes(method) ? "all" : options.ranking;
  return {
    ...options,
    ranking,
    ...(method === "compresso" && keptMasks !== "median" ? { keptMasks } : {}),
    ...(method === "compresso" && lambdaRule === "adam" ? { lambdaRule } : {}),
    ...(calibration ? { calibration } : {}),
    ...(focus < 1 ? { focus } : {}),
    ...(isScoredAnew({ ...options, ranking, calibration }) ? { scoring: 2 } : {}),
  };
}

/** Options that came later than others. */
type Later = "keptMasks" | "lambdaRule" | "calibration" | "focus";

/** Options that what a score says depends on. */
type Scored = "calibration" | "units" | "rules" | "layout" | "ranking";

/** Whether a run's scores are others than they were at first: measured at labels, means of scores where they were of ranks, or beside the weights' prior. */
function isScoredAnew(
  { method, calibration, units, rules: { align = 1 }, layout, ranking }: Pick<ResolvedOptions, "method" | Scored>,
): boolean {
  if (method === "compresso") return calibration;
  if (method === "flap" || method === "wanda-sp") return true;
  return ranking === "all" && (align > 1 || units.includes("heads") || layout === "uniform");
}

function whole(name: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least) return;
  const what = `cannot use --${name} ${value}`, rule = `it is a whole number, at least ${least}`;
  throw new CompressoError("usage", { what, rule, value: String(value), fix: "give such a number" });
}
