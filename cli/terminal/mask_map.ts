// The masks of a run as a line of block characters: a character for each layer's heads and FFN columns.
import type { LayerState } from "../../lib/schedule/definition.ts";

/** Eighths of a character; a layer that is cut whole is a dot, so that it keeps its place. */
const BLOCKS = "·▁▂▃▄▅▆▇█";

/** What the characters mean, said once. */
export const MASK_MAP_LEGEND = "kept of each layer, first to last: █ all, ▄ half, · nothing";

/** One line, at most `columns` wide: neighbours share a character where there are more layers than room. */
export function maskMap(
  { step, steps, layers }: { readonly step: number; readonly steps: number; readonly layers: readonly LayerState[] },
  columns: number,
): string {
  const head = `step ${String(step).padStart(String(steps).length)}/${steps}  heads `, middle = "  FFN ";
  const room = Math.max(4, Math.floor((columns - head.length - middle.length) / 2));
  const row = (kind: "heads" | "ffn"): string => blocks(layers.map((layer) => 1 - layer[kind]), room);
  return `${head}${row("heads")}${middle}${row("ffn")}`;
}

function blocks(kept: readonly number[], room: number): string {
  const count = Math.min(kept.length, room);
  return Array.from({ length: count }, (_, at) => {
    const some = kept.slice(Math.floor(at * kept.length / count), Math.floor((at + 1) * kept.length / count));
    return blockOf(some.reduce((sum, one) => sum + one, 0) / some.length);
  }).join("");
}

/** The character of a share. Above 0 it is never a dot, and only 1 is a full block. */
export function blockOf(share: number): string {
  const eighths = share >= 1 ? 8 : share <= 0 ? 0 : Math.min(7, Math.max(1, Math.round(8 * share)));
  return BLOCKS[eighths] ?? "?";
}
