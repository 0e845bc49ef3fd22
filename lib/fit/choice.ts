// A choice of levers: what of a model is cut, and which types the matrices of its file get; and the run that does so.
import type { GgufWriteType } from "../formats/gguf/mixes.ts";
import type { Row } from "../data/rows.ts";
import type { RunIntoOptions } from "../run/run_into.ts";
import type { UnitKind } from "../units/kinds/all.ts";

/** What can be done to a model. */
export const LEVERS = ["types", "vocabulary", "width", "depth"] as const;
/** One of them. */
export type Lever = typeof LEVERS[number];

/** A cut of the layers: units within each of them, or whole ones. */
export interface LayerCut {
  readonly lever: Extract<Lever, "width" | "depth">;
  /** Share of the layers' linear weights that is cut, or as much as the file's size requires. */
  readonly share: number | "to size";
}

/** What is done to a model. Without a cut, only types are chosen. */
export interface FitChoice {
  /** What is cut of the layers; null for nothing. */
  readonly cut: LayerCut | null;
  /** Tokens that are kept, as many as the texts need, as many as the file's size allows, or null for all. */
  readonly vocabulary: number | "needed" | "to size" | null;
  /** Whether the type of each matrix is chosen for the size. Otherwise all have the model's own. */
  readonly types: boolean;
}

/** What all choices for a model share. */
export interface ChoiceShape {
  /** Bytes of the GGUF at most; null for any size. Then no types are chosen, and nothing is cut to size. */
  readonly bytes: number | null;
  /** Names of the model within the GGUF: as it is exported, and as it is pruned. */
  readonly names: { readonly exported: string; readonly pruned: string };
  /** The model's own type as a GGUF. */
  readonly dtype: GgufWriteType;
  /** Units within the layers that a GGUF of the model can lose. */
  readonly units: readonly UnitKind[];
  /** Tokens of a sequence on which units are scored, and trained. */
  readonly seq: number;
}

/** The options of a run without its rows, which a command line can give too. */
export type ChoiceRun = RunIntoOptions & { readonly rows: readonly Row[] };

/** How each lever chooses what is cut of the layers. */
const METHOD = { width: "flap", depth: "block-influence" } as const;

/** Whether a choice is a prune run. Otherwise it is an export. */
export function cutsAny({ cut, vocabulary }: FitChoice): boolean {
  return cut !== null || vocabulary !== null;
}

/** What a run gets besides its choice. */
export interface RunParts {
  readonly rows: readonly Row[];
  /** Steps that train LoRA after the cut. Default: none. */
  readonly steps?: number | undefined;
}

/** The prune run of a choice that cuts something. */
export function runOf(
  { cut, vocabulary, types }: FitChoice,
  shape: ChoiceShape,
  { rows, steps = 0 }: RunParts,
): ChoiceRun {
  const { bytes, names: { pruned: name }, dtype, units, seq } = shape,
    isToSize = cut?.share === "to size" || vocabulary === "to size";
  const size = bytes === null ? null : { bytes, file: { format: "gguf", dtype }, name } as const;
  const files = {
    formats: ["gguf"],
    name,
    ...types && bytes !== null ? { ggufSize: bytes } : isToSize ? { ggufDtype: dtype } : {},
  } as const;
  const words = typeof vocabulary === "number" ? { vocab: { size: vocabulary } } : {};
  const reading = { seq, prompt: "none" } as const;
  if (cut === null) {
    const trained = steps > 0 ? { steps, ...reading } : { steps: 0 };
    return { rows, ...trained, units: ["vocab"], ...words, ...isToSize && size ? { size } : {}, export: files };
  }
  const { lever, share } = cut, kinds: readonly UnitKind[] = lever === "width" ? units : ["layers"];
  const whole: ChoiceRun | Omit<ChoiceRun, "size" | "sparsity"> = {
    ...{ rows, steps: 0, method: METHOD[lever], ...reading },
    ...steps > 0 ? { postfinetune: steps } : {},
    units: vocabulary === null ? kinds : [...kinds, "vocab"],
    ...words,
    export: files,
  };
  if (share !== "to size") return { ...whole, sparsity: share };
  if (size) return { ...whole, size };
  throw new Error("a cut to size needs the size of the file");
}

/** The levers of a choice in words, such as "width 10 %, types". */
export function choiceText({ cut, vocabulary, types }: FitChoice): string {
  const levers = [
    ...cut ? [cut.share === "to size" ? cut.lever : `${cut.lever} ${Number((100 * cut.share).toFixed(1))} %`] : [],
    ...vocabulary === null
      ? []
      : [typeof vocabulary === "number" ? `vocabulary ${vocabulary.toLocaleString("en")}` : "vocabulary"],
    ...types ? ["types"] : [],
  ];
  return levers.length > 0 ? levers.join(", ") : "as it is";
}
