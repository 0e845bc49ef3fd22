// What may be asked of an export: names of its options, layouts, formats and types. Owns their checks; refuses to write.
import { CompressoError } from "../errors.ts";
import { checkNames, checkWord, type OptionNames } from "../given.ts";
import type { GgufWriteType } from "../io/gguf_quant.ts";
import type { HfDtype } from "../io/hf_export.ts";
import { LAYOUTS } from "../prune/layouts.ts";
import type { ExportFormat, ExportOptions } from "./export.ts";
import type { SessionExportOptions } from "./session.ts";

const FORMATS = ["hf", "gguf"] as const satisfies readonly ExportFormat[];
const DTYPES: Readonly<Record<HfDtype, true>> = { f32: true, f16: true, bf16: true };
const GGUF_DTYPES: Readonly<Record<GgufWriteType, true>> = { f32: true, f16: true, bf16: true, q8_0: true, q4_0: true };

const BOTH = {
  ...{ layout: true, dtype: true, ggufDtype: true, name: true, generation: true, formats: true, replace: true },
  signal: true,
} satisfies { readonly [name in keyof ExportOptions | keyof SessionExportOptions]?: true };
const EXPORT_NAMES: OptionNames = { ...BOTH, tokenizer: true } satisfies Readonly<Record<keyof ExportOptions, true>>;

/** Names of the options of `PruneSession.export`. */
export const SESSION_EXPORT_NAMES: OptionNames = { ...BOTH, inputs: true, saveAdapter: true } satisfies Readonly<
  Record<keyof SessionExportOptions, true>
>;

/** Refuses options that `exportModel` does not have, and words that are none of theirs. Throws `CompressoError("usage")`. */
export function checkExport(options: ExportOptions): void {
  checkNames(options, EXPORT_NAMES, { whose: "exportModel" });
  checkExportWords(options);
}

/** The same of a session's export. Throws `CompressoError("usage")`. */
export function checkSessionExport(options: SessionExportOptions): void {
  checkNames(options, SESSION_EXPORT_NAMES, { whose: "an export" });
  checkExportWords(options);
}

function checkExportWords(
  { layout, formats, dtype, ggufDtype }: Partial<Pick<ExportOptions, "layout" | "formats" | "dtype" | "ggufDtype">>,
): void {
  checkLayout(layout);
  checkDtypes({ dtype, ggufDtype });
  if (formats === undefined) return;
  if (!Array.isArray(formats) || formats.length === 0) {
    throw new CompressoError("usage", {
      what: "cannot export in these formats",
      rule: `they are a list of ${FORMATS.join(", ")}, or one of these`,
      value: Array.isArray(formats) ? "an empty list" : String(formats),
      mend: "name one, or leave them out for both",
    });
  }
  for (const format of formats) checkWord(format, FORMATS, { what: "cannot export in this format" });
}

/** Refuses a layout that does not exist; undefined is as absent. Throws `CompressoError("usage")`. */
export function checkLayout(layout: unknown): void {
  if (layout !== undefined) checkWord(layout, LAYOUTS, { what: "cannot use this layout" });
}

/** Refuses formats and types of files that do not exist; undefined is as absent. Throws `CompressoError("usage")`. */
export function checkDtypes({ dtype, ggufDtype }: { readonly dtype?: unknown; readonly ggufDtype?: unknown }): void {
  if (dtype !== undefined) checkWord(dtype, Object.keys(DTYPES), { what: "cannot write weights of this dtype" });
  if (ggufDtype === undefined) return;
  checkWord(ggufDtype, Object.keys(GGUF_DTYPES), { what: "cannot write matrices of this type into a GGUF" });
}

/** Refuses the file of a wanted size whose format or type does not exist. Throws `CompressoError("usage")`. */
export function checkSizeFile({ format, dtype }: { readonly format: unknown; readonly dtype: unknown }): void {
  checkWord(format, FORMATS, { what: "cannot count the bytes of a file in this format" });
  checkDtypes(format === "hf" ? { dtype } : { ggufDtype: dtype });
}
