// Options of an export and their checks.
import { CompressoError } from "../core/errors.ts";
import type { Json } from "../core/guards.ts";
import { checkNames, checkWord, type NamesOf } from "../core/check_options.ts";
import { GGUF_WRITE_TYPES, type GgufWriteType, typeLike } from "../formats/gguf/mixes.ts";
import type { HfDtype } from "../formats/hf/export.ts";
import { tensorShapes } from "../spec/decoder.ts";
import type { WeightSource } from "../spec/source.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { type Layout, LAYOUTS } from "../units/layout.ts";

/** The files that `exportModel` writes. */
export type ExportFormat = "hf" | "gguf";

/** How to export. */
export interface ExportOptions {
  /** Default "compact". "uniform" demands layers that are alike already, see `uniformMasks`. */
  readonly layout?: Layout;
  /** Dtype of the folder's weights; default "f16". */
  readonly dtype?: HfDtype;
  /**
   * Type of the GGUF's matrices. "auto" is that of the source where this is a GGUF of a quantised type, or of bf16, else f16. Default: the same with
   * `dtype` in place of f16.
   */
  readonly ggufDtype?: GgufDtype;
  /** Null writes files for token ids only. */
  readonly tokenizer: Tokenizer | null;
  /** Name of the model within the GGUF. */
  readonly name: string;
  /** Keys of generation_config.json beside token ids. Default: those of the source's own, where it is a folder that has them. */
  readonly generation?: Json;
  /** Default: both. */
  readonly formats?: readonly ExportFormat[];
  /** Whether files that are there may be replaced; default false. Those of a format that is skipped are removed. */
  readonly replace?: boolean;
  /** Stops the work. */
  readonly signal?: AbortSignal;
  /** Called as weights are written, with the share of them that is done, from 0 to 1. */
  readonly onProgress?: (share: number) => void;
}

/** A file or folder that a run was made from. */
export interface OriginFile {
  /** What it was to the run. */
  readonly role: "model" | "data" | "calibration";
  /** Its name without the folders above it; of a model in the cache of huggingface_hub `owner/name`. */
  readonly name: string;
  /** Of a model in a folder: of its weights. */
  readonly bytes: number;
}

/** Options of {@link PruneSession.export}; layout is by default the run's. */
export type SessionExportOptions =
  & Partial<
    Pick<ExportOptions, "dtype" | "ggufDtype" | "name" | "generation" | "formats" | "replace" | "signal" | "onProgress">
  >
  & {
    readonly layout?: Layout;
    /** What the run was made from, by name, such as digests of files; for run.json. Default nothing. */
    readonly inputs?: Readonly<Record<string, string>>;
    /** Names and sizes of the files that the run was made from; for run.json. Default none. */
    readonly origin?: readonly OriginFile[];
    /** When the work began, as of `performance.now()`; `wallSeconds` in run.json counts from it. Default: when the session was made. */
    readonly startedAt?: number;
    /** The command line that began the run, for the model card. Default: none, a program did. */
    readonly command?: string;
    /**
     * Whether LoRA is saved too, in PEFT's format: `dir/adapter/`, for the sliced model without LoRA, `dir/unmerged/`. Default false. As it was
     * trained, for the unpruned model with its masks, it is `result().lora`; see `writePeftAdapter`.
     */
    readonly saveAdapter?: boolean;
  };

/** What an export writes where nothing is said. */
export const FORMATS = ["hf", "gguf"] as const satisfies readonly ExportFormat[];
/** Types of a folder's weights. */
export const DTYPES = ["f32", "f16", "bf16"] as const satisfies readonly HfDtype[];
/** Type of a GGUF's matrices; "auto" is like the model that is read. */
export type GgufDtype = GgufWriteType | "auto";

/** Types of a GGUF's matrices. */
export const GGUF_DTYPES: readonly GgufDtype[] = ["auto", ...GGUF_WRITE_TYPES];

/** The type of the GGUF that is written of a source; see `ExportOptions`. */
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

