// A model as a Hugging Face folder.
import { CompressoError } from "../../core/errors.ts";
import {
  type DecoderSpec,
  hasBias,
  hasProjection,
  layersAlike,
  type Projection,
  PROJECTIONS,
  QWEN2_BIASES,
  ropeDims,
  tensorShapes,
  windowsOf,
  withBiases,
} from "../../spec/decoder.ts";
import { type FileSystem, type Staged, writeFile } from "../../files/system.ts";
import { firstNonFinite } from "../../core/half.ts";
import { fusedModuleName, fusedTensors, joined } from "../fused.ts";
import { fusionsOf, hfShapes } from "./model.ts";
import { headNormTensors } from "./head_norms.ts";
import { withOwnKeys } from "./keys.ts";
import { layeredRopeConfig, ropeConfig } from "./rope_export.ts";
import { pack, packedTensors } from "./packed.ts";
import {
  ACTIVATION_NAMES,
  gemmaForm,
  gemmaKeys,
  LAYER_NORM_FORMS,
  layerNormBiases,
  layerNormConfig,
  type LayerNormForm,
  layerNormForm,
} from "./stock_config.ts";
import { storedName, storedPlus } from "./stored.ts";
import { windowKeys } from "./windows.ts";
import configurationText from "./remote_code/configuration_compresso.py" with { type: "text" };
import modelingText from "./remote_code/modeling_compresso.py" with { type: "text" };
import { elementCount } from "../../spec/row_range.ts";
import { type SafetensorsItem, shardedSafetensorsBytes, writeShardedSafetensors } from "../safetensors/write.ts";
import type { WeightSource } from "../../spec/source.ts";
import { isObject, type Json } from "../../core/guards.ts";
import { tokenText } from "../../text/tokenizer_json.ts";
import { INPUT_NAMES, type Tokenizer } from "../../text/tokenizer.ts";

/** Dtypes of a folder's weights. */
export type HfDtype = "f32" | "f16" | "bf16";

/** Which classes load the folder: those of transformers, or Python files in the folder (`trust_remote_code`). */
export type HfForm =
  | "llama"
  | "mistral"
  | "ministral"
  | "qwen2"
  | "qwen3"
  | "gemma"
  | "gemma2"
  | "gemma3_text"
  | "phi3"
  | "smollm3"
  | "granite"
  | "olmo2"
  | LayerNormForm
  | "compresso";

/** How to export. */
export interface HfExportOptions {
  readonly dtype: HfDtype;
  /** Null writes a folder without tokenizer. */
  readonly tokenizer: Tokenizer | null;
  /** Further keys of generation_config.json, such as temperature. */
  readonly generation?: Json;
  /** Whether a folder that is there may be replaced; default false. */
  readonly replace?: boolean;
  /** Texts that the folder holds beside the model, by the names of their files, such as README.md. Default: none. */
  readonly texts?: Readonly<Record<string, string>>;
  /** Weights above this many bytes are cut into several files; default 5 GB. */
  readonly maxShardBytes?: number;
  readonly signal?: AbortSignal;
}

const TORCH_DTYPES: Readonly<Record<HfDtype, string>> = { f32: "float32", f16: "float16", bf16: "bfloat16" };
const FILE_DTYPES = { f32: "F32", f16: "F16", bf16: "BF16" } as const;

/**
 * Writes the model as a folder beside its place. Layers that are all alike give a stock configuration: Phi-3 where its matrices are fused, Qwen3
 * for norms of q and k heads, Qwen2 for its biases, Gemma for its gate and norms, OPT, GPT-2, GPT-NeoX, StableLM or Phi for LayerNorm, else Llama, or Mistral where
 * heads do not divide the hidden size,
 * which Llama's refuses, or where all layers have one window, or Ministral
 * where some have. Layers that differ, and those of several windows, give
 * `compresso`, with the Python files that load it; see `padded` for a folder that stock classes load all the same. So do other biases where only
 * Mistral's would fit, which has none. Llama's biases are those of q, k, v and o together, and of gate, up and down: what the model does not have is zeros.
 *
 * @throws CompressoError("input") where the folder is not empty, where RoPE factors have no name here.
 * @throws CompressoError("numeric") for weights that are not finite, and as the writer of safetensors.
 */
