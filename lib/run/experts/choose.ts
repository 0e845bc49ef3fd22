// Which experts stay: those of the highest scores in each layer, as many in all layers.
import { option, refuse } from "../../core/errors.ts";
import type { KeptExperts } from "../../nn/experts.ts";
import type { DecoderSpec } from "../../spec/decoder.ts";
import type { WeightSource } from "../../spec/source.ts";
import { EXPERT_MATRICES, expertsName } from "../../spec/decoder.ts";
import type { ExpertScores } from "../methods/experts.ts";

/** Number of experts that each layer keeps for a share to cut; null for a dense layer. */
export function keptCounts(
  { layers, router }: Pick<DecoderSpec, "layers" | "router">,
  { sparsity }: { readonly sparsity: number },
): (number | null)[] {
  const least = router?.topK ?? 1;
  return layers.map(({ experts }) => {
    if (!experts) return null;
    const { count } = experts, kept = Math.floor(count * (1 - sparsity) + ROUNDING);
    if (kept >= least) return kept;
    const most = Math.floor((1 - least / count) * DIGITS) / DIGITS;
    refuse("usage", "cannot cut this share of the experts", {
      rule: `a layer keeps at least as many experts as a token has: ${least} of ${count}, so at most ${most} are cut`,
      value: option("sparsity", sparsity),
      fix: most > 0 ? `give ${option("sparsity", most)} or less` : "this model cannot lose experts",
      option: "sparsity",
    });
  });
}

/** A share such as 0.25 of 8 experts is a whole number of them, in spite of rounding. */
const ROUNDING = 1e-9;
const DIGITS = 1e4;

/**
 * Keeps the experts of the highest scores in each layer, ties to the lower number.
 *
 * @throws CompressoError("usage") for a share that leaves fewer experts than a token has.
 */
export function chooseExperts(
  spec: Pick<DecoderSpec, "layers" | "router">,
  scores: ExpertScores,
  wanted: { readonly sparsity: number },
): KeptExperts {
  return keptCounts(spec, wanted).map((count, layer) => count === null ? null : highest(scores[layer] ?? [], count));
}

/** The experts of the highest scores of a layer, ties to the lower number; their numbers ascend. */
export function highest(scores: readonly number[], count: number): number[] {
  const order = [...scores.keys()].sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b);
  return order.slice(0, count).sort((a, b) => a - b);
}

/** Mean square of the weights of each expert. Reads one matrix of one expert at a time. */
export async function expertMagnitudes(
  source: WeightSource,
  { signal }: { readonly signal?: AbortSignal | undefined } = {},
): Promise<ExpertScores> {
  const { hidden, layers } = source.spec, found: (number[] | null)[] = [];
  for (const [index, { experts }] of layers.entries()) {
    if (!experts) found.push(null);
    else {
      const own: number[] = [];
      for (let expert = 0; expert < experts.count; expert++) {
        signal?.throwIfAborted();
        let squares = 0;
        for (const matrix of EXPERT_MATRICES) {
          const count = matrix === "down" ? hidden : experts.ffn;
          const values = await source.read(expertsName(index, matrix), { start: expert * count, count });
          for (const value of values) squares += value * value;
        }
        own.push(squares / (EXPERT_MATRICES.length * experts.ffn * hidden));
      }
      found.push(own);
    }
  }
  return found;
}
