// Types of the matrix-vector kernels.
import type { WeightStorage } from "./weight_access.ts";

/** One kernel of the family: s = W·x, or W·RMSNorm(x), for the rows of `parts` matrices, followed by an ending. */
export interface Matvec {
  readonly storage: WeightStorage;
  readonly ending: MatvecEnding;
  /** Number of consecutive matrices in the grid (1 for "residual" and "swiglu", whose second matrix does not count). */
  readonly parts: number;
  /** Roles of the parts of a "rotate". */
  readonly roles?: readonly MatvecRole[];
  /** Applies RMSNorm to x first: x·w / sqrt(mean x² + ε). */
  readonly norm: boolean;
  /** Texture only: unrolled loads along a row. Of `rounds`, only whether it exceeds 1 matters. */
  readonly units?: TextureUnits;
  /** Texture only: largest number of rows of a workgroup, see `textureRows`. */
  readonly rows?: number;
  /**
   * Buffer only: vectors x that one workgroup multiplies, so that W is read once for all of them; workgroups along z take
   * the next ones. Each vector's sums have the order of a single one. Default 1.
   */
  readonly batch?: number;
}

/** What happens to the sum s = W·x of a row n, for vector b of the batch. */
export type MatvecEnding =
  /** y[b, offset + n] = s. */
  | "store"
  /** y[b, n] = silu(s)·s'·z[n], with s' of the second matrix. */
  | "swiglu"
  /** y[b, n] += s·z[n]. */
  | "residual"
  /**
   * q[b] = RoPE(s); key position[b] of the key texture = RoPE(s), of the value texture = s: see {@link MatvecRole} and
   * `decodeAttentionTexture`. Nothing is written past the capacity.
   */
  | "rotate";

/** Destination of a part of a "rotate". */
export type MatvecRole = "q" | "k" | "v";

/** How the loads along a row are unrolled. */
export interface TextureUnits {
  /** Units of the whole workgroup in one round, see `textureUnits`. */
  readonly units: number;
  /** Whether half a unit follows. */
  readonly half: boolean;
  /** Number of rounds per row. */
  readonly rounds: number;
}
