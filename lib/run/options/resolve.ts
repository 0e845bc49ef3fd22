// Fills in the defaults of a run's options, and checks the options that depend on each other or on the model.
import { type CompressoError, option, refusal, refuse } from "../../core/errors.ts";
import { isObject } from "../../core/guards.ts";
import { checkWord, withoutUndefined } from "../../core/check_options.ts";
import type { Row } from "../../data/rows.ts";
import { COLLABORATIVE_PROMPT } from "../../data/prompts/encode.ts";
import { checkPromptText } from "../../data/prompts/format.ts";
import { checkLora } from "../../spec/lora.ts";
import type { DecoderSpec } from "../../spec/decoder.ts";
import { checkKept } from "../../masks/harden.ts";
import type { Layout } from "../../units/layout.ts";
import { leastLimit, shownLimit } from "../../masks/saliency.ts";
import {
  checkKinds,
  cutsExperts,
  cutsNothing,
  keepsLayers,
  placeOfKind,
  recordOf,
  type UnitKind,
} from "../../units/kinds/all.ts";
import { checkTakenRules } from "../../units/kinds/checks.ts";
import { cannotCut } from "../../units/kinds/kind.ts";
import type { WeightSource } from "../../spec/source.ts";
import type { GgufWriteType } from "../../formats/gguf/mixes.ts";
import { checkContext } from "../../data/encode_rows.ts";
import { refuseExperts } from "../../nn/experts.ts";
import { checkResuming } from "../identity.ts";
import { checkFocus } from "../focus.ts";
import { checkObjective, resolveObjective } from "./objective.ts";
import { compensates, kindOfMethod, type MethodChoice, methodOf, nameOfMethod } from "../methods/all.ts";
import { EXPERT_METHODS, scoresExperts } from "../methods/experts.ts";
import { keep } from "../methods/keep.ts";
import { learnsBesideCalibration } from "../methods/stages.ts";
import { resolveMonitors } from "../monitors/alarm.ts";
import { atPaths, checkOptions, checkTogether, presetOptions, PRUNE_PATHS, ruleOf, valueAt, valueOf } from "./check.ts";
import { type Files, fittingShape } from "./fitting.ts";
import { checkLoraRates, resolveRates } from "./rates.ts";
import { DECIDING_PATHS, entryOf, OPTION_TABLE, type OptionPath, pathsIn } from "./table.ts";
import { isScheduleName } from "../../schedule/builtin.ts";
import { checkSizeFile, type ExportOptions, FORMATS, ggufDtypeFor } from "../../slice/export_options.ts";
import type { Ranking } from "../../masks/baselines.ts";
import type { WantedSize } from "../contract.ts";
import { fittingWidths } from "../../units/fitting_widths.ts";
import type {
  DefaultedOptions,
  MemoryOptions,
  PruneOptions,
  ResolvedMemory,
  ResolvedOptions,
  RunOptions,
} from "./options.ts";

/** What options are checked against: a model's shape, or its context alone. */
export type KnownShape = DecoderSpec | Pick<DecoderSpec, "maxPosition">;

/** The weights of a model, and how it is to be written. */
export interface Written extends Pick<ExportOptions, "ggufDtype" | "ggufSize" | "dtype" | "formats"> {
  /** Without it a GGUF of the type `auto` counts as f16, and the model does not count as one. */
  readonly source?: WeightSource | undefined;
}

/**
 * Fills in defaults. Sparsity is 0 if a size is given: `sizeGoal` finds it. Without `spec` the length of the model's
 * context is not checked, widths are not aligned by default, and layout and units are the usual ones.
 *
 * @throws CompressoError("usage") for options that do not exist, values out of range and options that do not go together.
 */
