// Types of the matrix-vector kernels.
import type { WeightStorage } from "./weight_access.ts";

/** One kernel of the family: s = W·x, or W·RMSNorm(x), for the rows of `parts` matrices, and an ending. */
export interface Matvec {
  readonly storage: WeightStorage;
  readonly ending: MatvecEnding;
  /** Matrices one after another in the grid (1 where the ending is "residual" or "swiglu", whose second matrix does not count). */
  readonly parts: number;
  /** What the parts of a "rotate" are. */
  readonly roles?: readonly MatvecRole[];
  /** x is RMS-normalised first: x·w / sqrt(mean x² + ε). */
  readonly norm: boolean;
  /** Texture only: loads along a row that the kernel unrolls; of `rounds` it only matters whether there are several. */
  readonly units?: TextureUnits;
  /** Texture only: rows of a workgroup at most, see `textureRows`. */
  readonly rows?: number;
}

/** What becomes of the sums s = W·x of a row n. */
export type MatvecEnding =
  /** y[offset + n] = s. */
  | "store"
  /** y[n] = silu(s)·s'·z[n], with s' of the second matrix. */
  | "swiglu"
  /** y[n] += s·z[n]. */
  | "residual"
  /** q = RoPE(s); key position[0] of the key texture = RoPE(s), of the value texture = s: see {@link MatvecRole} and `decodeAttentionTexture`. */
  | "rotate";

/** Where a part of a "rotate" goes. */
export type MatvecRole = "q" | "k" | "v";

/** How the loads along a row are unrolled. */
export interface TextureUnits {
  /** Units of the whole workgroup in a round, see `textureUnits`. */
  readonly units: number;
  /** Whether half a unit follows them. */
  readonly half: boolean;
  /** Rounds that a row takes. */
  readonly rounds: number;
}
