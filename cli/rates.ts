// Numbers of the loop and presets as options. Owns which of them a method takes; refuses their defaults (see lib/run/rates.ts, lib/run/presets.ts).
import { CompressoError } from "../lib/errors.ts";
import type { Projection } from "../lib/nn/spec.ts";
import type { KeptRule } from "../lib/prune/harden.ts";
import type { StartRule } from "../lib/prune/start.ts";
import type { UnitKind } from "../lib/prune/units.ts";
import { isOneShot, type Method } from "../lib/run/methods.ts";
import { DEFAULTS, type PruneOptions, type Rates } from "../lib/run/options.ts";
import { type Preset, presetOptions } from "../lib/run/presets.ts";
import { type Parse, type RealBounds, realNumber } from "./values.ts";

/** Rates as parsed; what is absent follows from the preset or the step budget. */
export interface RateSettings {
  readonly method: Method;
  readonly resume?: true | undefined;
  readonly preset?: Preset | undefined;
  readonly start?: StartRule | undefined;
  readonly keptMasks?: KeptRule | undefined;
  readonly loraRate?: number | undefined;
  readonly recoveryRate?: number | undefined;
  readonly maskRate?: number | undefined;
  readonly lambdaRate?: number | undefined;
  readonly temperature?: number | undefined;
  readonly noise?: number | undefined;
  readonly spread?: number | undefined;
  readonly memory?: number | undefined;
  readonly prior?: number | undefined;
  readonly warmup?: number | undefined;
  readonly tracking?: number | undefined;
  readonly logAlphaLimit?: number | undefined;
  readonly clipNorm?: number | undefined;
  readonly weightDecay?: number | undefined;
}

/** Declaration of a rate of learned masks. */
export function maskRate<const N extends string>(
  name: N,
  help: string,
  { above, least = 0, most }: RealBounds = {},
): readonly [`--${N} <number>`, string, Parse<number>] {
  const bounds = { ...(above === undefined ? { least } : { above }), ...(most === undefined ? {} : { most }) };
  return [`--${name} <number>`, help, realNumber(`--${name}`, bounds)];
}

/** What a preset may change and other parts of a run ask for, such as its memory plan: as given, as the preset has it, or the default. */
export function shapeDefaults({ preset, units, rank, alpha, targets }: {
  readonly preset?: Preset | undefined;
  readonly units?: readonly UnitKind[] | undefined;
  readonly rank?: number | undefined;
  readonly alpha?: number | undefined;
  readonly targets?: readonly Projection[] | undefined;
}): {
  readonly units: readonly UnitKind[];
  readonly rank: number;
  readonly alpha: number;
  readonly targets: readonly Projection[];
} {
  const own = preset ? presetOptions(preset, 0) : {}, lora = { ...DEFAULTS.lora, ...own.lora };
  return {
    units: units ?? own.units ?? DEFAULTS.units,
    rank: rank ?? lora.rank,
    alpha: alpha ?? lora.alpha,
    targets: targets ?? lora.targets,
  };
}

/**
 * Preset, rules of learned masks and rates for the run. Throws `CompressoError("usage")` for a rate of learned masks beside a method that learns none, and for
 * rates that would change nothing.
 */
export function ratesOf(settings: RateSettings): Pick<PruneOptions, "preset" | "start" | "keptMasks" | "rates"> {
  const { method, preset, start, keptMasks, loraRate, recoveryRate, warmup, clipNorm, weightDecay } = settings;
  const learned: Partial<Record<keyof Rates, number | undefined>> = {
    mask: settings.maskRate,
    lambda: settings.lambdaRate,
    temperature: settings.temperature,
    noise: settings.noise,
    spread: settings.spread,
    memory: settings.memory,
    prior: settings.prior,
    tracking: settings.tracking,
    limit: settings.logAlphaLimit,
  };
  const isGiven = ([, value]: readonly [string, number | undefined]): boolean => value !== undefined;
  const [other] = Object.entries(learned).find(isGiven) ?? [];
  if (method !== "compresso" && other !== undefined) {
    throw new CompressoError("usage", {
      what: "cannot use these options together",
      rule: "rates of learned masks are for the method compresso",
      value: `--method ${method}, and the rate '${other}'`,
    });
  }
  const rule = start ?? (preset && presetOptions(preset, 0).start), { spread, memory, prior } = learned;
  const [unused] = Object.entries({ spread, memory, prior }).find(isGiven) ?? [];
  // A run that began before they were refused can still go on.
  if (rule === "constant" && unused !== undefined && !settings.resume) {
    throw new CompressoError("usage", {
      what: "cannot use these options together",
      rule: "spread, memory and prior are for log α that starts from saliency",
      value: `log α starts from a constant, and the rate '${unused}'`,
      mend: "add --start saliency, or leave it out",
    });
  }
  if (isOneShot(method) && warmup !== undefined && !settings.resume) {
    throw new CompressoError("usage", {
      what: "cannot use these options together",
      rule: "--warmup is for methods that prune step by step",
      value: `--method ${method} and --warmup ${warmup}`,
    });
  }
  const all = { lora: loraRate, recovery: recoveryRate, warmup, ...learned, clipNorm, weightDecay };
  return {
    rates: Object.fromEntries(Object.entries(all).filter(isGiven)),
    ...(preset === undefined ? {} : { preset }),
    ...(start === undefined ? {} : { start }),
    ...(keptMasks === undefined ? {} : { keptMasks }),
  };
}