export async function stageHf(
  source: WeightSource,
  folder: string,
  options: HfExportOptions & { readonly files: FileSystem },
): Promise<Staged & { readonly form: HfForm }> {
  const { spec } = source, { dtype, tokenizer, files, signal } = options;
  const form = formOf(spec), config = hfConfig(spec, { dtype });
  const written = writtenSpec(spec), own = tensorShapes(spec), shapes = tensorShapes(written);
  const fused = [...fusedTensors(written, fusionsOf(written)).values()];
  const parts = new Map(fused.map((whole) => [fusedModuleName(whole), whole.parts.map(({ name }) => name)]));
  const packed = new Map(packedTensors(form, written).map((tensor) => [tensor.name, tensor]));
  const headNorms = new Map(headNormTensors(form, written).map((tensor) => [tensor.name, tensor]));
  const read = async (name: string): Promise<Float32Array<ArrayBuffer>> =>
    own.has(name) ? finite(name, await source.read(name)) : new Float32Array(elementCount(shapes.get(name) ?? []));
  const items = weightItems(spec, dtype).map((item): SafetensorsItem => ({
    ...item,
    name: storedName(form, item.name),
    data: async () => {
      signal?.throwIfAborted();
      const tensor = packed.get(item.name);
      if (tensor) return pack(tensor, await Promise.all(tensor.parts.map(({ name }) => read(name))));
      const norm = headNorms.get(item.name);
      if (norm) return (await read(norm.canonical)).subarray(norm.first, norm.first + written.headDim);
      const names = parts.get(item.name), plus = storedPlus(form, item.name);
      const values = names ? joined(await Promise.all(names.map(read))) : await read(item.name);
      return plus === 0 ? values : values.map((value) => value - plus);
    },
  }));
  const staged = await files.stageFolder(folder, async (path) => {
    const text = (name: string, content: string): Promise<void> => writeFile(files, `${path}/${name}`, content);
    const json = (name: string, value: unknown): Promise<void> => text(name, `${JSON.stringify(value, null, 2)}\n`);
    await text("config.json", withFloats(`${JSON.stringify(config, null, 2)}\n`));
    await json("generation_config.json", { ...tokenIds(spec, { nulls: false }), ...options.generation });
    if (form === "compresso") {
      await text("configuration_compresso.py", configurationText);
      await text("modeling_compresso.py", modelingText);
    }
    if (tokenizer) {
      const { json: content, chatTemplate } = tokenizer, settings = tokenizerSettings(tokenizer);
      await json("tokenizer.json", content);
      await json(
        "tokenizer_config.json",
        chatTemplate === null
          ? settings
          : { ...settings, chat_template: templates(settings["chat_template"], chatTemplate) },
      );
    }
    const { maxShardBytes, texts = {} } = options;
    for (const [name, content] of Object.entries(texts)) await text(name, content);
    await writeShardedSafetensors(path, items, { files, ...(maxShardBytes ? { maxShardBytes } : {}) });
    signal?.throwIfAborted();
  }, { replace: options.replace ?? false });
  return { ...staged, form };
}

/**
 * A tokenizer's settings by which transformers reads what tokenizer.json says. Its other classes make parts of that again, as do `add_bos_token` and
 * `add_eos_token` in transformers 5; Python files are not copied; and by default transformers 4 makes token types, which `generate` refuses. Nor does
 * that one read a list as `extra_special_tokens`, as 5 writes it, where both read `additional_special_tokens`.
 */
