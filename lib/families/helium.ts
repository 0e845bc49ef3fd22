// Helium: LLaMA whose RoPE turns neighbours in a folder.
import { family } from "./family.ts";
import { alike, headsFillHidden, readAsNeighbours } from "./fit.ts";

/** Helium. What is written has LLaMA's class and architecture, which compute the same. */
export const HELIUM = family({
  type: "helium",
  label: "Helium",
  about: "RoPE turns neighbours",
  architecture: "HeliumForCausalLM",
  defaults: { num_key_value_heads: 20, head_dim: 128, max_position_embeddings: 4096, rms_norm_eps: 1e-8 },
  ids: { pad: 3 },
  rope: { base: 100_000 },
  tensors: { neighbours: true },
  stock: { holds: { scaling: true, fused: true }, limits: [alike, headsFillHidden, readAsNeighbours] },
});
