// LLaMA, and what llama.cpp computes with other counts in each layer.
import { type DecoderSpec, hasBias, type LayerSpec, withCounts } from "../spec/decoder.ts";
import { family } from "./family.ts";
import { alike, headsDivideHidden } from "./fit.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { attentionBiases, biasKeys, ffnBiases, flag } from "./shared.ts";

/** What both architectures hold. */
const GGUF = {
  neighbours: true,
  divisors: true,
  holds: { attentionBiases: true, ffnBiases: true, windows: true, scaling: true, fused: true },
  programs(spec: DecoderSpec): readonly string[] | null {
    // Before its pull request 21245, llama.cpp supported query biases only if their number equals the hidden size.
    const { hidden, headDim, layers } = spec;
    const isNew = hasBias(spec, "q") && layers.some(({ heads }) => heads > 0 && heads * headDim !== hidden);
    return isNew ? ["llama.cpp since its pull request 21245", "node-llama-cpp 3.22.1"] : null;
  },
} as const;

/** Experts of all layers make it a Mixtral. */
const ARCH: GgufArch = {
  ...GGUF,
  arch: "llama",
  holds: { ...GGUF.holds, router: ["none", "renormalised"] },
  limits: [alike],
  experts: { columns: "feed_forward_length", renormalised: true },
};

/** A llama whose layers may differ. */
const DECI: GgufArch = { ...GGUF, arch: "deci", uneven: deciLayers };

/** LLaMA 1 to 3, SmolLM 1 and 2. */
export const LLAMA = family({
  type: "llama",
  label: "LLaMA",
  architecture: "LlamaForCausalLM",
  keys: { attention_bias: flag, mlp_bias: flag },
  read: (config) => ({ biases: [...attentionBiases(config), ...ffnBiases(config)] }),
  stock: {
    holds: { attentionBiases: true, ffnBiases: true, scaling: true, fused: true },
    limits: [alike, headsDivideHidden],
    keys: biasKeys,
  },
  programs: "widely",
  gguf: [ARCH, DECI],
});

/**
 * The layers that llama.cpp's deci computes rightly: without FFN it leaves a layer before adding its attention, and aborts in
 * the last layer; without heads it fails in the first. One zero FFN column, or one zero head, changes no value.
 */
export function deciLayers(layers: readonly LayerSpec[]): LayerSpec[] {
  return layers.map((layer, index) => {
    const { heads, kvHeads, ffn } = layer;
    const head = heads === 0 && index === 0;
    const column = ffn === 0 && (heads > 0 || head || index === layers.length - 1);
    return withCounts(layer, { heads: head ? 1 : heads, kvHeads: head ? 1 : kvHeads, ffn: column ? 1 : ffn });
  });
}