export function tokenizerSettings({ config, leading, trailing, bosId, eosId }: Tokenizer): Json {
  const { auto_map: _code, add_bos_token: bos, add_eos_token: eos, ...settings } = config;
  const isAt = (ids: readonly number[], id: number | null): boolean => ids.length === 1 && ids[0] === id;
  const isSaid = bos !== undefined || eos !== undefined;
  const ends = [[leading, bosId], [trailing, eosId]] as const;
  const canSay = ends.every(([ids, id]) => ids.length === 0 || isAt(ids, id));
  const around = { add_bos_token: isAt(leading, bosId), add_eos_token: isAt(trailing, eosId) };
  return {
    ...withOlderList(settings),
    ...(isSaid && canSay ? around : {}),
    tokenizer_class: "PreTrainedTokenizerFast",
    model_input_names: settings["model_input_names"] ?? INPUT_NAMES,
  };
}

/** Settings with a list of further special tokens under its older name, each once and by its text: the rest is in tokenizer.json. */
function withOlderList(settings: Json): Json {
  const { extra_special_tokens: extra, additional_special_tokens: older, ...others } = settings;
  if (!Array.isArray(extra)) return settings;
  const texts = [...Array.isArray(older) ? older : [], ...extra].map(tokenText).filter((text) => text !== null);
  return texts.length === 0 ? others : { ...others, additional_special_tokens: [...new Set(texts)] };
}

/** Bytes of a folder's safetensors, headers and all, without config, tokenizer and index. */
export function hfWeightBytes(spec: DecoderSpec, { dtype }: Pick<HfExportOptions, "dtype">): number {
  const form = formOf(spec);
  return shardedSafetensorsBytes(
    weightItems(spec, dtype).map((item) => ({ ...item, name: storedName(form, item.name) })),
  );
}

/** The tensors of a folder under their canonical names, but for packed ones. */
function weightItems(spec: DecoderSpec, dtype: HfDtype): Omit<SafetensorsItem, "data">[] {
  const written = writtenSpec(spec), shapes = hfShapes(written);
  // A packed tensor takes the place of its first part.
  const packed = packedTensors(formOf(spec), written), first = new Map(packed.map((own) => [own.parts[0]?.name, own]));
  const others = new Set(packed.flatMap(({ parts }) => parts.slice(1).map(({ name }) => name)));
  const headNorms = Map.groupBy(headNormTensors(formOf(spec), written), ({ canonical }) => canonical);
  return [...shapes].filter(([name]) => !others.has(name)).flatMap(([name, shape]) => {
    const own = first.get(name), norms = headNorms.get(name);
    if (norms) return norms.map((norm) => ({ name: norm.name, shape: [spec.headDim], dtype: FILE_DTYPES[dtype] }));
    return [{ name: own?.name ?? name, shape: own?.shape ?? shape, dtype: FILE_DTYPES[dtype] }];
  });
}

/** The named templates of a tokenizer, with the template in use as the default; the template in use alone where there are no others. */
function templates(named: unknown, inUse: string): Json[string] {
  if (!Array.isArray(named)) return inUse;
  const others = named.filter((entry) => isObject(entry) && entry["name"] !== "default");
  return [{ name: "default", template: inUse }, ...others];
}

function finite(name: string, values: Float32Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  const bad = firstNonFinite(values);
  if (bad < 0) return values;
  throw new CompressoError("numeric", {
    what: `cannot write '${name}'`,
    rule: "weights are finite",
    value: `${values[bad]} at value ${bad}`,
    fix: "check the weight file",
  });
}

/** The model as a folder holds it: with the biases that its configuration implies, and fused where its class is. */
export function writtenSpec(spec: DecoderSpec): DecoderSpec {
  const form = formOf(spec), { fused: _, ...unfused } = spec;
  return withBiases(form === "phi3" || form === "compresso" ? spec : unfused, writtenBiases(spec));
}