export function resolveOptions(
  given: PruneOptions,
  spec: KnownShape = { maxPosition: Infinity },
  written: Written = {},
): ResolvedOptions {
  checkOptions(given, PRUNE_PATHS, { whose: "prune" });
  const options = withUnits(given);
  checkRowsOr(options.calibration, ["none"]);
  const ofExperts = cutsExperts(options.units);
  if (ofExperts) checkExpertRun(options, spec);
  else if ("layers" in spec) refuseExperts(spec, "cannot prune this model");
  const isAlone = trainsNothing(options), keeps = keepsLayers(options.units);
  if (cutsNothing(options.units)) checkTuning(options);
  if (keeps) checkIdle(options, { isAlone, takes: ofExperts ? EXPERT_PATHS : [] });
  if (!keeps || ofExperts) checkGoal(options);
  if (options.size !== undefined) checkSize(options.size);
  const usual = ofExperts ? "reap" : keeps ? keep : OPTION_TABLE.method.default;
  const { method = usual, steps } = options;
  if (!ofExperts) checkMethod(method);
  if ("convolution" in spec && spec.convolution && compensates(method)) {
    refuse("usage", "cannot prune this model", {
      rule: "the method adds no biases: the classes of a model with short convolutions have none",
      value: nameOfMethod(method),
      fix: `take another ${option("method")}`,
      option: "method",
    });
  }
  if (!isAlone) checkSteps(steps, method);
  checkTogether(keeps ? { ...options, method } : options, { paths: PRUNE_PATHS });
  const preset = options.preset === undefined ? {} : presetOptions(options.preset, steps);
  const asked = { ...options, method };
  const shape = resolveMemory(asked, spec, written),
    size = options.size ? knownSize(options.size, written.source) : null;
  const stage = (name: "prefinetune" | "postfinetune"): number =>
    keeps ? options[name] ?? 0 : Number(valueOf(options, name, steps));
  const postfinetune = stage("postfinetune");
  const resolved: ResolvedOptions = {
    ...defaulted(asked),
    rows: options.rows,
    sparsity: options.sparsity ?? 0,
    size,
    preset: options.preset ?? null,
    calibration: calibrationRows(options) !== undefined,
    steps,
    prefinetune: stage("prefinetune"),
    postfinetune,
    ...shape,
    // A tuned model learns what it is later asked. If nothing is trained, rows are measured as they are read later.
    prompt: options.prompt !== undefined
      ? promptGiven(options)
      : isAlone || cutsNothing(options.units)
      ? null
      : COLLABORATIVE_PROMPT,
    ranking: options.ranking ?? rankingOf(method, shape),
    rules: withFittingWidths(shape, spec, writtenType(size, written)),
    // Without a last stage no step learns from a part of the labels.
    focus: options.focus ?? preset.focus ?? (postfinetune > 0 ? shape.focus : 1),
    rates: resolveRates(isAlone ? 1 : steps, { ...shape, preset: preset.rates, given: options.rates }),
    monitors: resolveMonitors(options.monitors),
  };
  checkPromptText(resolved.prompt, { fix: '"none" for none; leave it out for the collaborative prompt' });
  checkLora(resolved.lora);
  checkMethodUnits(resolved);
  checkKept(options.keptMasks, resolved.units);
  checkTakenRules(resolved.units, options.rules ?? {});
  checkRanking(options.ranking, resolved);
  checkSchedule(options.schedule, resolved);
  checkLoraRates(options.rates, resolved);
  checkStart(resolved);
  checkFocus(resolved);
  checkObjective(resolved);
  checkCalibration(resolved);
  checkPatience(resolved);
  checkResuming(options.checkpoint ?? {});
  checkRanks(options.ranks, resolved);
  checkContext(resolved.seq, spec);
  return resolved;
}

/** The options with no units at a sparsity of 0, at which nothing is cut. Throws `CompressoError("usage")` for an empty list at another one. */
function withUnits(options: PruneOptions): PruneOptions {
  const { sparsity, units } = options, isEmpty = Array.isArray(units) && units.length === 0;
  if (isEmpty && sparsity !== 0) {
    refuse("usage", "cannot prune these units", {
      rule: "at least one kind of unit",
      value: "none",
      fix: `try kv,ffn, or ${option("sparsity", 0)}, which cuts nothing`,
      option: "units",
    });
  }
  if (sparsity !== 0) return options;
  if (units === undefined || isEmpty) return { ...options, units: [] };
  refuse("usage", `cannot use ${option("units")} where nothing is cut`, {
    rule: "no unit is cut",
    value: option("sparsity", 0),
    option: "units",
  });
}

