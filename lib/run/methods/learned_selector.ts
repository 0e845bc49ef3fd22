// Learned masks (Compresso): log α starts from saliency or a constant and follows the gradients of the masks.
import { heldUnits } from "../frozen.ts";
import { uniformGoals } from "../../units/uniform.ts";
import { besidePrior, priorShape, saliencyPrior } from "../../masks/prior.ts";
import { maskStart, openStart, perParameter } from "../../masks/saliency.ts";
import { constantLogAlpha } from "../../masks/initial_log_alpha.ts";
import { unitParameters } from "../../units/table.ts";
import {
  counter,
  firstBatches,
  leastTarget,
  NOTHING,
  saliencyOn,
  type SelectorParts,
  type UnitSelector,
} from "./selector.ts";

/** The selector of learned masks. */
export function learnedSelector(parts: SelectorParts): UnitSelector {
  const { model, table, options, trainer, calibration, counts: sized } = parts, { rates, layout } = options;
  const uniform = layout === "uniform"
    ? uniformGoals(table, sized ? { counts: sized } : { target: options.sparsity })
    : null;
  return {
    ...NOTHING,
    async begin(): Promise<void> {
      if (options.start === "constant") return trainer.setLogAlpha(constantLogAlpha(table, options));
      const rows = firstBatches(parts), texts = calibration ? [...calibration.batches()] : [];
      const look = counter(parts, rows.length + texts.length);
      const measured = await saliencyOn(parts, { of: "rows", batches: rows, look }), { prior: weight } = rates;
      const other = calibration && await saliencyOn(parts, { of: "calibration's rows", batches: texts, look });
      const ofWeights = saliencyPrior(table, measured, { shape: await priorShape(model.source, table), weight });
      const ofOthers = other && besidePrior(table, measured, { other, weight });
      const prior = ofOthers ? ofWeights.map((value, unit) => value + (ofOthers[unit] ?? 0)) : ofWeights;
      const whole = measured.map((value, unit) => value + (prior[unit] ?? 0));
      const { logAlpha, drift, range: [least, most] } = maskStart(perParameter(table, whole), { spread: rates.spread });
      trainer.setLogAlpha(openStart(logAlpha, rates));
      const followed = whole.map((value, unit) => {
        const size = unitParameters(table, unit);
        return Math.max(least * size, Math.min(most * size, value));
      });
      trainer.learner.follow(followed, { prior, drift, saliencyDecay: rates.saliencyDecay });
    },
    beforeStep({ target, layers, freeze, rates: { saliencyDecay } }): Promise<null> {
      const { learner } = trainer;
      learner.setSaliencyDecay(saliencyDecay);
      learner.setLayerGoals(layers);
      learner.setPartGoals(uniform?.at(target) ?? null);
      learner.setHold(heldUnits(table, freeze));
      return Promise.resolve(null);
    },
    async end({ target, layers, temperature }): Promise<number> {
      const { logAlpha, constraint } = await trainer.save();
      const counts = target === options.sparsity ? uniform?.counts : undefined;
      const least = leastTarget(table, target, options);
      const { keptMasks } = options, kept = keptMasks === "one" ? {} : { temperature, kept: keptMasks };
      const aim = { target: least, layout, layerTargets: layers, ...kept, counts };
      trainer.setMasks(parts.harden(table, logAlpha, aim));
      return constraint[7] ?? NaN;
    },
  };
}