/** The configuration that says the shape of a model. */
export function formOf(spec: DecoderSpec): HfForm {
  if (spec.norm) return layerNormForm(spec) ?? "compresso";
  if (spec.fused && isPhi3(spec)) return "phi3";
  if (spec.rope.dims !== undefined) return "compresso";
  const [first] = spec.layers, windows = windowsOf(spec), sliding = windows.filter((window) => window !== undefined);
  if (!first || !layersAlike(spec) || sliding.length > 1) return "compresso";
  if (!isLlamaLike(spec)) {
    return isGranite(spec) ? "granite" : isOlmo2(spec) ? "olmo2" : gemmaForm(spec) ?? "compresso";
  }
  if (!hasRopeEverywhere(spec)) return spec.qkNorm ? "compresso" : "smollm3";
  if (spec.qkNorm) return biasConfig(spec).mlp_bias || spec.qkNorm !== "head" ? "compresso" : "qwen3";
  if (spec.biases?.join() === QWEN2_BIASES.join()) return "qwen2";
  if (sliding.length > 0) return spec.biases?.length ? "compresso" : windows.length > 1 ? "ministral" : "mistral";
  if (spec.hidden % first.heads === 0) return "llama";
  return spec.biases?.length ? "compresso" : "mistral";
}

/** Whether transformers' Granite computes this model, of alike layers: a LLaMA with factors, without windows. */
function isGranite({ scales, ...spec }: DecoderSpec): boolean {
  return scales?.logits !== undefined && isLlamaLike(spec) && !spec.qkNorm && hasRopeEverywhere(spec) &&
    windowsOf(spec).every((window) => window === undefined);
}

/** Whether transformers' OLMo 2 computes this model, of alike layers: norms of outputs alone, and of q and k as wholes. */
function isOlmo2({ normPlaces, qkNorm, ...spec }: DecoderSpec): boolean {
  return normPlaces === "after" && qkNorm === "whole" && isLlamaLike(spec) && hasRopeEverywhere(spec) &&
    !biasConfig(spec).mlp_bias && windowsOf(spec).every((window) => window === undefined);
}

/** The keys of Granite's factors; attention's is always said, as the default there is 1. */
function graniteFactors({ scales = {}, headDim }: DecoderSpec): Json {
  return {
    embedding_multiplier: scales.embedding ?? 1,
    attention_multiplier: scales.attention ?? headDim ** -0.5,
    residual_multiplier: scales.residual ?? 1,
    logits_scaling: scales.logits ?? 1,
  };
}

/** The layers with RoPE (1) and those without (0), as SmolLM3's configuration lists them. */
function ropeLayers({ layers }: DecoderSpec): Json {
  return { no_rope_layers: layers.map(({ rope }) => rope === "none" ? 0 : 1) };
}

/** Whether all layers rotate queries and keys. */
function hasRopeEverywhere({ layers }: DecoderSpec): boolean {
  return layers.every(({ rope }) => rope !== "none");
}

/** Whether norms, activation, FFN, positions and factors are those of LLaMA. */
function isLlamaLike(spec: DecoderSpec): boolean {
  const { norm, normPlaces, activation, ungated, parallel, positions, scales, softCaps, rope } = spec;
  return [norm, normPlaces, activation, ungated, parallel, positions, scales, softCaps, rope.localBase].every((part) =>
    !part
  ) && !spec.headBias && !spec.embeddingWidth;
}

/**
 * Whether transformers' Phi-3 computes this model: one window for all layers, no biases, and RoPE that is not scaled or LongRoPE. Its configuration
 * counts the factors of LongRoPE against hidden size / heads, whatever the width of a head is.
 */
function isPhi3(spec: DecoderSpec): boolean {
  const { hidden, headDim, rope: { scaling }, layers: [first] } = spec;
  if (!first || !layersAlike(spec) || windowsOf(spec).length > 1 || spec.biases?.length || spec.qkNorm) return false;
  if (!isLlamaLike(spec) || !hasRopeEverywhere(spec)) return false;
  if (scaling.kind === "none") return true;
  const share = ropeDims(spec) / headDim;
  return scaling.kind === "longrope" &&
    Math.floor(Math.floor(Math.floor(hidden / first.heads) * share) / 2) === scaling.short.length;
}