/** Refuses a run that would cut nothing and train nothing, and a target besides its sparsity of 0. Throws `CompressoError("usage")`. */
function checkTuning({ steps = 0, size, preset }: PruneOptions): void {
  if (steps < 1) {
    refuse("usage", `cannot use ${option("steps")}`, {
      rule: "a run that cuts nothing has at least one step",
      value: steps,
      option: "steps",
    });
  }
  const other = size !== undefined ? "size.parameters" : preset !== undefined ? "preset" : null;
  if (other !== null) {
    refuse("usage", `cannot use ${option(other)} where nothing is cut`, {
      rule: "the model keeps its size",
      value: option("sparsity", 0),
      option: other,
    });
  }
}

/** The calibration rows that were given, if any. */
export function calibrationRows({ calibration }: Pick<RunOptions, "calibration">): readonly Row[] | undefined {
  return calibration === "none" ? undefined : calibration;
}

/** The prompt that was given; null for none. */
export function promptGiven({ prompt = null }: Pick<RunOptions, "prompt">): string | null {
  return prompt === "none" ? null : prompt;
}

/** Refuses calibration that is neither rows nor one of these words. Throws `CompressoError("usage")`. */
export function checkRowsOr(calibration: unknown, words: readonly string[]): void {
  if (calibration === undefined || Array.isArray(calibration)) return;
  checkWord(calibration, words, { what: `cannot use ${option("calibration")}; rows are a list, as of readRows` });
}

/** The rules with the default multiples of widths, unless they have their own. */
export function withFittingWidths(
  { rules, units }: Pick<ResolvedOptions, "rules" | "units">,
  spec: KnownShape,
  ggufDtype: GgufWriteType | null,
): ResolvedOptions["rules"] {
  if (rules.align !== undefined || !("layers" in spec)) return rules;
  return { ...rules, ...fittingWidths(spec, units, ggufDtype) };
}

/** The type of the GGUF that a run writes; null for none. */
function writtenType(
  size: WantedSize<GgufWriteType> | null,
  { source, formats = FORMATS, ggufSize, ...types }: Written,
): GgufWriteType | null {
  if (size && "file" in size && size.file.format === "gguf") return size.file.dtype;
  if (!formats.includes("gguf")) return null;
  // Types are chosen after the cut; most have blocks of 32 values, as this one.
  if (ggufSize !== undefined) return "q8_0";
  if (source) return ggufDtypeFor(source, types);
  const { ggufDtype = "auto" } = types;
  return ggufDtype === "auto" ? "f16" : ggufDtype;
}

/** Each rank has a micro-batch of each step. */
function checkRanks(ranks: RunOptions["ranks"], { accumulate }: Pick<ResolvedOptions, "accumulate">): void {
  if (!ranks || accumulate >= ranks.size) return;
  refuse("usage", `cannot train on ${ranks.size} ranks`, {
    rule: "a step has at least as many micro-batches as there are ranks",
    value: option("accumulate", accumulate),
    fix: `start fewer ranks, or give ${option("accumulate", ranks.size)}`,
    option: "accumulate",
  });
}

/** The size of a file of known type. */
function knownSize(size: WantedSize, source: WeightSource | undefined): WantedSize<GgufWriteType> {
  if ("parameters" in size) return size;
  const { file, ...others } = size;
  if (file.format === "hf") return { ...others, file };
  const { format, dtype } = file;
  const known = source ? ggufDtypeFor(source, { ggufDtype: dtype }) : dtype === "auto" ? "f16" : dtype;
  return { ...others, file: { format, dtype: known } };
}

/** Options without parts whose default is a value in the table, not a function of the steps. */
const DEFAULTED: readonly OptionPath[] = [...DECIDING_PATHS, ...pathsIn("memory")].filter((path) => {
  const { default: own, of } = entryOf(path);
  return of === undefined && !path.includes(".") && own !== undefined && typeof own !== "function";
});

/** Values of these options: as given, the preset's, or the default. */
function defaulted(options: object): DefaultedOptions {
  return atPaths(DEFAULTED.map((path) => [path, valueOf(options, path)])) as DefaultedOptions;
}

