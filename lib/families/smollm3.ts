// SmolLM3: layers without RoPE.
import { z } from "../core/packages.ts";
import { type Config, family, type FamilyParts } from "./family.ts";
import { alike, type Limit, ONE_WINDOW, UNSCALED_OR_LINEAR } from "./fit.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { attentionBiases, biasKeys, ffnBiases, flag, switchedWindowKeys } from "./shared.ts";
import { slides } from "./family.ts";

/** Each nth layer has no RoPE, where nothing says which. */
const INTERVAL = 4;

const skipsRope = (layer: number): boolean => (layer + 1) % INTERVAL === 0;

/** llama.cpp knows no other layers without RoPE. */
const eachFourth: Limit = ({ layers }) => {
  const other = layers.findIndex(({ rope }, index) => (rope === "none") !== skipsRope(index));
  if (other < 0) return null;
  const value = `layer ${other} ${layers[other]?.rope === "none" ? "without RoPE" : "with RoPE"}`;
  return { rule: `needs RoPE in all layers but each ${INTERVAL}th`, value };
};

const ARCH: GgufArch = {
  arch: "smollm3",
  neighbours: true,
  skipsRope,
  holds: { layerRope: ["some"], windows: true, scaling: UNSCALED_OR_LINEAR, fused: true },
  limits: [alike, eachFourth],
};

/** A layer's RoPE: by the list, or in all layers but each nth. */
function hasRope(
  { no_rope_layers: list, no_rope_layer_interval: interval }: {
    readonly no_rope_layers?: readonly number[] | null | undefined;
    readonly no_rope_layer_interval?: number | null | undefined;
  },
  layer: number,
): boolean {
  return list ? list[layer] === 1 : (layer + 1) % (interval ?? INTERVAL) !== 0;
}

/** SmolLM3. */
export const SMOLLM3 = family({
  type: "smollm3",
  label: "SmolLM3",
  about: "layers without RoPE",
  architecture: "SmolLM3ForCausalLM",
  defaults: { num_key_value_heads: 4, max_position_embeddings: 32768, tie_word_embeddings: true },
  ids: { bos: 128000, eos: 128001 },
  rope: { base: 2_000_000 },
  keys: {
    attention_bias: flag,
    mlp_bias: flag,
    // 1 for a layer with RoPE, 0 for one without.
    no_rope_layers: z.array(z.union([z.literal(0), z.literal(1)])).nullish(),
    no_rope_layer_interval: z.int().positive().nullish(),
  },
  read(config, { fail }): FamilyParts {
    const { no_rope_layers: list, num_hidden_layers: length, use_sliding_window: isUsed } = config;
    if (list && list.length !== length) fail("no_rope_layers", `it has an entry for each of ${length} layers`);
    const window = (config: Config, index: number, implied: boolean): number | null =>
      isUsed && slides(config, index, implied) ? config.sliding_window ?? null : null;
    return {
      biases: [...attentionBiases(config), ...ffnBiases(config)],
      layer: (index) => {
        const rotates = hasRope(config, index);
        return { window: window(config, index, !rotates), rope: rotates ? undefined : "none" };
      },
    };
  },
  stock: {
    holds: {
      layerRope: ["some"],
      attentionBiases: true,
      ffnBiases: true,
      windows: ONE_WINDOW,
      scaling: true,
      fused: true,
    },
    limits: [alike],
    keys: (spec) => ({
      ...biasKeys(spec),
      no_rope_layers: spec.layers.map(({ rope }) => rope === "none" ? 0 : 1),
      ...switchedWindowKeys(spec),
    }),
  },
  gguf: [ARCH],
});