const BIAS_KEYS: Readonly<Record<"attention_bias" | "mlp_bias", readonly Projection[]>> = {
  attention_bias: ["q", "k", "v", "o"],
  mlp_bias: ["gate", "up", "down"],
};

/** The two keys of a configuration that say which biases there are. */
function biasConfig(spec: DecoderSpec): Record<keyof typeof BIAS_KEYS, boolean> {
  const has = (key: keyof typeof BIAS_KEYS): boolean => BIAS_KEYS[key].some((projection) => hasBias(spec, projection));
  return { attention_bias: has("attention_bias"), mlp_bias: has("mlp_bias") };
}

/** The biases that a folder must hold, as its configuration can only say all or none of each block. */
export function writtenBiases(spec: DecoderSpec): readonly Projection[] {
  const form = formOf(spec);
  if (form === "qwen2") return QWEN2_BIASES;
  if (isLayerNormForm(form)) return layerNormBiases(form, spec);
  const config = biasConfig(spec);
  return PROJECTIONS.filter((projection) =>
    hasProjection(spec, projection) &&
    config[BIAS_KEYS.attention_bias.includes(projection) ? "attention_bias" : "mlp_bias"]
  );
}

/** Content of config.json, for transformers 5 and 4. */
export function hfConfig(spec: DecoderSpec, { dtype }: { readonly dtype: HfDtype }): Json {
  const form = formOf(spec);
  return {
    architectures: [form === "gpt2" ? "GPT2LMHeadModel" : `${CLASSES[form]}ForCausalLM`],
    model_type: form,
    ...isLayerNormForm(form) ? layerNormConfig(form, spec) : withOwnKeys(form, llamaConfig(form, spec)),
    tie_word_embeddings: spec.tied,
    use_cache: true,
    vocab_size: spec.vocab,
    ...tokenIds(spec, { nulls: true }),
    // transformers 5 reads the first, 4 the second.
    dtype: TORCH_DTYPES[dtype],
    torch_dtype: TORCH_DTYPES[dtype],
    // The first that reads what is written here as it is. Of a Mistral without it, tokenizers of many tokens are said to split texts wrongly.
    transformers_version: "5.0.0",
  };
}

function isLayerNormForm(form: HfForm): form is LayerNormForm {
  return LAYER_NORM_FORMS.some((own) => own === form);
}

/** The keys that LLaMA and its relatives share. */
function llamaConfig(form: Exclude<HfForm, LayerNormForm>, spec: DecoderSpec): Json {
  const most = (key: "heads" | "kvHeads" | "ffn"): number => Math.max(1, ...spec.layers.map((layer) => layer[key]));
  // Counts of all layers in one are only there to be read by tools where layers differ.
  const kvHeads = most("kvHeads"),
    heads = form === "compresso" ? Math.ceil(most("heads") / kvHeads) * kvHeads : most("heads");
  return {
    ...(form === "compresso" ? remoteCode(spec) : {}),
    ...formKeys(form, spec),
    attention_dropout: 0,
    hidden_act: ACTIVATION_NAMES[spec.activation ?? "silu"],
    hidden_size: spec.hidden,
    head_dim: spec.headDim,
    initializer_range: 0.02,
    intermediate_size: most("ffn"),
    max_position_embeddings: spec.maxPosition,
    num_attention_heads: heads,
    num_hidden_layers: spec.layers.length,
    num_key_value_heads: kvHeads,
    rms_norm_eps: spec.normEps,
    ...form === "gemma3_text" ? layeredRopeConfig(spec) : ropeConfig(spec),
  };
}

const CLASSES: Readonly<Record<HfForm, string>> = {
  llama: "Llama",
  mistral: "Mistral",
  ministral: "Ministral",
  qwen2: "Qwen2",
  qwen3: "Qwen3",
  gemma: "Gemma",
  gemma2: "Gemma2",
  gemma3_text: "Gemma3",
  opt: "OPT",
  gpt2: "GPT2",
  gpt_neox: "GPTNeoX",
  stablelm: "StableLm",
  phi: "Phi",
  phi3: "Phi3",
  smollm3: "SmolLM3",
  granite: "Granite",
  olmo2: "Olmo2",
  compresso: "Compresso",
};

