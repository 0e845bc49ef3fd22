// Numbers of the training loop, with defaults that follow from the step budget. Owns their ranges; refuses everything else that a run is told.
import { CompressoError, type ErrorParts } from "../../core/errors.ts";
import { given } from "../../core/check_options.ts";
import { WARMUP } from "../../schedule/ramp.ts";
import type { StartRule } from "../../masks/start.ts";
import { isOneShot, type Method, stagesOf, type StageSteps } from "../methods/names.ts";
import type { Halved, Rates } from "../contract.ts";

/** Peak learning rate of LoRA where none is given. */
export const LORA_RATE = 1e-3;

/**
 * Rates for so many steps of the pruning stage, as a run has them where nothing is said of them: with few steps log α must move further in each.
 * Where `lora` is given alone, `postfinetune` is the same in a run.
 *
 * @example
 * ```ts
 * import { defaultRates } from "compresso/run";
 *
 * const rates = { mask: 2 * defaultRates(200).mask }; // for the option `rates` of a run of 200 steps
 * if (rates.mask !== 0.2 || defaultRates(20).mask <= defaultRates(200).mask) throw new Error(`${rates.mask}`);
 * ```
 */
export function defaultRates(steps: number): Rates {
  return {
    lora: LORA_RATE,
    postfinetune: LORA_RATE,
    mask: Math.min(0.3, Math.max(0.03, 20 / steps)),
    lambda: 0.1,
    temperature: 0.1,
    noise: 0.1,
    spread: 8,
    saliencyDecay: 1 - 1 / Math.min(100, Math.max(20, steps / 8)),
    prior: 1,
    warmup: WARMUP,
    tracking: 1,
    logAlphaLimit: 100,
    clipNorm: 1,
    weightDecay: 0,
  };
}

/** Rates of a run: what is given, then the preset's, then the default. */
export function resolveRates(
  steps: number,
  { preset = {}, given: told = {} }: {
    readonly preset?: Partial<Rates> | undefined;
    readonly given?: Partial<Rates> | undefined;
  },
): Rates {
  const rates = { ...defaultRates(steps), ...preset, ...given(told) };
  const { postfinetune = told.lora ?? preset.postfinetune ?? rates.lora } = given(told);
  checkRates({ ...rates, postfinetune });
  return { ...rates, postfinetune };
}

/** Rates that going back halves; of `saliencyDecay` the share that is forgotten. */
const SLOWED = ["lora", "mask", "saliencyDecay", "lambda", "postfinetune"] as const;

/** Rates after a run went back so often: half of those that learn each time, and half as much of each step in the running saliency. */
export function slowedRates<T extends Rates>(rates: T, { halvings, halvedBefore = {} }: Halved): T {
  const share = (name: typeof SLOWED[number]): number => 0.5 ** (halvings + (halvedBefore[name] ?? 0));
  return {
    ...rates,
    lora: rates.lora * share("lora"),
    mask: rates.mask * share("mask"),
    saliencyDecay: 1 - (1 - rates.saliencyDecay) * share("saliencyDecay"),
    lambda: rates.lambda * share("lambda"),
    postfinetune: rates.postfinetune * share("postfinetune"),
  };
}

/** The same where some rates are given anew: these hold as given, the others stay halved, and the run may go back as often again. */
export function halvedAnew({ halvings, halvedBefore = {} }: Halved, changed: ReadonlySet<string>): Halved {
  if (!SLOWED.some((name) => changed.has(name))) return { halvings, halvedBefore };
  const others = SLOWED.filter((name) => !changed.has(name));
  return {
    halvings: 0,
    halvedBefore: Object.fromEntries(others.map((name) => [name, halvings + (halvedBefore[name] ?? 0)])),
  };
}

/** Rates of learned masks whose log α starts from saliency. */
const OF_SALIENCY: readonly (keyof Rates)[] = ["spread", "saliencyDecay", "prior"];
/** Rates of learned masks. */
const OF_MASKS: readonly (keyof Rates)[] = [
  ...["mask", "lambda", "temperature", "noise", "tracking", "logAlphaLimit"] as const,
  ...OF_SALIENCY,
];

