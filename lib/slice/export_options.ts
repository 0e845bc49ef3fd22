// Export options and their checks.
import { type CompressoError, refusal, refuse } from "../core/errors.ts";
import type { Json } from "../core/guards.ts";
import { checkNames, checkWord, type NamesOf } from "../core/check_options.ts";
import type { Importance } from "../formats/gguf/importance.ts";
import { GGUF_WRITE_TYPES, type GgufWriteType, typeLike } from "../formats/gguf/mixes.ts";
import type { HfDtype } from "../formats/hf/export.ts";
import { tensorShapes } from "../spec/decoder.ts";
import type { WeightSource } from "../spec/source.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { type Layout, LAYOUTS } from "../units/layout.ts";

/** Folders of the sliced weights without LoRA and of the adapter, within the folder of a run. */
export const UNMERGED_FOLDER = "unmerged", ADAPTER_FOLDER = "adapter";

/** The files that `exportModel` writes. */
export type ExportFormat = "hf" | "gguf";

/** Options of an export. */
export interface ExportOptions {
  /**
   * Shapes of the layers. "uniform" requires layers that already have equal counts, see `uniformMasks`. Default
   * "compact".
   */
  readonly layout?: Layout | undefined;
  /** Dtype of the weights in the folder; default "f16". */
  readonly dtype?: HfDtype | undefined;
  /**
   * Type of the matrices in the GGUF. "auto" is the type of the source if that is a GGUF of a quantised type or bf16,
   * otherwise f16. Default: like "auto", with `dtype` instead of f16.
   */
  readonly ggufDtype?: GgufDtype | undefined;
  /**
   * Bytes of the GGUF at most, in place of `ggufDtype`: each matrix then has the type with which the errors of all are
   * least, see `fitTypes`. Default: the types of `ggufDtype`.
   */
  readonly ggufSize?: number | undefined;
  /**
   * Measures how much errors of each column matter in a quantised GGUF, on the weights as written; see
   * `measureImportance`. Called once, if there are matrices to quantise. Default: only the weights decide.
   */
  readonly ggufImportance?:
    | ((source: WeightSource, signal: AbortSignal | undefined) => Promise<Importance>)
    | undefined;
  /** Tokenizer of the model; with null the files support token ids only. */
  readonly tokenizer: Tokenizer | null;
  /** Name of the model in the GGUF. */
  readonly name: string;
  /**
   * Keys of generation_config.json in addition to token ids. Default: those of the source, if it is a folder that has
   * them.
   */
  readonly generation?: Json | undefined;
  /** Formats to write. Default: both. */
  readonly formats?: readonly ExportFormat[] | undefined;
  /** Whether existing files may be replaced; default false. Files of a skipped format are removed. */
  readonly replace?: boolean | undefined;
  /** Aborts the export. */
  readonly signal?: AbortSignal | undefined;
  /** Called as weights are written, with the completed share, from 0 to 1. */
  readonly onProgress?: ((share: number) => void) | undefined;
}

/** A file or folder that a run used as input. */
export interface OriginFile {
  /** Its role in the run. */
  readonly role: "model" | "data" | "calibration" | "vocabulary";
  /** Its name without parent folders; `owner/name` for a file in the cache of huggingface_hub. */
  readonly name: string;
  /** Size in bytes; for a model folder, the size of its weights. */
  readonly bytes: number;
  /** For a file in that cache, the name with its commit: `hf:owner/name@commit[:file]`. */
  readonly source?: string | undefined;
}

