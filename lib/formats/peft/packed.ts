// Which models no adapter fits.
import { refuse } from "../../core/errors.ts";
import { familyFor } from "../../families/all.ts";
import type { DecoderSpec } from "../../spec/decoder.ts";
import { packedTensors } from "../hf/packed.ts";

/**
 * Refuses a model whose class in transformers has no module for each projection, so that no adapter of it can say what
 * ours does.
 *
 * @throws CompressoError("input") for such a model.
 */
export function refusePacked(spec: DecoderSpec): void {
  const family = familyFor(spec);
  if (packedTensors(family, spec).length === 0 && !spec.neighbours) return;
  refuse("input", "cannot write the adapter", {
    rule: "each projection is a separate module in the model's class",
    value: `transformers' ${family.type} has some in one, or their rows in another order`,
    fix: "leave the adapter out: the exported model has its LoRA merged",
  });
}
