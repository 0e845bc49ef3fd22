// GLM-4: norms before and after the sublayers, biases of q, k and v, gate and up in one matrix; RoPE turns neighbours in a part of each head.
import { QWEN2_BIASES } from "../spec/decoder.ts";
import { family } from "./family.ts";
import { alike, headsFillHidden, UNSCALED_OR_LINEAR } from "./fit.ts";
import { GATE_UP } from "./fusion.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { GLM_FILES, GLM_STOCK, glmBiases } from "./glm.ts";

const HOLDS = {
  normPlaces: ["both"],
  attentionBiases: ["none", QWEN2_BIASES.join()],
  partialRope: true,
} as const;

const ARCH: GgufArch = {
  arch: "glm4",
  neighbours: true,
  partialRope: true,
  fused: [GATE_UP],
  holds: { ...HOLDS, windows: true, scaling: UNSCALED_OR_LINEAR },
  limits: [alike, headsFillHidden],
  read: () => ({ normPlaces: "both" }),
};

/** GLM-4 of 2025 (0414). */
export const GLM4 = family({
  ...GLM_FILES,
  type: "glm4",
  label: "GLM-4",
  about: "norms before and after, partial RoPE",
  architecture: "Glm4ForCausalLM",
  read: (config) => ({ normPlaces: "both", biases: glmBiases(config) }),
  stock: { ...GLM_STOCK, holds: { ...HOLDS, scaling: true } },
  gguf: [ARCH],
});
