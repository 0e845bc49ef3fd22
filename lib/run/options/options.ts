// Options of a prune run with their defaults, as numbers that follow from the step budget. Owns validation; refuses the loop.
import { CompressoError } from "../../core/errors.ts";
import { given } from "../../core/check_options.ts";
import type { Ranking } from "../../masks/baselines.ts";
import { COLLABORATIVE_PROMPT } from "../../data/prompts/encode.ts";
import { checkPromptText } from "../../data/prompts/format.ts";
import { checkLora, type LoraConfig } from "../../spec/lora.ts";
import { type DecoderSpec, PROJECTIONS } from "../../spec/decoder.ts";
import { checkKept, type KeptRule } from "../../masks/harden.ts";
import type { LambdaRule } from "../../masks/lambda_rule.ts";
import type { Layout } from "../../units/layout.ts";
import type { StartRule } from "../../masks/start.ts";
import { leastLimit, shownLimit } from "../../masks/saliency.ts";
import { checkSeed } from "../../core/random.ts";
import { checkKinds, checkTakenRules, type UnitKind, type UnitRules } from "../../units/units.ts";
import type { DataReport, Row } from "../../data/rows.ts";
import { checkContext } from "../../data/batches.ts";
import { checkFacts } from "../facts.ts";
import { checkFocus } from "../focus.ts";
import type { RunHooks } from "../hooks.ts";
import { firstStageSteps, isOneShot, lastStageSteps, type Method } from "../methods/names.ts";
import { type MonitorOptions, type ResolvedMonitors, resolveMonitors } from "../monitors/alarm.ts";
import { checkPruneNames } from "./names.ts";
import { checkWords } from "./words.ts";
import { type Preset, type PresetOptions, presetOptions, PRESETS } from "./presets.ts";
import { checkLoraRates, checkTaken, LORA_RATE, type Rates, resolveRates } from "./rates.ts";
import { asSchedule, partsOf } from "../../schedule/definition.ts";
import type { ScheduleSource } from "../../schedule/host.ts";
import { checkFollowed, givenNumbers } from "../steering_checks.ts";
import { alignment, type WantedSize } from "../size_goal.ts";

export { defaultRates, type Rates } from "./rates.ts";

/** Options of `prune`. */
export interface PruneOptions {
  /** Rows to train on; they are encoded when `prune` is called. */
  readonly rows: readonly Row[];
  /**
   * Further rows, or texts, that tell units apart before pruning: 32 sequences of them, in whole batches. For learned masks the squared
   * gradients of the model on them stand beside those of `rows` and the weights' prior, as heavy as the former by their means (see `rates.prior`);
   * `taylor`, `wanda-sp` and `flap` score on them alone. What the model itself writes serves well, see `writeCalibration`. Default: none.
   */
  readonly calibration?: readonly Row[];
  /** Share of the layers' linear weights to cut, in (0, 1). Either this or `size` is given. */
  readonly sparsity?: number;
  /** Size that the pruned model is to have, whatever sparsity that is. A schedule says the way to it, unless it ends the stage before it was there. */
  readonly size?: WantedSize;
  /** Steps of the pruning stage. */
  readonly steps: number;
  /** Steps of LoRA alone before; default a tenth of `steps`. */
  readonly prefinetune?: number;
  /** Steps of LoRA with frozen masks after; default three tenths of `steps`. */
  readonly postfinetune?: number;
  /** Sequences a step; default 4. */
  readonly batch?: number;
  /** Tokens of a sequence, padding included; default 256. */
  readonly seq?: number;
  /** Default 1. */
  readonly seed?: number;
  /** Kinds of units, in whatever order; default KV groups and FFN columns. */
  readonly units?: readonly UnitKind[];
  /** Default rank 8, alpha 16 on all seven projections, no dropout. A schedule may set the dropout of each step, whatever it is here. */
  readonly lora?: Partial<LoraConfig>;
  /** Text before every instruction; default the collaborative prompt, null for none. An empty one is refused, and one of your own where all rows are texts, which get none. */
  readonly prompt?: string | null;
  /** Default "compact". It decides the hard masks where it is "uniform", and the files in any case. */
  readonly layout?: Layout;
  /**
   * Whether backward computes most of each layer anew (gradient checkpointing) instead of keeping it: less memory, more time, the same bits.
   * Default true.
   */
  readonly recompute?: boolean;
  /**
   * Protected layers, least widths, aligned widths. Default: none; for a size in bytes of a GGUF in blocks widths are aligned to the block, since
   * matrices of other widths would fall back to f16.
   */
  readonly rules?: Pick<UnitRules, "protect" | "minimum" | "align">;
  /** How units are chosen. Default "compresso": learned masks. */
  readonly method?: Method;
  /**
   * Which units a one-shot method compares. Default "all"; of magnitude and taylor "layer", and of wanda-sp and with the layout "uniform", where every
   * layer and kind loses the same share in any case, which know no other.
   */
  readonly ranking?: Ranking;
  /**
   * What the pruning stage aims at, step by step: a built-in name, a script's path or URL, or `defineSchedule(…)`. Default "cubic". A
   * script or definition may steer the stages before and after too; beside a one-shot method its recovery, `postfinetune`, alone.
   */
  readonly schedule?: ScheduleSource;
  /** Whether a schedule's script runs in this process with all its rights, instead of isolated. Default false. */
  readonly trustSchedule?: boolean;
  /** Takes lines that an isolated schedule logs. Default: they are dropped. */
  readonly onScheduleLog?: (line: string) => void;
  /**
   * Whether rows are joined to full sequences instead of being padded or shortened to one each. Attention is not cut between joined rows, so that one sees
   * those before it in its sequence, and positions run through. Default true.
   */
  readonly packing?: boolean;
  /** What became of the rows in reading, for the report. */
  readonly reading?: DataReport;
  /** The same of the `calibration` rows, beside which alone it is. */
  readonly calibrationReading?: DataReport;
  /** Whether rows that cannot be encoded, such as conversations that the chat template refuses, are left out and counted. Default false. */
  readonly skipBroken?: boolean;
  /** Functions that the run calls. */
  readonly hooks?: RunHooks;
  /** What is watched while the run goes on, and what an alarm does. Default: everything; see {@link MonitorOptions}. */
  readonly monitors?: MonitorOptions;
  /** Called while units are scored before the pruning stage or a one-shot cut, with the share of the batches that is done, from 0 to 1. */
  readonly onScoring?: (share: number) => void;
  /** Numbers of the loop; defaults follow from `steps`. */
  readonly rates?: Partial<Rates>;
  /** Where learned masks start. Default "saliency". */
  readonly start?: StartRule;
  /** What z units that stay, but hidden dims, have once learned masks are hard, which slicing folds into the weights. Default "one". */
  readonly keptMasks?: KeptRule;
  /** How λ moves where masks are learned. Default "plain". */
  readonly lambdaRule?: LambdaRule;
  /**
   * Share of a batch's labels that the last stage learns from, above 0: those whose loss lies furthest above that of the model before pruning, at the
   * cost of one more forward pass in each step. 1 is all of them. Default: 0.3 for learned masks, 1 without a last stage, for other methods and as published; not for
   * `flap`, whose compensation is in the weights that the other pass would need without.
   */
  readonly focus?: number;
  /** Defaults that take the place of all others: "paper" are the published ones. Options given beside it win. */
  readonly preset?: Preset;
  /** Stops the run between two submits of a step; the run then throws the signal's reason. */
  readonly signal?: AbortSignal;
  /** Where the run saves itself; default nowhere. */
  readonly checkpoint?: CheckpointOptions;
}

