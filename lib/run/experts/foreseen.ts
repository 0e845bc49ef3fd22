// What a cut of experts leaves, as far as it is known from the shape of the model alone.
import { type DecoderSpec, parameterCount } from "../../spec/decoder.ts";
import { CALIBRATION_SEQUENCES } from "../calibration.ts";
import { MOST_WINDOWS, WINDOW } from "../evaluation.ts";
import { FEWEST } from "../quality.ts";
import { keptCounts } from "./choose.ts";

/** What a cut of experts leaves. */
export interface ForeseenCut {
  /** Experts of all layers. */
  readonly before: number;
  readonly after: number;
  /** Number of experts that each layer keeps; null for a dense layer. */
  readonly kept: readonly (number | null)[];
  readonly parameters: { readonly before: number; readonly after: number };
  /** Shape of the cut model. */
  readonly spec: DecoderSpec;
}

/** Foresees a cut of a share of the experts. Throws `CompressoError("usage")` for a share that leaves too few. */
export function foreseeCut(spec: DecoderSpec, wanted: { readonly sparsity: number }): ForeseenCut {
  const kept = keptCounts(spec, wanted),
    total = (counts: readonly number[]): number => counts.reduce((a, b) => a + b, 0);
  const layers = spec.layers.map((layer, index) => {
    const count = kept[index] ?? null;
    return layer.experts && count !== null ? { ...layer, experts: { ...layer.experts, count } } : layer;
  });
  const cut = { ...spec, layers };
  return {
    before: total(spec.layers.map(({ experts }) => experts?.count ?? 0)),
    after: total(kept.map((count) => count ?? 0)),
    kept,
    parameters: { before: parameterCount(spec), after: parameterCount(cut) },
    spec: cut,
  };
}

/**
 * Most bytes of main memory that the states of a cut's tokens take: 32 sequences on which experts are scored, before and
 * after a layer; 8 sequences, and the windows of a text, of the whole and of the cut model, one of them after a layer too.
 */
export function stateBytes({ hidden }: Pick<DecoderSpec, "hidden">, { seq, hasText = false }: {
  readonly seq: number;
  /** Whether a text is measured. */
  readonly hasText?: boolean;
}): number {
  const measured = FEWEST * seq + (hasText ? MOST_WINDOWS * WINDOW : 0);
  return 4 * hidden * (2 * CALIBRATION_SEQUENCES * seq + 3 * measured);
}
