// Every family that is read and written, in the order in which a class or architecture is chosen for a model: the first that holds it.
import type { DecoderSpec } from "../spec/decoder.ts";
import { APERTUS } from "./apertus.ts";
import { ARCEE } from "./arcee.ts";
import { COHERE, COHERE2 } from "./cohere.ts";
import { COMPRESSO } from "./compresso.ts";
import { ERNIE } from "./ernie.ts";
import { ERNIE_MOE } from "./ernie_moe.ts";
import { EXAONE4 } from "./exaone4.ts";
import type { Family } from "./family.ts";
import { fits } from "./fit.ts";
import { GEMMA, GEMMA2, GEMMA3 } from "./gemma.ts";
import { GEMMA4 } from "./gemma4.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { GLM } from "./glm.ts";
import { GLM4 } from "./glm4.ts";
import { GLM4_MOE } from "./glm4_moe.ts";
import { GPT2 } from "./gpt2.ts";
import { GPT_NEOX } from "./gpt_neox.ts";
import { GRANITE } from "./granite.ts";
import { GRANITE_HYBRID } from "./granite_hybrid.ts";
import { GRANITE_MOE } from "./granite_moe.ts";
import { HELIUM } from "./helium.ts";
import { HUNYUAN } from "./hunyuan.ts";
import { LFM2 } from "./lfm2.ts";
import { LLAMA } from "./llama.ts";
import { MINISTRAL, MINISTRAL3, MISTRAL } from "./mistral.ts";
import { MIXTRAL } from "./mixtral.ts";
import { NANOCHAT } from "./nanochat.ts";
import { NEMOTRON } from "./nemotron.ts";
import { OLMO2, OLMO3 } from "./olmo2.ts";
import { OLMOE } from "./olmoe.ts";
import { OPT } from "./opt.ts";
import { PHI } from "./phi.ts";
import { PHI3 } from "./phi3.ts";
import { QWEN2, QWEN3 } from "./qwen.ts";
import { QWEN2_MOE, QWEN3_MOE } from "./qwen_moe.ts";
import { SEED_OSS } from "./seed_oss.ts";
import { SMOLLM3 } from "./smollm3.ts";
import { STABLELM } from "./stablelm.ts";
import { STARCODER2 } from "./starcoder2.ts";

/** The families of others. */
export const FAMILIES: readonly Family[] = [
  PHI3,
  QWEN2,
  LLAMA,
  MISTRAL,
  MINISTRAL,
  MINISTRAL3,
  QWEN3,
  GEMMA,
  GEMMA2,
  GEMMA3,
  GEMMA4,
  SEED_OSS,
  SMOLLM3,
  GRANITE,
  GRANITE_HYBRID,
  OLMO2,
  OLMO3,
  EXAONE4,
  ARCEE,
  APERTUS,
  NANOCHAT,
  GLM,
  GLM4,
  ERNIE,
  HELIUM,
  HUNYUAN,
  OPT,
  GPT2,
  GPT_NEOX,
  STARCODER2,
  NEMOTRON,
  STABLELM,
  COHERE,
  COHERE2,
  LFM2,
  PHI,
  QWEN3_MOE,
  QWEN2_MOE,
  OLMOE,
  MIXTRAL,
  GRANITE_MOE,
  GLM4_MOE,
  ERNIE_MOE,
];

/** All of them, our own last, which holds every model. */
const ALL: readonly Family[] = [...FAMILIES, COMPRESSO];

/** Every `model_type` that is read. */
export const MODEL_TYPES: readonly string[] = ALL.map(({ type }) => type);

/** What to do about a model of another family. */
export const GIVE_FAMILY = `give a text model of one of the families ${FAMILIES.map(({ label }) => label).join(", ")}`;

/** Model types around a text model that is read. */
export const WRAPPERS: readonly string[] = [...new Set(FAMILIES.flatMap(({ wrappers = [] }) => wrappers))];

/** Keys that change what a family computes and that others ignore. */
export const FOREIGN_KEYS: readonly string[] = [...COMPRESSO.keys, "no_rope_layers"];

/** The architectures of llama.cpp that are read and written. */
export const GGUF_ARCHS: readonly GgufArch[] = FAMILIES.flatMap(({ gguf = [] }) => gguf);

/** The family of a `model_type`; undefined for an unsupported type. */
export function familyOfType(type: unknown): Family | undefined {
  return ALL.find((family) => family.type === type);
}

/** The family whose class writes a model: the first that holds it, or our own. */
export function familyFor(spec: DecoderSpec): Family {
  return FAMILIES.find((family) => fits(spec, family.stock)) ?? COMPRESSO;
}

/** The GGUF architecture of a name; undefined for an unknown name. */
export function ggufArchOf(name: unknown): GgufArch | undefined {
  return GGUF_ARCHS.find(({ arch }) => arch === name);
}

/**
 * Query heads that every layer has in the class of a family that derives the head width from them; null where heads and
 * their width are independent.
 */
export function fixedHeads(spec: DecoderSpec): number | null {
  const { hidden, headDim } = spec;
  const isDerived = FAMILIES.some(({ stock, derivesHeads }) => derivesHeads && fits(spec, { holds: stock.holds }));
  return isDerived && hidden % headDim === 0 ? hidden / headDim : null;
}