/**
 * Where and how often a run saves itself: beside every so many steps also after the last one, where an alarm stops it or leads it back, where memory runs
 * out, and where `signal` stops it. To stop a run that is to go on later, fire `signal` and let the loop throw: leaving the loop, or disposing, saves nothing.
 */
export interface CheckpointOptions {
  /** The file. */
  readonly path: string;
  /** Steps between two checkpoints, a whole number, or Infinity for none by the count of steps. */
  readonly every: number;
  /** Goes on from the file where it exists, and else begins anew; with names in `mayDiffer` that is refused. Default false. */
  readonly resume?: boolean;
  /**
   * Names of options that may have changed since the checkpoint, such as "schedule"; of all others but `recompute` and `monitors` a resumed run refuses
   * a change, and of these too once nothing follows from them any more, but for a schedule as long as steps are to come: it may steer the last stage or have steered it. Hooks, `skipBroken` and `trustSchedule` are not compared at all. An inline
   * schedule is known by its functions' text and what its curves were made with: name in `identity` what else they read from outside. Rates that were
   * halved stay so where another schedule does not set them in all stages to come.
   */
  readonly mayDiffer?: readonly string[];
  /** Further facts that must be equal on resuming, such as hashes of files; names of the run's own facts (`model`, `seed` and so on) are refused. */
  readonly identity?: Readonly<Record<string, string | number | boolean | null>>;
}

/** Options with every default filled in. */
export type ResolvedOptions =
  & Required<
    Omit<
      PruneOptions,
      | "signal"
      | "checkpoint"
      | "lora"
      | "rates"
      | "schedule"
      | "trustSchedule"
      | "onScheduleLog"
      | "onScoring"
      | "reading"
      | "calibrationReading"
      | "skipBroken"
      | "hooks"
      | "monitors"
      | "size"
      | "preset"
      | "calibration"
    >
  >
  & {
    readonly lora: LoraConfig & { readonly dropout: number };
    readonly rates: Rates;
    readonly monitors: ResolvedMonitors;
    readonly size: WantedSize | null;
    readonly preset: Preset | null;
    /** Whether there are calibration rows. */
    readonly calibration: boolean;
  };

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
  checkDefined(options, resolved);
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

/** Refuses a schedule of the program's own that the run cannot follow, before any work; scripts are known once they are opened. */
function checkDefined({ schedule, ...told }: PruneOptions, options: ResolvedOptions): void {
  if (schedule === undefined || typeof schedule === "string" || schedule instanceof URL) return;
  const parts = partsOf(asSchedule(schedule, { isExport: false }));
  checkFollowed({ name: "defineSchedule", parts }, { given: givenNumbers(told), options });
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

/** Whether masks are learned in such a way that calibration stands beside the rows, see {@link PruneOptions.calibration}. */
export function learnsBesideCalibration(
  { method, start, rates: { prior } }: Pick<ResolvedOptions, "method" | "start" | "rates">,
): boolean {
  return method === "compresso" && start === "saliency" && prior > 0;
}

/** Refuses a clamp under which half of all units may be cut at the first step. */
function checkStart({ method, start, rates }: ResolvedOptions): void {
  const least = leastLimit(rates), { limit, spread } = rates;
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
