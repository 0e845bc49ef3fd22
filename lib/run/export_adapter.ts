// A run's LoRA beside the sliced model that it belongs to, for PEFT: the same model as the merged one, in two folders. Owns their places; refuses formats.
import { exportHf, type HfDtype } from "../io/hf_export.ts";
import { writePeftAdapter } from "../io/peft.ts";
import type { WeightSource } from "../io/source.ts";
import type { Tokenizer } from "../io/tokenizer.ts";
import type { LoraConfig, LoraWeights } from "../nn/lora.ts";
import type { MaskValues } from "../nn/masks.ts";
import { type Layout, padded } from "../prune/layouts.ts";
import { sliceModel } from "../prune/slice.ts";
import { padLora, sliceLora } from "../prune/slice_lora.ts";
import type { ExportResult } from "./export.ts";

/** What {@link exportAdapter} takes. */
export interface AdapterExport {
  readonly masks: MaskValues;
  readonly lora: LoraConfig & { readonly weights: LoraWeights };
  readonly layout: Layout;
  /** Dtype of the weights; the adapter is f32. */
  readonly dtype: HfDtype;
  readonly tokenizer: Tokenizer | null;
  readonly replace: boolean;
  readonly signal?: AbortSignal | undefined;
}

/** Folder of the sliced weights without LoRA, and of the adapter, within that of a run. */
export const UNMERGED_FOLDER = "unmerged", ADAPTER_FOLDER = "adapter";

/**
 * Writes `outDir/unmerged/`, the sliced model without LoRA, and `outDir/adapter/`, its LoRA cut alike, in PEFT's format. Throws as `exportHf` and
 * `writePeftAdapter`.
 */
export async function exportAdapter(
  base: WeightSource,
  outDir: string,
  { masks, lora, layout, dtype, tokenizer, replace, signal }: AdapterExport,
): Promise<ExportResult["loadableBy"]> {
  const compact = sliceModel(base, { masks }), own = sliceLora(base.spec, { masks, lora });
  const source = layout === "padded" ? padded(compact) : compact;
  const config = layout === "padded" ? padLora(compact.spec, own) : own;
  const unmerged = `${outDir}/${UNMERGED_FOLDER}`, adapter = `${outDir}/${ADAPTER_FOLDER}`;
  const { form } = await exportHf(source, unmerged, { dtype, tokenizer, replace, ...(signal ? { signal } : {}) });
  const { weights, ...settings } = config;
  await writePeftAdapter(adapter, {
    ...{ spec: source.spec, config: settings, weights, baseModel: unmerged, replace },
    readme: readmeOf({ layout, needsCode: form === "compresso" }),
  });
  const program = "PEFT: PeftModel.from_pretrained(model of unmerged/, folder)";
  return [
    { file: unmerged, programs: ["as model/, which has the LoRA of adapter/ merged"] },
    { file: adapter, programs: [program, "compresso: --adapter, with unmerged/ as the model"] },
  ];
}

function readmeOf({ layout, needsCode }: { readonly layout: Layout; readonly needsCode: boolean }): string {
  const trust = needsCode ? ", trust_remote_code=True" : "";
  return `LoRA of a model that Compresso pruned, in PEFT's format.

It belongs to the folder \`unmerged/\` beside it: the pruned weights without LoRA, in the layout ${layout}. It does not fit the model before pruning,
whose heads, FFN columns and hidden dims are not all in it, nor \`model/\`, which has it merged already. Soft masks of kept units are folded into both,
so that the two together compute what \`model/\` does, up to the rounding of its weights:

\`\`\`python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("unmerged"${trust})
model = PeftModel.from_pretrained(base, "adapter")
\`\`\`
`;
}
