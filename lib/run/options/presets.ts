// Sets of options by name. Owns their numbers; refuses to check what is given beside them.
import type { PruneOptions } from "./options.ts";

/** Presets by name. */
export const PRESETS = ["paper"] as const satisfies readonly Preset[];
/** Name of a preset. */
export type Preset = "paper";

/** Options that a preset sets. */
export type PresetOptions = Pick<
  PruneOptions,
  | "prefinetune"
  | "postfinetune"
  | "units"
  | "lora"
  | "packing"
  | "start"
  | "keptMasks"
  | "lambdaRule"
  | "focus"
  | "rates"
>;

/**
 * What a preset sets for so many steps of the pruning stage; an option that is given beside it wins.
 *
 * `paper` are the published settings of Compresso (arXiv 2310.05015 and its code): heads, FFN columns and hidden dims; log α from a constant and
 * kept within ±log 100; hard concrete with β = 2/3 and its full noise, of which kept units have a sigmoid in the end; λ by Adam, and no projection;
 * rows padded and not joined; LoRA of rank 8 on q and v, learning from all labels, at 5e-5, in the last stage at 4e-4; eight epochs of which the
 * first prunes nothing and the sixth begins at the target, then three of the last stage, each a seventh of `steps`. They were made for some 50,000
 * steps: with few, the expected sparsity stays far behind the schedule. The hard sparsity meets its target all the same, by cutting at the end. The
 * schedule is cubic as in the paper; the public scripts run it linear: `schedule: "linear"`. It leaves `batch` and `seq` as they are, where those have
 * 1 × 1,024 tokens a step: `batch: 1, seq: 1024`. LoRA's rate has this toolkit's curve (see `Rates`): theirs falls in a
 * straight line from 5e-5 to 0 over the eight epochs, which a schedule of your own can set. z of an FFN column multiplies the product of gate and up
 * once; theirs multiplies both, the gate before its SiLU.
 */
export function presetOptions(preset: Preset, steps: number): PresetOptions {
  const presets: { readonly [name in Preset]: PresetOptions } = {
    paper: {
      prefinetune: Math.round(steps / 7),
      postfinetune: Math.round(3 * steps / 7),
      units: ["heads", "ffn", "hidden"],
      lora: { rank: 8, alpha: 8, targets: ["q", "v"] },
      packing: false,
      start: "constant",
      keptMasks: "sigmoid",
      lambdaRule: "adam",
      focus: 1,
      rates: {
        lora: 5e-5,
        postfinetune: 4e-4,
        mask: 0.1,
        lambda: 0.1,
        temperature: 2 / 3,
        noise: 1,
        warmup: 4 / 7,
        tracking: 0,
        logAlphaLimit: Math.log(100),
      },
    },
  };
  return presets[preset];
}
