// EXAONE 4: norms after the sublayers and of each head of q and k; where some layers have a window, the others have no RoPE.
import { z } from "../core/packages.ts";
import { family, slides } from "./family.ts";
import { alike, type Limit, ropeWithinWindow, UNSCALED_OR_LINEAR } from "./fit.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { AFTER_NORMS } from "./olmo2.ts";
import { windowOf } from "./shared.ts";

const NORMS = { normPlaces: ["after"], qkNorm: ["head"] } as const;
const PERIOD = 4;

/** llama.cpp has windows, and layers without RoPE, in a model of 64 layers alone. */
const ARCH: GgufArch = {
  arch: "exaone4",
  holds: { ...NORMS, scaling: UNSCALED_OR_LINEAR },
  limits: [alike, ({ layers }) => {
    if (layers.length !== 64) return null;
    return { rule: "needs windows in all layers but each 4th of 64", value: "no windows" };
  }],
  read: (keys, { layers: { length } }) =>
    length === 64
      ? keys.fail("block_count is not 64: such a model has windows that no key says", String(length))
      : { normPlaces: "after", qkNorm: "head" },
};

/** There is a window only where other layers have no RoPE. */
const noWindowAlone: Limit = ({ layers }) =>
  layers.some(({ rope }) => rope === "none") || layers.every(({ window }) => window === undefined)
    ? null
    : { rule: "needs RoPE in the layers with the window alone", value: "RoPE in all layers" };

/** EXAONE 4. */
export const EXAONE4 = family({
  type: "exaone4",
  label: "EXAONE 4",
  about: "norms of outputs, windows or no RoPE",
  architecture: "Exaone4ForCausalLM",
  defaults: { num_key_value_heads: 32, rms_norm_eps: 1e-5, sliding_window: 4096 },
  ids: { bos: 0 },
  keys: {
    // A number n for all layers but each n-th, or letters L and G for layers with the window and without.
    sliding_window_pattern: z.union([z.int().nonnegative(), z.string().regex(/^[LG]+$/)]).nullish(),
  },
  read: (config) => {
    const { sliding_window: window, sliding_window_pattern: pattern, num_hidden_layers: length } = config;
    const hasWindow = (index: number): boolean => {
      if (typeof pattern === "string") return index < length - 1 && pattern[index % pattern.length] === "L";
      return (index + 1) % (pattern ?? PERIOD) !== 0;
    };
    return {
      normPlaces: "after",
      qkNorm: "head",
      layer: (index) => {
        if (!window) return {};
        return slides(config, index, hasWindow(index)) ? { window } : { rope: "none" };
      },
    };
  },
  tensors: AFTER_NORMS,
  stock: {
    holds: { ...NORMS, scaling: true, windows: ["none", "some"], layerRope: ["all", "some"] },
    limits: [alike, ropeWithinWindow, noWindowAlone],
    keys: (spec) => {
      const isHybrid = spec.layers.some(({ rope }) => rope === "none");
      return {
        sliding_window: isHybrid ? windowOf(spec) ?? spec.maxPosition : null,
        layer_types: spec.layers.map(({ rope }) =>
          isHybrid && rope !== "none" ? "sliding_attention" : "full_attention"
        ),
      };
    },
  },
  gguf: [ARCH],
});
