// Matrices that files hold as one, row after row.
import type { Projection } from "../spec/decoder.ts";

/** Projections of a layer that a file holds as one matrix, in this order. */
export interface Fusion {
  /** The module in the Hugging Face layout, without its block. */
  readonly module: string;
  /** The tensor of a GGUF, without its layer. */
  readonly gguf: string;
  readonly parts: readonly Projection[];
}

/** q, k and v as one matrix. */
export const QKV: Fusion = { module: "qkv_proj", gguf: "attn_qkv", parts: ["q", "k", "v"] };

/** Gate and up as one matrix. */
export const GATE_UP: Fusion = { module: "gate_up_proj", gguf: "ffn_up", parts: ["gate", "up"] };

/** The matrices of `fused` models. */
export const FUSED_BLOCKS: readonly Fusion[] = [QKV, GATE_UP];
