// Statistics of how a pruned model agrees with the dense one, token by token.
import { meanAndError } from "./metrics.ts";

/** What was compared at each token, in the same order. */
export interface TokenAgreement {
  /** KL divergence of the model's next tokens from the dense model's, in nats. */
  readonly divergence: ArrayLike<number>;
  /** 1 if both have the same first choice, else 0. */
  readonly isSame: ArrayLike<number>;
  /** The dense model's share for tokens that the model lacks. */
  readonly dropped: ArrayLike<number>;
}

/**
 * How close a model is to the dense one on the same tokens, by the figures of llama.cpp's `--kl-divergence`
 * (tools/perplexity). At each token, q is the dense model's distribution of the next token, p is the model's, and KL =
 * Σ q·(ln q − ln p), in nats.
 */
export interface Agreement {
  /** Mean KL. */
  readonly kl: number;
  /** Its standard error, tokens taken as independent; NaN for one token. */
  readonly klError: number;
  /** Median of the tokens' KL: the mean of the middle two of an even number. */
  readonly klMedian: number;
  /** 99th percentile, between two tokens by linear interpolation. */
  readonly kl99: number;
  /**
   * Share of the tokens at which both models have the same first choice. Among equals, the lowest id is the first
   * choice.
   */
  readonly top1: number;
  /** Tokens that were compared. */
  readonly tokens: number;
  /**
   * Mean probability that the dense model gives to tokens that the model lacks; 0 if the vocabularies are the same. KL
   * and first choices use only the tokens that both have, with q and p each rescaled to sum to 1 over them.
   */
  readonly dropped: number;
}

/** Share of the tokens whose KL is at most {@link Agreement.kl99}. */
const HIGH = 0.99;

/** The statistics of some tokens, in f64; null for none. */
export function agreementOf({ divergence, isSame, dropped }: TokenAgreement): Agreement | null {
  const tokens = divergence.length;
  if (tokens === 0) return null;
  const [kl, klError] = meanAndError(Array.from(divergence)), sorted = Float64Array.from(divergence).sort();
  const mean = (values: ArrayLike<number>): number =>
    Array.from(values).reduce((sum, value) => sum + value, 0) / tokens;
  return {
    kl,
    klError,
    klMedian: quantile(sorted, 0.5),
    kl99: quantile(sorted, HIGH),
    top1: mean(isSame),
    tokens,
    dropped: mean(dropped),
  };
}

/** The value at a share of the way through sorted ones, between two by linear interpolation. */
function quantile(sorted: Float64Array, share: number): number {
  const at = share * (sorted.length - 1), low = Math.floor(at), part = at - low;
  const first = sorted[low] ?? NaN, second = sorted[Math.min(low + 1, sorted.length - 1)] ?? NaN;
  return (1 - part) * first + part * second;
}
