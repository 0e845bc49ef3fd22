// Exports the LoRA of a run for PEFT and, if something was cut, the sliced model without LoRA.
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
import { ADAPTER_FOLDER, UNMERGED_FOLDER } from "./export_options.ts";

/** Input of {@link stageAdapter}. */
export interface AdapterExport {
  readonly masks: MaskValues;
  readonly lora: LoraConfig & { readonly weights: LoraWeights };
  readonly layout: Layout;
  /** The model that the adapter fits as it is, by name or null for an unknown one. Default: none, and `unmerged/` is written. */
  readonly given?: { readonly name: string | null } | undefined;
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

/**
 * Writes `outDir/unmerged/`, the sliced model without LoRA, and `outDir/adapter/`, its LoRA sliced in the same way, in
 * PEFT's format. With `given` the adapter alone is written. Both are first completed under temporary names. Throws like `stageHf` and `stagePeftAdapter`.
 */
export async function stageAdapter(
  base: WeightSource,
  outDir: string,
  { masks, lora, layout, given, dtype, tokenizer, generation, replace, files, signal }: AdapterExport,
): Promise<Staged & Pick<ExportResult, "loadableBy">> {
  const sliced = sliceModel(base, { masks }), compact = shallow(sliced);
  const own = shallowLora(sliced.spec, sliceLora(base.spec, { masks, lora }));
  const source = layout === "padded" ? padded(compact) : compact;
  const config = layout === "padded" ? padLora(compact.spec, own) : own;
  const unmerged = `${outDir}/${UNMERGED_FOLDER}`, adapter = `${outDir}/${ADAPTER_FOLDER}`;
  using pending = new DisposableStack();
  const model = given
    ? null
    : pending.use(await stageHf(source, unmerged, { dtype, tokenizer, generation, replace, files, signal }));
  const { weights, ...settings } = config;
  const peft = pending.use(
    await stagePeftAdapter(files, adapter, {
      spec: writtenSpec(source.spec),
      config: settings,
      weights,
      baseModel: given ? given.name : unmerged,
      replace,
      readme: model ? readmeOf({ layout, needsCode: model.family.remoteCode === true }) : tunedReadme(given?.name),
    }),
  );
  const owner = model ? "unmerged/" : "the model that was tuned";
  const kept = pending.move();
  return {
    loadableBy: [
      ...model ? [{ file: unmerged, programs: ["as model/, which has the LoRA of adapter/ merged"] }] : [],
      {
        file: adapter,
        programs: [`PEFT: PeftModel.from_pretrained(${owner}, folder)`, `compresso, as the adapter of ${owner}`],
      },
    ],
    async commit(): Promise<void> {
      await model?.commit();
      await peft.commit();
    },
    [Symbol.dispose]: () => kept.dispose(),
  };
}

/** The README of an adapter of the model that a run was given. */
function tunedReadme(name: string | null = null): string {
  return `LoRA of a model that Compresso tuned, in PEFT's format.

It belongs to the model before tuning${name === null ? "" : `, ${name}`}; \`model/\` has it merged already:

\`\`\`python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("the model before tuning")
model = PeftModel.from_pretrained(base, "adapter")
\`\`\`
`;
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
