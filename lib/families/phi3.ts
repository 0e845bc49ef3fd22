// Phi-3: q, k and v in one matrix, gate and up in one, LongRoPE; a part of each head may rotate.
import { type DecoderSpec, ropeDims } from "../spec/decoder.ts";
import { family, type FamilyParts } from "./family.ts";
import { alike, headsFillHidden, type Limit } from "./fit.ts";
import { FUSED_BLOCKS } from "./fusion.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { windowLayer, windowOf } from "./shared.ts";

const SCALINGS = ["none", "longrope"];

const ARCH: GgufArch = {
  arch: "phi3",
  isChosen: (spec) => spec.fused === true,
  partialRope: true,
  longRope: true,
  fused: FUSED_BLOCKS,
  holds: { fused: true, windows: true, partialRope: true, scaling: SCALINGS },
  limits: [alike, (spec) => {
    const misfit = headsFillHidden(spec);
    const fix = "export as a Hugging Face folder, or prune neither heads nor hidden dims for a GGUF";
    return misfit && spec.rope.dims !== undefined ? { ...misfit, fix } : misfit;
  }],
  read: () => ({ fused: true }),
};

/** transformers expects as many LongRoPE factors as hidden size / heads implies, even if heads have another width. */
const countsFactors: Limit = (spec) => {
  const { hidden, headDim, rope: { scaling }, layers: [first] } = spec;
  if (scaling.kind !== "longrope" || !first) return null;
  const dims = Math.floor(Math.floor(hidden / first.heads) * ropeDims(spec) / headDim), half = Math.floor(dims / 2);
  if (half === scaling.short.length) return null;
  return { rule: `needs ${half} factors of LongRoPE`, value: String(scaling.short.length) };
};

/** Phi-3, Phi-3.5, Phi-4 (mini). */
export const PHI3 = family({
  type: "phi3",
  label: "Phi-3",
  about: "fused matrices, LongRoPE",
  architecture: "Phi3ForCausalLM",
  defaults: { max_position_embeddings: 4096, rms_norm_eps: 1e-5 },
  ids: { eos: 32000 },
  rope: { isPartial: true, longRope: { originalMaxPosition: 4096 } },
  read(config, { fail }): FamilyParts {
    if (config.sliding_window && config.layer_types?.includes("full_attention")) {
      fail("layer_types", "a phi3 has sliding_window in all its layers: others would be ignored");
    }
    return { fused: true, layer: windowLayer(config) };
  },
  tensors: { keepsFused: true },
  stock: {
    holds: { fused: ["set"], windows: ["none", "all"], partialRope: true, scaling: SCALINGS },
    limits: [alike, countsFactors],
    keys: (spec: DecoderSpec) => ({ sliding_window: windowOf(spec) }),
  },
  gguf: [ARCH],
});
