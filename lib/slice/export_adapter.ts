// Exports the LoRA of a run for PEFT, and the sliced model without LoRA.
import type { FileSystem, Staged } from "../files/system.ts";
import { type HfDtype, stageHf, writtenSpec } from "../formats/hf/export.ts";
import { stagePeftAdapter } from "../formats/peft/adapter.ts";
import type { WeightSource } from "../spec/source.ts";
import type { Json } from "../core/guards.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { LoraConfig, LoraWeights } from "../spec/lora.ts";
import type { MaskValues } from "../nn/mask_slots.ts";
import { type Layout } from "../units/layout.ts";
import { padded, shallow } from "./layouts.ts";
import { sliceModel } from "./slice.ts";
import { padLora, shallowLora, sliceLora } from "./lora.ts";
import type { ExportResult } from "./export.ts";

/** Input of {@link stageAdapter}. */
export interface AdapterExport {
  readonly masks: MaskValues;
  readonly lora: LoraConfig & { readonly weights: LoraWeights };
  readonly layout: Layout;
  /** Dtype of the weights; the adapter is f32. */
  readonly dtype: HfDtype;
  readonly tokenizer: Tokenizer | null;
  /** Additional keys of generation_config.json. */
  readonly generation: Json;
  readonly replace: boolean;
  /** Output folder. */
  readonly files: FileSystem;
  readonly signal?: AbortSignal | undefined;
}

/** Folders of the sliced weights without LoRA and of the adapter, within the folder of a run. */
export const UNMERGED_FOLDER = "unmerged", ADAPTER_FOLDER = "adapter";

/**
 * Writes `outDir/unmerged/`, the sliced model without LoRA, and `outDir/adapter/`, its LoRA sliced in the same way, in
 * PEFT's format. Both are first completed under temporary names. Throws like `stageHf` and `stagePeftAdapter`.
 */
export async function stageAdapter(
  base: WeightSource,
  outDir: string,
  { masks, lora, layout, dtype, tokenizer, generation, replace, files, signal }: AdapterExport,
): Promise<Staged & Pick<ExportResult, "loadableBy">> {
  const sliced = sliceModel(base, { masks }), compact = shallow(sliced);
  const own = shallowLora(sliced.spec, sliceLora(base.spec, { masks, lora }));
  const source = layout === "padded" ? padded(compact) : compact;
  const config = layout === "padded" ? padLora(compact.spec, own) : own;
  const unmerged = `${outDir}/${UNMERGED_FOLDER}`, adapter = `${outDir}/${ADAPTER_FOLDER}`;
  using pending = new DisposableStack();
  const model = pending.use(
    await stageHf(source, unmerged, { dtype, tokenizer, generation, replace, files, signal }),
  );
  const { weights, ...settings } = config;
  const peft = pending.use(
    await stagePeftAdapter(files, adapter, {
      spec: writtenSpec(source.spec),
      config: settings,
      weights,
      baseModel: unmerged,
      replace,
      readme: readmeOf({ layout, needsCode: model.family.remoteCode === true }),
    }),
  );
  const program = "PEFT: PeftModel.from_pretrained(model of unmerged/, folder)";
  const kept = pending.move();
  return {
    loadableBy: [
      { file: unmerged, programs: ["as model/, which has the LoRA of adapter/ merged"] },
      { file: adapter, programs: [program, "compresso, as the adapter of unmerged/"] },
    ],
    async commit(): Promise<void> {
      await model.commit();
      await peft.commit();
    },
    [Symbol.dispose]: () => kept.dispose(),
  };
}

function readmeOf({ layout, needsCode }: { readonly layout: Layout; readonly needsCode: boolean }): string {
  const trust = needsCode ? ", trust_remote_code=True" : "";
  return `LoRA of a model that Compresso pruned, in PEFT's format.

It belongs to the folder \`unmerged/\` next to it: the pruned weights without LoRA, in the layout ${layout}. It does not fit the model before pruning,
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
