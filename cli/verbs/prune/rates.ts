// Numbers of the loop and presets as options. Owns their names there; refuses their defaults and who takes them (see lib/run/options/rates.ts, lib/run/options/presets.ts).
import type { Projection } from "../../../lib/spec/decoder.ts";
import type { KeptRule } from "../../../lib/masks/harden.ts";
import type { LambdaRule } from "../../../lib/masks/lambda_rule.ts";
import type { StartRule } from "../../../lib/masks/start.ts";
import type { Ranking } from "../../../lib/masks/baselines.ts";
import { checkKinds, type UnitKind, type UnitRules } from "../../../lib/units/units.ts";
import type { Method } from "../../../lib/run/methods/names.ts";
import type { Preset, PruneOptions, ResolvedOptions } from "../../../lib/run/options/options.ts";
import { presetOptions } from "../../../lib/run/options/check.ts";
import { type Parse, type RealBounds, realNumber } from "../../options/values.ts";
import type { Rates } from "../../../lib/run/contract.ts";
import { LORA_DEFAULTS, resolveOptions } from "../../../lib/run/options/resolve.ts";
import { OPTION_TABLE } from "../../../lib/run/options/table.ts";

/** Defaults that help shows. */
export const DEFAULTS = {
  batch: OPTION_TABLE.batch.default,
  seq: OPTION_TABLE.seq.default,
  seed: OPTION_TABLE.seed.default,
  units: OPTION_TABLE.units.default,
  lora: LORA_DEFAULTS,
  layout: OPTION_TABLE.layout.default,
  loraRate: OPTION_TABLE["rates.lora"].default,
} as const;

/** Rates as parsed; what is absent follows from the preset or the step budget. */
export interface RateSettings {
  readonly preset?: Preset | undefined;
  readonly start?: StartRule | undefined;
  readonly keptMasks?: KeptRule | undefined;
  readonly lambdaRule?: LambdaRule | undefined;
  readonly focus?: number | undefined;
  readonly loraRate?: number | undefined;
  readonly postfinetuneRate?: number | undefined;
  readonly maskRate?: number | undefined;
  readonly lambdaRate?: number | undefined;
  readonly temperature?: number | undefined;
  readonly noise?: number | undefined;
  readonly spread?: number | undefined;
  readonly saliencyDecay?: number | undefined;
  readonly prior?: number | undefined;
  readonly warmup?: number | undefined;
  readonly tracking?: number | undefined;
  readonly logAlphaLimit?: number | undefined;
  readonly clipNorm?: number | undefined;
  readonly weightDecay?: number | undefined;
}

/** Declaration of a rate of learned masks, whose help says that it is one. */
export function maskRate<const N extends string>(
  name: N,
  help: string,
  { above, least = 0, most }: RealBounds = {},
): readonly [`--${N} <number>`, string, Parse<number>] {
  const bounds = { ...(above === undefined ? { least } : { above }), ...(most === undefined ? {} : { most }) };
  return [`--${name} <number>`, `of learned masks: ${help}`, realNumber(`--${name}`, bounds)];
}

/** What a preset may change and other parts of a run ask for, such as its memory plan: as given, as the preset has it, or the default. */
export function shapeDefaults({ preset, units, rank, alpha, loraTargets }: {
  readonly preset?: Preset | undefined;
  readonly units?: readonly UnitKind[] | undefined;
  readonly rank?: number | undefined;
  readonly alpha?: number | undefined;
  readonly loraTargets?: readonly Projection[] | undefined;
}): {
  readonly units: readonly UnitKind[];
  readonly rank: number;
  readonly alpha: number;
  readonly loraTargets: readonly Projection[];
} {
  const own = preset ? presetOptions(preset, 0) : {}, lora = { ...DEFAULTS.lora, ...own.lora };
  return {
    units: [...checkKinds(units ?? own.units ?? DEFAULTS.units)],
    rank: rank ?? lora.rank,
    alpha: alpha ?? lora.alpha,
    loraTargets: loraTargets ?? lora.targets,
  };
}

/** Preset, rules of learned masks, focus and rates for the run. */
export function ratesOf(
  settings: RateSettings,
): Pick<PruneOptions, "preset" | "start" | "keptMasks" | "lambdaRule" | "focus" | "rates"> {
  const { preset, start, keptMasks, lambdaRule, focus, loraRate, postfinetuneRate, warmup, clipNorm, weightDecay } =
    settings;
  const all: Partial<Record<keyof Rates, number | undefined>> = {
    lora: loraRate,
    postfinetune: postfinetuneRate,
    warmup,
    mask: settings.maskRate,
    lambda: settings.lambdaRate,
    temperature: settings.temperature,
    noise: settings.noise,
    spread: settings.spread,
    saliencyDecay: settings.saliencyDecay,
    prior: settings.prior,
    tracking: settings.tracking,
    logAlphaLimit: settings.logAlphaLimit,
    clipNorm,
    weightDecay,
  };
  return {
    rates: Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined)),
    ...(preset === undefined ? {} : { preset }),
    ...(start === undefined ? {} : { start }),
    ...(keptMasks === undefined ? {} : { keptMasks }),
    ...(lambdaRule === undefined ? {} : { lambdaRule }),
    ...(focus === undefined ? {} : { focus }),
  };
}

/** How a run learns, which is known before its model is. Throws `CompressoError("usage")` for what does not go together. */
export function learningOf(
  settings: RateSettings & {
    readonly method: Method;
    readonly steps: number;
    readonly prefinetune?: number | undefined;
    readonly postfinetune?: number | undefined;
    readonly units: readonly UnitKind[];
    readonly ranking?: Ranking | undefined;
    readonly schedule?: string | undefined;
  },
  { isCalibrated = false, rules }: { readonly isCalibrated?: boolean; readonly rules?: UnitRules } = {},
): Pick<ResolvedOptions, "method" | "start" | "rates" | "prefinetune" | "steps" | "postfinetune"> {
  const { method, steps, prefinetune, postfinetune, units, ranking, schedule } = settings;
  return resolveOptions({
    ...{ rows: [], sparsity: 0.5, method, steps, units, ...ratesOf(settings) },
    ...(prefinetune === undefined ? {} : { prefinetune }),
    ...(postfinetune === undefined ? {} : { postfinetune }),
    ...(ranking === undefined ? {} : { ranking }),
    ...(schedule === undefined ? {} : { schedule }),
    ...(isCalibrated ? { calibration: [] } : {}),
    ...(rules === undefined ? {} : { rules }),
  }, { maxPosition: Infinity });
}