/** Keys that a form alone has. */
function formKeys(form: Exclude<HfForm, LayerNormForm>, spec: DecoderSpec): Json {
  const { attention_bias, mlp_bias } = biasConfig(spec);
  if (form === "llama" || form === "compresso") return { attention_bias, mlp_bias };
  if (form === "gemma") return gemmaKeys(form, spec);
  if (form === "olmo2") return { attention_bias };
  if (form === "granite") return { attention_bias, mlp_bias, ...graniteFactors(spec) };
  return {
    ...form === "qwen3" || form === "smollm3" ? { attention_bias } : {},
    ...form === "gemma2" || form === "gemma3_text" ? gemmaKeys(form, spec) : {},
    ...form === "smollm3" ? { mlp_bias, ...ropeLayers(spec) } : {},
    ...windowKeys(form, spec),
  };
}

/** Writes 8 as 8.0 where transformers expects a float: 4 warns of an integer, 5 refuses some. */
function withFloats(json: string): string {
  return json.replace(
    /"(factor|low_freq_factor|high_freq_factor|rope_theta|\w+_softcapping)": (\d+)(?=[,\n])/g,
    '"$1": $2.0',
  );
}

function remoteCode(spec: DecoderSpec): Json {
  return {
    auto_map: {
      AutoConfig: "configuration_compresso.CompressoConfig",
      AutoModel: "modeling_compresso.CompressoModel",
      AutoModelForCausalLM: "modeling_compresso.CompressoForCausalLM",
    },
    ...spec.qkNorm ? { qk_norm: spec.qkNorm } : {},
    ...spec.normPlaces ? { norm_places: spec.normPlaces } : {},
    ...spec.embeddingWidth ? { embedding_width: spec.embeddingWidth } : {},
    ...spec.scales?.embedding ? { embedding_scale: spec.scales.embedding } : {},
    ...spec.scales?.attention ? { attention_scale: spec.scales.attention } : {},
    ...spec.softCaps?.attention ? { attn_logit_softcapping: spec.softCaps.attention } : {},
    ...spec.softCaps?.logits ? { final_logit_softcapping: spec.softCaps.logits } : {},
    ...spec.scales?.residual ? { residual_multiplier: spec.scales.residual } : {},
    ...spec.scales?.logits ? { logits_scaling: spec.scales.logits } : {},
    ...spec.rope.localBase ? { local_rope_theta: spec.rope.localBase } : {},
    ...spec.layers.some(({ rope }) => rope) ? { layer_ropes: spec.layers.map(({ rope = null }) => rope) } : {},
    ...spec.norm ? { norm: spec.norm } : {},
    ...spec.ungated ? { ungated_mlp: true } : {},
    ...spec.parallel ? { parallel: spec.parallel } : {},
    ...spec.headBias ? { head_bias: true } : {},
    ...spec.positions ? { position_offset: spec.positions.offset } : {},
    ...spec.fused ? { fused: true } : {},
    layer_counts: spec.layers.map(({ heads, kvHeads, ffn }) => ({
      num_attention_heads: heads,
      num_key_value_heads: kvHeads,
      intermediate_size: ffn,
    })),
    ...spec.layers.some(({ window }) => window !== undefined)
      ? { layer_windows: spec.layers.map(({ window = null }) => window) }
      : {},
  };
}

function tokenIds({ bosId, eosIds, padId }: DecoderSpec, { nulls }: { readonly nulls: boolean }): Json {
  const ids: Json = {
    bos_token_id: bosId,
    eos_token_id: eosIds.length > 1 ? [...eosIds] : eosIds[0] ?? null,
    pad_token_id: padId,
  };
  return nulls ? ids : Object.fromEntries(Object.entries(ids).filter(([, value]) => value !== null));
}
