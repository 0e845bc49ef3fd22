// The README.md of an exported folder: what the model is, how it was made and from what, its licence, and how to load
// it.
import { VERSION } from "../core/version.ts";
import { cardMetadata, isHubId } from "../formats/hf/card.ts";
import { familyFor } from "../families/all.ts";
import { type DecoderSpec, parameterCount } from "../spec/decoder.ts";
import type { Provenance } from "../spec/provenance.ts";

/** Facts of a run for the card of the model that it writes. */
export interface RunCard {
  /** Name of the model before pruning; null if unknown. */
  readonly base: string | null;
  /** What was cut, such as "parts of the layers"; null if the model was tuned and nothing was cut. */
  readonly removed: string | null;
  /** Names and values in order, such as "sparsity" and "20.0 %". */
  readonly facts: readonly (readonly [name: string, value: string])[];
  /** The command line of the run; null if a program made the model. */
  readonly command: string | null;
}

/**
 * The text of a card. `spec` is the shape of the exported model. `run` is absent for a model that was written without
 * pruning.
 */
export function modelCard(
  { spec, name, provenance = {}, run }: {
    readonly spec: DecoderSpec;
    /** Name of the model if neither its files nor the run state one. */
    readonly name: string;
    readonly provenance?: Provenance | undefined;
    readonly run?: RunCard | undefined;
  },
): string {
  const known = run ? run.base : provenance.name ?? name, base = known ?? provenance.name ?? null;
  const baseModels = base !== null && isHubId(base) ? [base] : undefined;
  const facts = [
    ...(base === null ? [] : [["base model", base] as const]),
    ...run?.facts ?? [["parameters", shown(parameterCount(spec))] as const],
    ["license", licenseText(provenance)] as const,
  ];
  const { remoteCode } = familyFor(spec), trust = remoteCode ? ", trust_remote_code=True" : "";
  return [
    cardMetadata({ ...provenance, ...(baseModels ? { baseModels } : {}) }),
    "",
    run ? `# ${base ?? "A model"}, ${run.removed === null ? "tuned" : "pruned"}` : `# ${base ?? "A model"}`,
    "",
    run?.removed === null
      ? `Fine-tuned with Compresso ${VERSION}: LoRA was trained and is merged into the weights.`
      : run
      ? `Made smaller by structural pruning with Compresso ${VERSION}: ${run.removed} are removed, not set to zero.`
      : `Written by Compresso ${VERSION}.`,
    "",
    "| | |",
    "| - | - |",
    ...facts.map(([name, value]) => `| ${name} | ${value.replaceAll("|", "\\|").replaceAll("\n", " ")} |`),
    ...(run?.command ? ["", "```sh", run.command, "```"] : []),
    "",
    "## How to load it",
    "",
    "```python",
    "from transformers import AutoModelForCausalLM, AutoTokenizer",
    "",
    `model = AutoModelForCausalLM.from_pretrained(folder${trust})`,
    `tokenizer = AutoTokenizer.from_pretrained(folder${trust})`,
    "```",
    ...(remoteCode
      ? [
        "",
        "Layers differ in their widths, which no class of transformers has: `modeling_compresso.py` in this folder does. Both lines read config.json,",
        "which names that file, and so ask before they run its code; `trust_remote_code=True` is the answer.",
      ]
      : []),
    "",
  ].join("\n");
}

function licenseText({ license, licenseName, licenseLink, licenseText }: Provenance): string {
  const named = licenseName ?? license;
  if (named === undefined && licenseText === undefined) return "that of the base model, whose files do not name it";
  const where = [
    ...(licenseText === undefined ? [] : ["its text is in LICENSE"]),
    ...(licenseLink === undefined ? [] : [licenseLink]),
  ];
  return [`${named ?? "see LICENSE"}, as the base model`, ...where].join("; ");
}

/** A count with thousands separators. */
function shown(count: number): string {
  return count.toLocaleString("en");
}
