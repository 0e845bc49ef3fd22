// The record of an architecture of llama.cpp: which models it computes, and how a GGUF says them.
import type { Activation, DecoderSpec, LayerSpec } from "../spec/decoder.ts";
import type { Fit } from "./fit.ts";
import type { Parts } from "./family.ts";
import type { Fusion } from "./fusion.ts";

/** The keys of a GGUF that begin with the name of its architecture. */
export interface GgufKeys {
  has(key: string): boolean;
  hasTensor(name: string): boolean;
  /** A number stored as f32, as the decimal fraction that was meant; the fallback where the key is missing. It is 0 or above. */
  decimal(key: string, fallback: number): number;
  /** Throws if the key is neither true nor false. */
  flag(key: string): boolean;
  /** Refuses the file. */
  fail(rule: string, value: string): never;
}

/** What of a model is known before an architecture's own parts. */
export type GgufBasis = Pick<DecoderSpec, "hidden" | "headDim" | "layers">;

/** How an architecture differs from LLaMA. Biases are left out: the file's tensors decide them. */
export interface GgufParts extends Omit<Parts, "biases"> {
  readonly activation?: Exclude<Activation, "silu"> | undefined;
}

/** A number that a GGUF stores as f32. */
export interface F32 {
  readonly type: "f32";
  readonly value: number;
}

/** A number that a GGUF stores as f32. */
export function f32(value: number): F32 {
  return { type: "f32", value };
}

/** An architecture of llama.cpp. */
export interface GgufArch extends Fit {
  /** `general.architecture`. */
  readonly arch: string;
  /** Whether it is taken for a model that it holds, where none is asked for. Default: it is. */
  readonly isChosen?: (spec: DecoderSpec) => boolean;
  /** RoPE turns neighbours (2i, 2i + 1), so that q and k have their rows in another order than in a folder. */
  readonly neighbours?: true;
  /** A layer without `attn_v` takes its keys, before their norm, for values. */
  readonly valuesAreKeys?: true;
  /** RoPE frequencies are divided by `rope_freqs.weight`. */
  readonly divisors?: true;
  /** A part of each head rotates where the file says so. */
  readonly partialRope?: true;
  /** Queries grow with the position where the file says so, and it may say YaRN's factor of cos and sin by a logarithm. */
  readonly queryGrowth?: true;
  /** LongRoPE follows from its tensors alone. */
  readonly longRope?: true;
  /** Norms are LayerNorm. */
  readonly layerNorm?: true;
  /** The file says whether attention and FFN are parallel. */
  readonly parallelKey?: true;
  /**
   * It has experts where the file says so: the keys of an expert's columns and of those of the shared expert, and what
   * llama.cpp computes without a key.
   */
  readonly experts?: {
    readonly columns: string;
    readonly shared?: string;
    /** A file without the key of the shared expert's columns has no shared expert. */
    readonly isSharedOptional?: true;
    /** Key of the number of experts as wide as the shared one, in place of `shared`. */
    readonly sharedCount?: string;
    /** Key of the number of dense layers before those with experts; 0 without the key. */
    readonly dense?: string;
    /** Key that has to be 1: every so many layers have experts. */
    readonly step?: string;
    /** Keys say the scores, which are sigmoids without a key, and what becomes of the weights. */
    readonly saysRouter?: true;
    readonly renormalised?: true;
    readonly sharedGate?: true;
  };
  /** Key of the tokens that a convolution sums over. Layers without KV heads have a convolution, and the number of heads is that of the others. */
  readonly convolutionKey?: string;
  /** Layers at the end of a file may predict further tokens; they are not read. */
  readonly laterLayers?: true;
  /** Names of tensors, without layer and suffix, that other architectures call otherwise, by their usual names. */
  readonly tensorNames?: Readonly<Record<string, string>>;
  /** Matrices that a file holds as one. */
  readonly fused?: readonly Fusion[];
  /** Matrices that older files hold as one. */
  readonly onceFused?: readonly Fusion[];
  /** Layers may differ. Returns the layers as the file holds them: some need a part that computes nothing. */
  readonly uneven?: (layers: readonly LayerSpec[]) => LayerSpec[];
  /**
   * Layers with a window, which llama.cpp computes: all but each `period`-th, and the window, where the file does not say it. Other architectures
   * ignore windows.
   */
  readonly windows?: {
    readonly period: number;
    readonly window: number;
    readonly hasLocalRope?: true;
    /** The file lists the layers with the window. */
    readonly isListed?: true;
    /**
     * A file without the window's key has no window. A file without the base of the local RoPE has the base of the
     * other layers.
     */
    readonly isOptional?: true;
  };
  /** Whether a layer has no RoPE, by its index and whether it has the window; no key of the file says it. */
  readonly skipsRope?: (layer: number, slides: boolean) => boolean;
  /** llama.cpp's factor of q·k where it takes none from the file and the model's goes into the weights. */
  readonly attentionScale?: (basis: GgufBasis) => number;
  /** Keys that change what is computed and have to be 0 or absent. Default: {@link ZERO_KEYS}. */
  readonly zeroKeys?: readonly string[];
  readonly read?: (keys: GgufKeys, basis: GgufBasis) => GgufParts;
  /** Keys of what {@link read} reads. */
  readonly write?: (spec: DecoderSpec) => Readonly<Record<string, F32 | number | boolean>>;
  /** Programs that load such a file, where they are not the usual ones. */
  readonly programs?: (spec: DecoderSpec) => readonly string[] | null;
}

/**
 * The n for which all layers except each n-th slide. It is 0 if all layers slide, and null if there is no such n. Layers
 * with local RoPE slide. Where some layers have no RoPE, the others slide.
 */
export function slidingPeriod(layers: readonly LayerSpec[], usual: number): number | null {
  const isLocal = layers.some(({ rope }) => rope === "local"), isPartial = layers.some(({ rope }) => rope === "none");
  const slides = layers.map(({ rope, window }) =>
    isLocal ? rope === "local" : isPartial ? rope !== "none" : window !== undefined
  );
  const first = slides.indexOf(false);
  if (first < 0) return layers.length < usual ? usual : 0;
  const period = first + 1;
  return slides.every((own, layer) => own === (layer % period < period - 1)) ? period : null;
}

/** Keys of factors that most architectures do not have. */
export const ZERO_KEYS: readonly string[] = [
  "attention.scale",
  "attention.clamp_kqv",
  "embedding_scale",
  "residual_scale",
  "logit_scale",
];
