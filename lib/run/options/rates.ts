// Rates of the training loop: their defaults, and how rollbacks halve them.
import { option, refuse } from "../../core/errors.ts";
import { withoutUndefined } from "../../core/check_options.ts";
import { methodOf } from "../methods/all.ts";
import { stagesOf, type StageSteps } from "../methods/stages.ts";
import { type OptimizerName, OPTIMIZERS } from "../../nn/train/optimizer.ts";
import type { Halved, Rates } from "../contract.ts";
import { defaultsOf } from "./check.ts";
import { OPTION_TABLE } from "./table.ts";

/**
 * Default rates for so many steps of the pruning stage. With few steps log α must move further in each. A run that is
 * given `lora` without `postfinetune` uses `lora` for both.
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
  const lora = OPTION_TABLE["rates.lora"].default;
  return { ...defaultsOf("rates", steps), postfinetune: lora } as Rates;
}

/** Rates of a run: as given, the preset's, or the default. LoRA's default depends on its optimizer. */
export function resolveRates(
  steps: number,
  { optimizer = "adamw", preset = {}, given: own = {} }: {
    readonly optimizer?: OptimizerName;
    readonly preset?: Partial<Rates> | undefined;
    readonly given?: Partial<Rates> | undefined;
  },
): Rates {
  const defaults = defaultRates(steps), lora = OPTIMIZERS[optimizer].rate * defaults.lora;
  const rates = { ...defaults, lora, ...preset, ...withoutUndefined(own) };
  return { ...rates, postfinetune: own.postfinetune ?? own.lora ?? preset.postfinetune ?? rates.lora };
}

/** Rates that a rollback halves. For `saliencyDecay` it halves the forgotten share, 1 − decay. */
const SLOWED = ["lora", "mask", "saliencyDecay", "lambda", "postfinetune"] as const;

/** Rates after so many rollbacks. Each halves the learning rates, and a new step's weight in the running saliency. */
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

/** Halvings after some rates changed: changed rates apply as given, others stay halved, and rollbacks count from 0. */
export function halvedAnew({ halvings, halvedBefore = {} }: Halved, changed: ReadonlySet<string>): Halved {
  if (!SLOWED.some((name) => changed.has(name))) return { halvings, halvedBefore };
  const others = SLOWED.filter((name) => !changed.has(name));
  return {
    halvings: 0,
    halvedBefore: Object.fromEntries(others.map((name) => [name, halvings + (halvedBefore[name] ?? 0)])),
  };
}

/** Rates of LoRA's steps, in all stages. */
const OF_LORA = ["lora", "clipNorm", "weightDecay"] as const satisfies readonly (keyof Rates)[];

/**
 * Refuses rates of LoRA that no step would use: any rate if no stage has steps, `postfinetune` without a last stage,
 * and two rates for a run with one stage. Throws `CompressoError("usage")`.
 */
export function checkLoraRates(given: Partial<Rates> = {}, options: StageSteps): void {
  const { lora, postfinetune } = given, { kind, name } = methodOf(options.method), stages = stagesOf(options);
  const idle = OF_LORA.find((name) => given[name]);
  if (idle !== undefined && stages.every(({ steps }) => steps === 0)) {
    refuse("usage", `cannot use ${option(`rates.${idle}`)}`, {
      rule: "it is for steps of LoRA",
      value: `method ${name}, and no steps`,
      fix: `leave it out, or give steps of recovery (${option("steps")})`,
      option: `rates.${idle}`,
    });
  }
  if (postfinetune === undefined) return;
  const isLone = kind === "one-shot" && lora !== undefined && lora !== postfinetune;
  const hasStage = stages.some(({ stage, steps }) => stage === "postfinetune" && steps > 0);
  if (hasStage && !isLone) return;
  const path = "rates.postfinetune";
  refuse("usage", `cannot use ${option(path)}`, {
    rule: hasStage
      ? "all steps of a one-shot method are its last stage, which has one rate"
      : "the last stage has steps",
    value: hasStage ? `method ${name}, ${option("rates.lora", lora)} and ${option(path, postfinetune)}` : "no steps",
    option: path,
  });
}
