// Default layout and units of a run: such as the model allows, with files for the same programs as the model's own.
import { option } from "../../core/errors.ts";
import type { DecoderSpec } from "../../spec/decoder.ts";
import type { WeightSource } from "../../spec/source.ts";
import type { ExportFormat } from "../../slice/export_options.ts";
import { expectedPrograms } from "../../slice/programs.ts";
import { cutsExperts, cutsNothing, type UnitKind } from "../../units/kinds/all.ts";
import { fittingKinds, whyWhole } from "../../units/fitting_kinds.ts";
import type { Layout } from "../../units/layout.ts";
import { OPTION_TABLE } from "./table.ts";

/** Layout and units of a run. */
export interface Shape {
  readonly layout: Layout;
  readonly units: readonly UnitKind[];
}

/** The same as options give them. */
export interface AskedShape {
  readonly layout?: Layout | undefined;
  readonly units?: readonly UnitKind[] | undefined;
}

/** Where the model comes from, and what is to be written of it. */
export interface Files {
  readonly source?: WeightSource | undefined;
  /** Default: all that can be written. */
  readonly formats?: readonly ExportFormat[] | undefined;
}

/**
 * Fills in layout and units. The layout is compact. If its GGUF does not exist, but that of uniform does, it is uniform
 * where a GGUF is asked for, or is the input. The units are KV groups and FFN columns, without a kind that the model
 * cannot lose.
 */
export function fittingShape(
  spec: DecoderSpec,
  { layout: asked, units: given }: AskedShape,
  { source, formats }: Files,
): Shape {
  // No file holds layers with different numbers of experts.
  if (given && cutsExperts(given)) return { layout: asked ?? "uniform", units: given };
  const usual = OPTION_TABLE.units.default;
  const shaped = (layout: Layout): Shape => {
    const fitting = fittingKinds(usual, spec, layout);
    return { layout, units: given ?? (fitting.length > 0 ? fitting : usual) };
  };
  const compact = shaped(asked ?? OPTION_TABLE.layout.default), uniform = shaped("uniform");
  const needsGguf = formats ? formats.includes("gguf") : source !== undefined && isGguf(source);
  return asked === undefined && needsGguf && !writesGguf(spec, compact) && writesGguf(spec, uniform)
    ? uniform
    : compact;
}

/** Whether a GGUF can hold a model after a cut, as far as it is known before. */
export function writesGguf(spec: DecoderSpec, shape: Shape): boolean {
  return expectedPrograms(spec, shape).gguf !== null;
}

/** What to give so that a GGUF is written, or no GGUF is expected; options as errors name them. */
export function ggufFix(spec: DecoderSpec, { units }: Shape): string {
  const fitting = fittingKinds(units, spec, "uniform"), others = fitting.length > 0 ? fitting : (["ffn"] as const);
  const isFitting = fitting.length === units.length, alone = option("export.formats", "hf");
  if (!writesGguf(spec, { layout: "uniform", units: others })) return `give ${alone}`;
  const alike = option("layout", "uniform"), cut = isFitting ? "" : ` with ${option("units", others.join(","))}`;
  return `give ${alike}${cut}, or ${alone}`;
}

/** Whether weights come from a GGUF. */
export function isGguf(source: WeightSource): boolean {
  return "format" in source && source.format === "gguf";
}

/** In a line each: what a run took in place of the usual layout and units, and why. Nothing for what was asked for. */
export function choiceLines(spec: DecoderSpec, asked: AskedShape, { layout, units }: Shape): readonly string[] {
  const usual: readonly UnitKind[] = OPTION_TABLE.units.default;
  const whole = cutsNothing(units) ? [] : usual.filter((kind) => !units.includes(kind));
  const isOfMethod = whole.length === usual.length;
  return [
    ...(asked.layout === undefined && layout !== OPTION_TABLE.layout.default
      ? [`layout ${layout}, since a GGUF of this family holds layers that are alike`]
      : []),
    ...(asked.units === undefined && !isOfMethod
      ? whole.map((kind) =>
        `units ${units.join(", ")} without ${kind}: ${whyWhole(kind, spec, layout)?.rule ?? "not cut"}`
      )
      : []),
  ];
}