/** Fills in the defaults of what memory depends on, of a run with a last stage. Checks the kinds of units alone. */
export function resolveMemory(
  options: MemoryOptions & Pick<RunOptions, "preset">,
  spec: KnownShape = { maxPosition: Infinity },
  files: Files = {},
): ResolvedMemory {
  const preset = options.preset === undefined ? {} : presetOptions(options.preset, 0);
  const { method, focus } = OPTION_TABLE, { method: chosen = method.default } = options;
  const of = methodOf(chosen), usualUnits = of.kind === "one-shot" ? of.units?.slice(0, 1) : undefined;
  const given = options.units ?? preset.units ?? usualUnits, units = given && [...checkKinds(given)];
  const usual = { layout: OPTION_TABLE.layout.default, units: units ?? OPTION_TABLE.units.default };
  const shape = "layers" in spec ? fittingShape(spec, { layout: options.layout, units }, files) : usual;
  return {
    ...defaulted(options),
    layout: options.layout ?? shape.layout,
    units: shape.units,
    objective: resolveObjective(options.objective),
    vocab: shape.units.includes("vocab") ? { size: options.vocab?.size ?? null } : null,
    lora: { ...LORA_DEFAULTS, ...preset.lora, ...withoutUndefined(options.lora ?? {}) },
    rules: withoutUndefined(options.rules ?? {}),
    focus: options.focus ?? preset.focus ?? (kindOfMethod(chosen) === "learned" ? focus.default : 1),
  };
}

/** Options of a memory plan for a run: the resolved options that memory depends on. */
export function memoryOptionsOf(
  options: ResolvedMemory,
  more: Pick<MemoryOptions, "baseDtype" | "storedDtype" | "adapter">,
): MemoryOptions & Pick<ResolvedOptions, "rules"> {
  const names: ReadonlySet<string> = new Set(pathsIn("memory").map((path) => path.split(".", 1)[0] ?? path));
  const own = Object.fromEntries(Object.entries(options).filter(([name]) => names.has(name))) as ResolvedMemory;
  const size = options.vocab?.size ?? null;
  return { ...own, ...more, vocab: size === null ? undefined : { size } };
}

/** Default LoRA. */
export const LORA_DEFAULTS = {
  rank: OPTION_TABLE["lora.rank"].default,
  alpha: OPTION_TABLE["lora.alpha"].default,
  targets: OPTION_TABLE["lora.targets"].default,
  dropout: OPTION_TABLE["lora.dropout"].default,
} as const;

/** Learned masks and gradual saliency need steps of the pruning stage: their defaults depend on the number. */
function checkSteps(steps: number, method: MethodChoice): void {
  const { kind, name } = methodOf(method), isOneShot = kind === "one-shot";
  if (isOneShot ? steps !== undefined : steps >= 1) return;
  refuse("usage", `cannot use ${option("steps")}`, {
    rule: isOneShot ? `it is ${ruleOf("steps")}` : "it is a whole number, at least 1 for this method",
    value: steps === undefined ? "not given" : `${steps}, method ${name}`,
  });
}

/** Whether nothing but the vocabulary or experts is cut, and nothing is trained. */
export function trainsNothing(
  { units, steps = 0 }: { readonly units?: readonly UnitKind[] | undefined; readonly steps?: number | undefined },
): boolean {
  return keepsLayers(units) && steps === 0;
}

/** Options of choosing that a run has which cuts experts. */
const EXPERT_PATHS: readonly OptionPath[] = ["sparsity", "method", "seed"];

/** Refuses what a run that cuts experts cannot have. Throws `CompressoError("usage")`. */
function checkExpertRun({ units = [], steps, method, size, layout }: PruneOptions, spec: KnownShape): void {
  const fail = (path: OptionPath, rule: string, value: string, fix: string): never =>
    refuse("usage", "cannot cut experts", { rule, value, fix, option: path });
  const alone = `give ${option("units", "experts")} with ${option("steps", 0)}`;
  checkKinds(units);
  if (units.length > 1) {
    fail("units", "experts are cut alone", units.join(","), `${alone}, and cut others before or after`);
  }
  if (steps !== 0) fail("steps", "nothing is trained: experts have no gradients here", String(steps), alone);
  const { misfit } = recordOf("experts");
  if (misfit && "layers" in spec && misfit.isFor(spec)) throw cannotCut(misfit, "cannot cut experts");
  if (size !== undefined) fail("sparsity", "the share of the experts is given", "a size", `give ${option("sparsity")}`);
  if (layout !== undefined && layout !== "uniform") {
    fail("layout", "all layers keep as many experts", layout, `leave ${option("layout")} out`);
  }
  if (method !== undefined && !scoresExperts(nameOfMethod(method))) {
    fail("method", `experts are chosen by ${EXPERT_METHODS.join(", ")}`, nameOfMethod(method), "take one of them");
  }
}

