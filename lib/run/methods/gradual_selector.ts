// Gradual saliency: every third step, the units with the lowest running mean of squared gradients are cut.
import { heldUnits, withTheirLayers } from "../frozen.ts";
import { addGradients, GRADUAL_EVERY, gradualMasks } from "../../masks/gradual.ts";
import { perParameter } from "../../masks/saliency.ts";
import { packMasks } from "../../nn/mask_slots.ts";
import { keptBy, sparsityOf } from "./kept.ts";
import {
  chooseHard,
  counter,
  firstBatches,
  NOTHING,
  saliencyOn,
  type SelectorParts,
  type UnitSelector,
} from "./selector.ts";

/** log α holds the running mean of squared gradients. */
export function gradualSelector(parts: SelectorParts): UnitSelector {
  const { table, options, trainer, harden, counts: sized } = parts;
  let known: { readonly writes: number; readonly hard: number } | null = null;
  return {
    ...NOTHING,
    begin: () => Promise.resolve(trainer.setLogAlpha(new Float32Array(table.count))),
    async beforeStep({ step, target, layers, freeze }): Promise<number> {
      // Masks set by a hook stay for this step.
      if (step > 0 && step % GRADUAL_EVERY === 0 && !trainer.isWritten) {
        const counts = target === options.sparsity && sized ? { counts: sized } : {}, flags = heldUnits(table, freeze);
        const kept = flags && keptBy(table, await trainer.masks()), { layout } = options;
        const held = kept && { flags: withTheirLayers(table, flags), kept };
        const aim = { target, layout, layerTargets: layers, held, ...counts };
        trainer.setMasks(gradualMasks(table, await trainer.logAlpha(), aim));
      }
      // A hook may have set other masks since.
      if (known?.writes !== trainer.maskWrites) {
        known = { writes: trainer.maskWrites, hard: sparsityOf(table, await trainer.masks()) };
      }
      return known.hard;
    },
    async afterStep(): Promise<void> {
      const mean = await trainer.logAlpha();
      const slots = table.kinds.has("layers") ? packMasks(table.spec, table.layout, await trainer.masks()) : null;
      addGradients(table, mean, { slotGradients: await trainer.slotGradients(), slots });
      trainer.setLogAlpha(mean);
    },
    async end({ target, layers }): Promise<number> {
      const before = sparsityOf(table, await trainer.masks()), seen = await trainer.logAlpha();
      if (seen.every((value) => value === 0)) {
        // A schedule ended the stage before its first step, but a size or equal widths must be met all the same.
        const batches = firstBatches(parts), look = counter(parts, batches.length);
        seen.set(perParameter(table, await saliencyOn(parts, { of: "rows", batches, look })));
        trainer.setLogAlpha(seen);
      }
      chooseHard(table, seen, { target, layers, options, trainer, harden });
      return before;
    },
  };
}