/** Options of {@link PruneSession.export}. The default layout is that of the run. */
export type SessionExportOptions =
  & Partial<
    Pick<
      ExportOptions,
      "dtype" | "ggufDtype" | "ggufSize" | "name" | "generation" | "formats" | "replace" | "signal" | "onProgress"
    >
  >
  & {
    readonly layout?: Layout | undefined;
    /**
     * Whether to quantise the GGUF with an importance matrix: the mean square of each column's input, on up to 32
     * sequences of the calibration texts and as many of the rows. Default false: only the weights decide.
     */
    readonly ggufImatrix?: boolean | undefined;
    /** Inputs of the run by name, such as digests of files; for run.json. Default: none. */
    readonly inputs?: Readonly<Record<string, string>> | undefined;
    /** Names and sizes of the input files of the run; for run.json. Default: none. */
    readonly origin?: readonly OriginFile[] | undefined;
    /**
     * Start of the work according to `performance.now()`; `wallSeconds` in run.json counts from it. Default: creation
     * of the session.
     */
    readonly startedAt?: number | undefined;
    /** What `forecastRun` predicted, for run.json. Default: nothing. */
    readonly forecast?:
      | Readonly<Record<"reading" | "preparing" | "steps" | "check" | "quality" | "writing", number>>
      | undefined;
    /** The command line that started the run, for the model card. Default: none, for runs started by a program. */
    readonly command?: string | undefined;
    /**
     * Whether to also save LoRA in PEFT's format: `dir/adapter/`, which applies to `dir/unmerged/`, the sliced model
     * without LoRA. Default false. The LoRA as trained, for the unpruned model with its masks, is in `result().lora`;
     * see `writePeftAdapter`.
     */
    readonly saveAdapter?: boolean | undefined;
  };

/** Default formats of an export. */
export const FORMATS = ["hf", "gguf"] as const satisfies readonly ExportFormat[];
/** Dtypes of the weights in a folder. */
export const DTYPES = ["f32", "f16", "bf16"] as const satisfies readonly HfDtype[];
/** Type of the matrices in a GGUF; "auto" follows the source model. */
export type GgufDtype = GgufWriteType | "auto";

/** Types of the matrices in a GGUF. */
export const GGUF_DTYPES: readonly GgufDtype[] = ["auto", ...GGUF_WRITE_TYPES];

/** The type of the GGUF written from a source; see `ExportOptions`. */
export function ggufDtypeFor(
  source: WeightSource,
  { ggufDtype, dtype = "f16" }: Pick<ExportOptions, "ggufDtype" | "dtype">,
): GgufWriteType {
  if (ggufDtype !== undefined && ggufDtype !== "auto") return ggufDtype;
  const shapes = tensorShapes(source.spec), like = typeLike(source, shapes);
  if (like !== null) return like;
  const matrices = [...shapes].filter(([, shape]) => shape.length > 1);
  const isBf16 = "format" in source && source.format === "gguf" &&
    matrices.every(([name]) => source.storedDtype(name) === "bf16");
  if (isBf16) return "bf16";
  return ggufDtype === undefined ? dtype : "f16";
}

const BYTES = { type: "bytes" } as const;

const BOTH = {
  layout: true,
  dtype: true,
  ggufDtype: true,
  ggufSize: BYTES,
  name: "text",
  generation: true,
  formats: true,
  replace: "switch",
  signal: true,
  onProgress: true,
} satisfies Omit<NamesOf<ExportOptions>, "tokenizer" | "ggufImportance">;
const EXPORT_NAMES: NamesOf<ExportOptions> = { ...BOTH, tokenizer: true, ggufImportance: true };

/** Names of the options of `PruneSession.export`. */
const SESSION_EXPORT_NAMES: NamesOf<SessionExportOptions> = {
  ...{
    ...BOTH,
    inputs: true,
    origin: true,
    startedAt: "number",
    forecast: true,
    command: "text",
    saveAdapter: "switch",
  },
  ggufImatrix: "switch",
};

/**
 * Refuses unknown options of `exportModel` and unknown values.
 *
 * @throws CompressoError("usage") for unknown options and values.
 */
export function checkExport(options: ExportOptions): void {
  checkNames(options, EXPORT_NAMES, { whose: "exportModel" });
  checkExportWords(options);
  const { tokenizer, name, formats = FORMATS }: Partial<ExportOptions> = options;
  const missing = (what: string, fix: string): CompressoError =>
    refusal("usage", "cannot export the model", {
      rule: `an export is given ${what}`,
      value: "not given",
      fix,
    });
  if (tokenizer === undefined) {
    throw missing("its `tokenizer`", "give the model's, or null for files of token ids only");
  }
  if (name === undefined && formats.includes("gguf")) throw missing("a `name`, which a GGUF contains", "give one");
}