/** Refuses a method of experts for other units. Throws `CompressoError("usage")`. */
function checkMethod(choice: MethodChoice): void {
  const { kind, name } = methodOf(choice);
  if (kind !== "experts") return;
  refuse("usage", `cannot choose these units by ${name}`, {
    rule: "the method scores experts",
    value: name,
    fix: `give ${option("units", "experts")} with ${option("steps", 0)}, or another method`,
    option: "method",
  });
}

/** Refuses units that a method does not score. Throws `CompressoError("usage")`. */
function checkMethodUnits({ method, units }: Pick<ResolvedOptions, "method" | "units">): void {
  const how = methodOf(method), scored = how.kind === "one-shot" ? how.units : undefined;
  const other = scored && units.find((kind) => placeOfKind(kind) !== null && !scored.includes(kind));
  if (!scored || other === undefined) return;
  refuse("usage", `cannot choose ${recordOf(other).many} by ${how.name}`, {
    rule: `the method scores the units ${scored.join(", ")}`,
    value: units.join(","),
    fix: `give ${option("units", scored.join(","))}, or another method`,
    option: "units",
  });
}

/**
 * Refuses options for choosing or training, other than their default, in a run that cuts only the vocabulary and does no
 * such work. Throws `CompressoError("usage")`.
 */
export function checkIdle(
  options: Pick<RunOptions, "units">,
  { isAlone, paths = PRUNE_PATHS, takes = [] }: {
    readonly isAlone: boolean;
    readonly paths?: readonly OptionPath[];
    /** Options that have an effect nevertheless, as where experts are cut. */
    readonly takes?: readonly OptionPath[];
  },
): void {
  const { units } = options, isTuning = cutsNothing(units);
  const idle = paths.find((path) => {
    const { work, default: own } = entryOf(path), value = valueAt(options, path);
    const isIdle = isAlone ? work !== undefined : work === "choosing";
    return isIdle && !takes.includes(path) && value !== undefined && value !== own &&
      !(path === "steps" && value === 0) && !(path === "sparsity" && value === 0 && cutsNothing(units));
  });
  if (idle === undefined) return;
  const [cut, unit] = isTuning
    ? ["nothing is", ""]
    : takes.length > 0
    ? ["experts are", "experts"]
    : ["the vocabulary alone is", "vocab"];
  refuse("usage", `cannot use ${option(idle)} where ${cut} cut`, {
    rule: isAlone ? "nothing is trained, and no layer is cut" : "no layer is cut",
    value: isTuning ? option("sparsity", 0) : option("units", unit),
    option: idle,
    fix: takes.length > 0 || isTuning ? "leave it out" : "leave it out, or add units of the layers, such as kv,ffn",
  });
}

function checkGoal({ sparsity, size }: PruneOptions): void {
  const targets = `${option("sparsity")}, ${option("size.parameters")} and ${option("size.bytes")}`;
  if ((sparsity === undefined) === (size === undefined)) {
    refuse("usage", "cannot prune without exactly one target", {
      rule: `one of ${targets}`,
      value: size === undefined ? "no target" : "a sparsity and a size",
      fix: size === undefined ? "give one of them" : "leave one out",
      option: "sparsity",
    });
  }
}

