// Default multiples of kept widths, such that quantised matrices keep their type.
import { blockOf, type GgufWriteType } from "../formats/gguf/mixes.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import { cutsAt, type UnitKind } from "./kinds/all.ts";
import type { UnitRules } from "./rules.ts";

/** Default multiple of a kept width: the values in a block of most types, and a divisor that most programs' kernels need. */
const USUAL = 32;
/** If no type needs blocks, models narrower than this are cut unit by unit: 32 would be too coarse. */
const NARROW = 8 * USUAL;

/**
 * Multiples of kept FFN widths and of a kept hidden size, and of heads, that a run has by default. A row of a quantised
 * matrix is whole blocks of 32 or, in K-quants, 256 values; other rows fall back to a larger type.
 *
 * - 256 where the GGUF's type needs it and the model's own widths are multiples of it;
 * - 32 otherwise, except for a model whose width is 32 or less, or below 256 where the type has no blocks: 1.
 *
 * Heads are cut in groups that give whole blocks, if the type has blocks and the model's own heads give whole blocks.
 *
 * @param ggufDtype - Type of the GGUF that is written; null for none.
 */
export function fittingWidths(
  { layers, hidden, headDim }: Pick<DecoderSpec, "layers" | "hidden" | "headDim">,
  units: readonly UnitKind[],
  ggufDtype: GgufWriteType | null,
): Pick<UnitRules, "align" | "fit"> {
  const block = ggufDtype === null ? 1 : blockOf(ggufDtype);
  const fits = (widths: readonly number[], least: number): boolean =>
    widths.every((width) => width % block === 0 && width > least);
  const multipleOf = (widths: readonly number[]): number => {
    if (widths.length === 0) return 1;
    if (block > USUAL && fits(widths, block)) return block;
    const narrowest = Math.min(...widths);
    return (block > 1 ? narrowest > USUAL : narrowest >= NARROW) ? USUAL : 1;
  };
  const align = cutsAt("ffn", units) ? multipleOf(layers.flatMap(({ ffn }) => ffn > 0 ? [ffn] : [])) : 1;
  const dims = cutsAt("hidden", units) ? multipleOf([hidden]) : align;
  const living = layers.filter(({ heads }) => heads > 0), widths = living.map(({ heads }) => heads * headDim);
  const cutsHeads = living.length > 0 && cutsAt("attention", units);
  const rows = [block, USUAL].find((size) => block >= size && widths.every((width) => width % size === 0)) ?? 1;
  const heads = cutsHeads ? rows / common(rows, headDim) : 1;
  // Groups are cut whole, so a block may be several of them.
  const isNarrow = living.some(({ heads: own, kvHeads }) => own <= heads * (own / Math.max(1, kvHeads)));
  const fit = { ...(heads > 1 && !isNarrow ? { heads } : {}), ...(dims === align ? {} : { hidden: dims }) };
  return { ...(align > 1 ? { align } : {}), ...(Object.keys(fit).length > 0 ? { fit } : {}) };
}

/** Greatest common divisor. */
function common(a: number, b: number): number {
  return b === 0 ? a : common(b, a % b);
}