/**
 * Same check for the export of a session.
 *
 * @throws CompressoError("usage") for unknown options and values.
 */
export function checkSessionExport(options: SessionExportOptions): void {
  checkNames(options, SESSION_EXPORT_NAMES, { whose: "an export" });
  checkExportWords(options);
  checkUsed(options);
}

function checkExportWords({ layout, formats, dtype, ggufDtype }: Partial<ExportOptions>): void {
  checkLayout(layout);
  checkDtypes({ dtype, ggufDtype });
  if (formats === undefined) return;
  if (!Array.isArray(formats) || formats.length === 0) {
    refuse("usage", "cannot export in these formats", {
      rule: `they are a list of ${FORMATS.join(", ")}, or one of these`,
      value: Array.isArray(formats) ? "an empty list" : String(formats),
    });
  }
  for (const format of formats) checkWord(format, FORMATS, { what: "cannot export in this format" });
}

/**
 * Refuses options for a file that is not written.
 *
 * @throws CompressoError("usage") for options for a file that is not written.
 */
export function checkUsed(
  { formats = FORMATS, ggufDtype, ggufSize, generation, saveAdapter = false, ggufImatrix = false }:
    & Pick<Partial<ExportOptions>, "formats" | "ggufDtype" | "ggufSize" | "generation">
    & Pick<SessionExportOptions, "saveAdapter" | "ggufImatrix">,
): void {
  const unused = (option: string, file: string): CompressoError =>
    refusal("usage", `cannot use the option '${option}'`, {
      rule: `it is for ${file}`,
      value: `formats ${formats.join(", ")}`,
      fix: "leave it out, or add that format",
    });
  if (ggufDtype !== undefined && !formats.includes("gguf")) throw unused("ggufDtype", "the GGUF");
  if (ggufSize !== undefined && !formats.includes("gguf")) throw unused("ggufSize", "the GGUF");
  if (ggufSize !== undefined && ggufDtype !== undefined && ggufDtype !== "auto") {
    refuse("usage", "cannot choose the types of a GGUF for a size", {
      rule: "ggufSize chooses the type of each matrix, ggufDtype sets them all",
      value: ggufDtype,
      fix: "give one of them",
      option: "ggufSize",
    });
  }
  if (ggufImatrix && !formats.includes("gguf")) throw unused("ggufImatrix", "the GGUF");
  if (generation !== undefined && !formats.includes("hf") && !saveAdapter) {
    throw unused("generation", "the folder (hf)");
  }
}

/**
 * Refuses an unknown layout; undefined counts as absent.
 *
 * @throws CompressoError("usage") for an unknown layout.
 */
export function checkLayout(layout: unknown): void {
  if (layout !== undefined) checkWord(layout, LAYOUTS, { what: "cannot use this layout" });
}

/**
 * Refuses unknown formats and file types; undefined counts as absent.
 *
 * @throws CompressoError("usage") for unknown formats and file types.
 */
function checkDtypes({ dtype, ggufDtype }: { readonly dtype?: unknown; readonly ggufDtype?: unknown }): void {
  if (dtype !== undefined) checkWord(dtype, DTYPES, { what: "cannot write weights of this dtype" });
  if (ggufDtype === undefined) return;
  checkWord(ggufDtype, GGUF_DTYPES, { what: "cannot write matrices of this type into a GGUF" });
}

/**
 * Refuses a target file size with an unknown format or type.
 *
 * @throws CompressoError("usage") for an unknown format or type.
 */
export function checkSizeFile({ format, dtype }: { readonly format: unknown; readonly dtype: unknown }): void {
  checkWord(format, FORMATS, { what: "cannot count the bytes of a file in this format" });
  checkDtypes(format === "hf" ? { dtype } : { ggufDtype: dtype });
}