function checkSize(size: WantedSize): void {
  const parts: {
    readonly parameters?: number;
    readonly bytes?: number;
    readonly file?: object;
    readonly name?: string;
  } = size;
  const idle = (part: string, of: string): CompressoError =>
    refusal("usage", `cannot use ${part} of the size`, { rule: `it is of ${of}`, value: "another size" });
  if (parts.parameters !== undefined) {
    const other = (["bytes", "file", "name"] as const).find((part) => parts[part] !== undefined);
    if (other !== undefined) throw idle(other, "a size in bytes");
    return;
  }
  if (parts.bytes !== undefined && "file" in size && isObject(size.file)) {
    checkSizeFile(size.file);
    if (parts.name !== undefined && size.file.format !== "gguf") throw idle("name", "the GGUF, which has it within it");
    return;
  }
  refuse("usage", "cannot tell the size that the model is to have", {
    rule: "it is { parameters }, or { bytes, file: { format, dtype } }",
    value: JSON.stringify(size) ?? String(size),
  });
}

/**
 * Wanda-sp's scores of different layers and kinds are not comparable. Under the uniform layout each layer loses the
 * same share by any score.
 */
function checkRanking(
  ranking: Ranking | undefined,
  { method, layout }: Pick<ResolvedOptions, "method" | "layout">,
): void {
  const how = methodOf(method), isFixed = how.kind === "one-shot" && how.isRankingFixed;
  if (ranking !== "all" || (!isFixed && layout !== "uniform")) return;
  refuse("usage", `cannot use ${option("ranking", ranking)}`, {
    rule: `${layout === "uniform" ? "the layout uniform" : `the method ${how.name}`} ranks units by layer`,
    value: ranking,
    fix: `leave ${option("ranking")} out`,
  });
}

function checkSchedule(schedule: RunOptions["schedule"], { method }: Pick<ResolvedOptions, "method">): void {
  const { kind, name } = methodOf(method);
  if (typeof schedule !== "string" || !isScheduleName(schedule) || kind !== "one-shot") return;
  refuse("usage", `cannot use the schedule ${schedule} with the method ${name}`, {
    rule: "a one-shot method cuts everything before its first step; a script may steer its recovery",
    value: schedule,
    fix: `leave ${option("schedule")} out, or use the method compresso or gradual`,
    option: "schedule",
  });
}

/** The default of `ranking`: that of the method; under the uniform layout a one-shot method compares within layers. */
function rankingOf(choice: MethodChoice, { layout }: { readonly layout: Layout }): Ranking {
  const method = methodOf(choice);
  if (method.kind !== "one-shot") return "all";
  return layout === "uniform" ? "layer" : method.ranking;
}

/** Fix for a limit of log α that is too small. */
export function raisedLimit(): string {
  return `raise ${option("rates.logAlphaLimit")}, lower ${option("rates.spread")}, or start from a constant (${
    option("start", "constant")
  }, without a spread)`;
}

/** Refuses a limit of log α under which half of all units may be cut at the first step. */
function checkStart({ method, start, rates }: ResolvedOptions): void {
  const least = leastLimit(rates), { logAlphaLimit: limit, spread } = rates;
  if (kindOfMethod(method) !== "learned" || start !== "saliency" || limit >= least) return;
  refuse("usage", "cannot start masks from saliency", {
    rule: `${option("rates.logAlphaLimit")} is at least ${
      shownLimit(least)
    } here, so that half of all units begin open: three times the spread, and what opens a unit`,
    value: `a limit of ${limit} at a spread of ${spread}`,
    fix: raisedLimit(),
    option: "rates.logAlphaLimit",
  });
}

/** Refuses a patience without measures. Throws `CompressoError("usage")`. */
function checkPatience({ patience, evalEvery }: Pick<ResolvedOptions, "patience" | "evalEvery">): void {
  if (patience === 0 || evalEvery > 0) return;
  refuse("usage", `cannot use ${option("patience")}`, {
    rule: `the held-out loss is measured, by ${option("evalEvery")}`,
    value: option("evalEvery", evalEvery),
    option: "patience",
  });
}

function checkCalibration(options: ResolvedOptions): void {
  const { calibration, method, start } = options;
  if (!calibration || kindOfMethod(method) !== "learned" || learnsBesideCalibration(options)) return;
  refuse("usage", `cannot use ${option("calibration")}`, {
    rule: "learned masks take it where they start from saliency with a prior",
    value: start === "saliency" ? option("rates.prior", 0) : option("start", start),
  });
}