/** Rates of LoRA's steps, in all stages. */
const OF_LORA = ["lora", "clipNorm", "weightDecay"] as const satisfies readonly (keyof Rates)[];

const LEAVE = "leave it out; in an experiment give it to a grid of the methods that take it";

/** Refuses rates that a method has no use for. Throws `CompressoError("usage")`. */
export function checkTaken(
  isGiven: (name: keyof Rates) => boolean,
  { what, method, start }: { readonly what: string; readonly method: Method; readonly start: StartRule },
): void {
  const refuse = (those: readonly (keyof Rates)[], parts: Omit<ErrorParts, "what">): void => {
    const name = those.find(isGiven);
    if (name === undefined) return;
    throw new CompressoError("usage", { what, ...parts, value: `${parts.value}, and the rate '${name}'` });
  };
  const value = `method ${method}`;
  if (method !== "compresso") {
    refuse(OF_MASKS, { rule: "rates of learned masks are for the method compresso", value, fix: LEAVE });
  } else if (start === "constant") {
    refuse(OF_SALIENCY, {
      rule: "spread, saliencyDecay and prior are for log α that starts from saliency",
      value: "log α starts from a constant",
      fix: "start from saliency (--start saliency), or leave it out",
    });
  }
  if (isOneShot(method)) {
    refuse(["warmup"], { rule: "warmup is for methods that prune step by step", value, fix: LEAVE });
  }
}

/**
 * Refuses rates of LoRA that no step would use: all of them where no stage has steps, that of a last stage without any, and two where a run has but one
 * stage. Throws `CompressoError("usage")`.
 */
export function checkLoraRates(
  given: Partial<Rates> = {},
  options: StageSteps,
): void {
  const { lora, postfinetune } = given,
    { method } = options,
    what = "cannot use these rates",
    stages = stagesOf(options);
  const idle = OF_LORA.find((name) => given[name]);
  if (idle !== undefined && stages.every(({ steps }) => steps === 0)) {
    throw new CompressoError("usage", {
      what,
      rule: `${OF_LORA.join(", ")} are for LoRA's steps`,
      value: `method ${method}, no steps, and the rate '${idle}' is ${given[idle]}`,
      fix: "leave it out, or give steps of recovery (--steps)",
    });
  }
  if (postfinetune === undefined) return;
  const isLone = isOneShot(method) && lora !== undefined && lora !== postfinetune;
  const hasStage = stages.some(({ stage, steps }) => stage === "postfinetune" && steps > 0);
  if (hasStage && !isLone) return;
  throw new CompressoError("usage", {
    what,
    ...(hasStage
      ? {
        rule:
          "all steps of a one-shot method are its last stage, whose rate is `postfinetune` or, without that, `lora`",
        value: `method ${method}, a rate 'lora' of ${lora} and 'postfinetune' of ${postfinetune}`,
        fix: "give one of the two",
      }
      : {
        rule: "the last stage, whose rate is `postfinetune`, has steps",
        value: `it has none, and the rate 'postfinetune' is ${postfinetune}`,
        fix: "leave the rate out (--postfinetune-rate); in an experiment give it to a grid of cells with such a stage",
      }),
  });
}

const ABOVE_ZERO: readonly (keyof Rates)[] = ["temperature", "logAlphaLimit", "clipNorm"];
const SHARES: readonly (keyof Rates)[] = ["saliencyDecay", "warmup", "tracking"];

function checkRates(rates: Rates): void {
  const is = (names: readonly string[], name: string): boolean => names.includes(name);
  for (const [name, given] of Object.entries(rates)) {
    const value = Math.fround(given),
      most = is(SHARES, name) ? 1 : Infinity,
      isPositive = is(ABOVE_ZERO, name);
    if (Number.isFinite(value) && value <= most && (isPositive ? value > 0 : value >= 0)) continue;
    throw new CompressoError("usage", {
      what: `cannot use the rate '${name}'`,
      rule: `it is a number ${isPositive ? "above 0" : most === 1 ? "from 0 to 1" : "≥ 0"}`,
      value: value === given || Number.isNaN(value) ? String(given) : `${given}, which is ${value} on the GPU`,
      fix: "change it, or leave it out for the default",
    });
  }
}
