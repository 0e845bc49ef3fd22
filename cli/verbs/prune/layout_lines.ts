// What the layout of a run saves and costs, and where its files load, before the first step.
import type { ExpectedCut } from "../../../lib/run/expected_cut.ts";
import { sparsityBase } from "../../../lib/run/size_goal.ts";
import type { ResolvedOptions } from "../../../lib/run/options/options.ts";
import { cutsNothing } from "../../../lib/units/kinds/all.ts";
import { expectedPrograms } from "../../../lib/slice/programs.ts";
import { type DecoderSpec, linearCount, parameterCount } from "../../../lib/spec/decoder.ts";
import { formatCount, formatShare } from "../../terminal/output.ts";

/** Lines on the layout: size, programs, and the other choice; none if nothing is cut. */
export function layoutLines(
  spec: DecoderSpec,
  options: Pick<ResolvedOptions, "layout" | "units" | "size" | "sparsity">,
  cut: ExpectedCut | null = null,
): string[] {
  if (cutsNothing(options.units)) return [];
  const { layout } = options, { folder, gguf, differ } = expectedPrograms(spec, options);
  const loads = `model/ will load in ${listed(folder)}; ${
    gguf ? `model.gguf in ${listed(gguf)}` : "this layout has no GGUF here"
  }`;
  const size = cut?.uniform ? uniformText(spec, cut, cut.uniform) : `${sizeText(spec, options)}${boundsText(cut)}`;
  return [`layout ${layout}: ${size}`, loads, ...differ ? [OTHER] : []];
}

/** The figure is that of docs/evidence/smollm2.md. */
const OTHER = "all layers alike, for stock programs: --layout uniform, which costs more quality at a size " +
  "(8 to 11 % of perplexity for a model of 135 M parameters at 20 %)";

/** What is cut where all layers keep the same widths. */
function uniformText(
  spec: DecoderSpec,
  { asked, sparsity: { least }, nearer }: ExpectedCut,
  { counts: { heads, kvHeads, ffn, hidden }, parameters }: NonNullable<ExpectedCut["uniform"]>,
): string {
  const before = parameterCount(spec), width = hidden === spec.hidden ? "" : `, hidden ${hidden}`;
  const share = least > asked + ROUNDING
    ? `${formatShare(least)} where ${formatShare(asked)} is asked`
    : formatShare(least);
  const near = nearer ? ` (--align ${nearer.align} cuts ${formatShare(nearer.sparsity)})` : "";
  return `each layer keeps ${heads} heads, ${kvHeads} KV heads, ${ffn} FFN columns${width}: sparsity ${share}${near}; ` +
    `${formatCount(before - parameters)} of ${formatCount(before)} parameters are cut`;
}

/** A note on how much more may be cut than was asked for, if that is much. */
function boundsText(cut: ExpectedCut | null): string {
  if (!cut || cut.sparsity.most < cut.asked + MUCH) return "";
  return `; units are cut whole, so the sparsity is ${formatShare(cut.asked)} to ${formatShare(cut.sparsity.most)}`;
}

/** Shares that are printed as different. */
const ROUNDING = 5e-4;
/** The excess from which on there is a note. */
const MUCH = 5e-3;

function sizeText(
  spec: DecoderSpec,
  { layout, units, size, sparsity }: Pick<ResolvedOptions, "layout" | "units" | "size" | "sparsity">,
): string {
  if (layout === "padded") {
    return "zeros to the widest layer after the cut, so files stay as large as before where one layer is not cut " +
      "(--layout uniform cuts all layers alike, and loads in the same programs)";
  }
  if (size !== null) return "layers are as small as the requested size needs";
  const before = parameterCount(spec), share = sparsityBase(units) === "model" ? before : linearCount(spec);
  const more = units.includes("vocab") ? ", and those of the tokens that are cut" : "";
  return `about ${formatCount(Math.round(sparsity * share))} of ${formatCount(before)} parameters are cut${more}`;
}

/** Names of other programs, without how to call them. */
function listed(programs: readonly string[]): string {
  return programs.filter((program) => !/^(compresso|PEFT)/.test(program)).map((program) =>
    program.replace(/: Auto.*trust_remote_code.*$/, " with trust_remote_code").replace(/: Auto.*$/, "")
  ).join(", ");
}