const BOTH = {
  layout: true,
  dtype: true,
  ggufDtype: true,
  name: "text",
  generation: true,
  formats: true,
  replace: "switch",
  signal: true,
  onProgress: true,
} satisfies Omit<NamesOf<ExportOptions>, "tokenizer">;
const EXPORT_NAMES: NamesOf<ExportOptions> = { ...BOTH, tokenizer: true };

/** Names of the options of `PruneSession.export`. */
export const SESSION_EXPORT_NAMES: NamesOf<SessionExportOptions> = {
  ...{ ...BOTH, inputs: true, origin: true, startedAt: "number", command: "text", saveAdapter: "switch" },
};

/** Refuses options that `exportModel` does not have, and words that are none of theirs. Throws `CompressoError("usage")`. */
export function checkExport(options: ExportOptions): void {
  checkNames(options, EXPORT_NAMES, { whose: "exportModel" });
  checkExportWords(options);
  const { tokenizer, name, formats = FORMATS }: Partial<ExportOptions> = options;
  const missing = (what: string, fix: string): CompressoError =>
    new CompressoError("usage", {
      what: "cannot export the model",
      rule: `an export is given ${what}`,
      value: "not given",
      fix,
    });
  if (tokenizer === undefined) {
    throw missing("its `tokenizer`", "give the model's, or null for files of token ids only");
  }
  if (name === undefined && formats.includes("gguf")) throw missing("a `name`, which a GGUF has within it", "give one");
}

/** The same of a session's export. Throws `CompressoError("usage")`. */
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
    throw new CompressoError("usage", {
      what: "cannot export in these formats",
      rule: `they are a list of ${FORMATS.join(", ")}, or one of these`,
      value: Array.isArray(formats) ? "an empty list" : String(formats),
      fix: "name one, or leave them out for both",
    });
  }
  for (const format of formats) checkWord(format, FORMATS, { what: "cannot export in this format" });
}

/** Refuses options of a file that is not written. Throws `CompressoError("usage")`. */
export function checkUsed(
  { formats = FORMATS, ggufDtype, generation, saveAdapter = false }:
    & Pick<Partial<ExportOptions>, "formats" | "ggufDtype" | "generation">
    & Pick<SessionExportOptions, "saveAdapter">,
): void {
  const unused = (option: string, file: string): CompressoError =>
    new CompressoError("usage", {
      what: `cannot use the option '${option}'`,
      rule: `it is for ${file}`,
      value: `formats ${formats.join(", ")}`,
      fix: "leave it out, or add that format",
    });
  if (ggufDtype !== undefined && !formats.includes("gguf")) throw unused("ggufDtype", "the GGUF");
  if (generation !== undefined && !formats.includes("hf") && !saveAdapter) {
    throw unused("generation", "the folder (hf)");
  }
}

/** Refuses a layout that does not exist; undefined is as absent. Throws `CompressoError("usage")`. */
export function checkLayout(layout: unknown): void {
  if (layout !== undefined) checkWord(layout, LAYOUTS, { what: "cannot use this layout" });
}

/** Refuses formats and types of files that do not exist; undefined is as absent. Throws `CompressoError("usage")`. */
export function checkDtypes({ dtype, ggufDtype }: { readonly dtype?: unknown; readonly ggufDtype?: unknown }): void {
  if (dtype !== undefined) checkWord(dtype, DTYPES, { what: "cannot write weights of this dtype" });
  if (ggufDtype === undefined) return;
  checkWord(ggufDtype, GGUF_DTYPES, { what: "cannot write matrices of this type into a GGUF" });
}

/** Refuses the file of a wanted size whose format or type does not exist. Throws `CompressoError("usage")`. */
export function checkSizeFile({ format, dtype }: { readonly format: unknown; readonly dtype: unknown }): void {
  checkWord(format, FORMATS, { what: "cannot count the bytes of a file in this format" });
  checkDtypes(format === "hf" ? { dtype } : { ggufDtype: dtype });
}
