// A model as a Hugging Face folder.
import { refuse } from "../../core/errors.ts";
import {
  type DecoderSpec,
  EMBEDDING,
  hasProjection,
  type Projection,
  PROJECTIONS,
  tensorShapes,
  withBiases,
} from "../../spec/decoder.ts";
import { familyFor } from "../../families/all.ts";
import type { Family } from "../../families/family.ts";
import { misfits } from "../../families/fit.ts";
import { activationName, ATTENTION, biasKeys } from "../../families/shared.ts";
import { type FileSystem, type Staged, writeFile } from "../../files/system.ts";
import { firstNonFinite } from "../../core/half.ts";
import { fusedModuleName, fusedTensors, joined } from "../fused.ts";
import { fusionsOf, hfShapes } from "./model.ts";
import { expertTensors } from "./experts.ts";
import { headNormTensors } from "./head_norms.ts";
import { beforeNorm, isPlainNorm } from "./plain_norms.ts";
import { ropeConfig } from "./rope_export.ts";
import { pack, packedTensors } from "./packed.ts";
import { ownKey } from "./config.ts";
import { shapeInFolder } from "./taps.ts";
import { storedName, storedPlus } from "./stored.ts";
import { elementCount } from "../../spec/row_range.ts";
import { type SafetensorsItem, shardedSafetensorsBytes, writeShardedSafetensors } from "../safetensors/write.ts";
import type { WeightSource } from "../../spec/source.ts";
import { isObject, type Json } from "../../core/guards.ts";
import { tokenText } from "../../text/tokenizer_json.ts";
import { INPUT_NAMES, type Tokenizer } from "../../text/tokenizer.ts";

/** Dtypes of a folder's weights. */
export type HfDtype = "f32" | "f16" | "bf16";

/** How to export. */
export interface HfExportOptions {
  readonly dtype: HfDtype;
  /** Null writes a folder without tokenizer. */
  readonly tokenizer: Tokenizer | null;
  /** Further keys of generation_config.json, such as temperature. */
  readonly generation?: Json;
  /** Whether a folder that is there may be replaced; default false. */
  readonly replace?: boolean;
  /** Further text files of the folder, such as README.md: content by file name. Default: none. */
  readonly texts?: Readonly<Record<string, string>>;
  /** Weights above this many bytes are cut into several files; default 5 GB. */
  readonly maxShardBytes?: number;
  readonly signal?: AbortSignal | undefined;
}

const TORCH_DTYPES: Readonly<Record<HfDtype, string>> = { f32: "float32", f16: "float16", bf16: "bfloat16" };
const FILE_DTYPES = { f32: "F32", f16: "F16", bf16: "BF16" } as const;

/**
 * Writes the model as a staged folder. The first family of `FAMILIES` whose class holds the model says config.json and the
 * tensors' names. If none does, as where layers differ, the class is our own, whose Python files are written too; the layout
 * `padded` makes such layers alike. Biases that config.json announces and the model does not have are zeros.
 *
 * @throws CompressoError("input") if the folder is not empty, if RoPE factors have no name here, and for experts that no class has.
 * @throws CompressoError("numeric") for weights that are not finite, and as the writer of safetensors.
 */
export async function stageHf(
  source: WeightSource,
  folder: string,
  options: HfExportOptions & { readonly files: FileSystem },
): Promise<Staged & { readonly family: Family }> {
  const { spec } = source, { dtype, tokenizer, files, signal } = options;
  const family = familyFor(spec), [misfit] = misfits(spec, family.stock);
  if (misfit) refuse("input", "cannot write the model as a folder", misfit);
  const config = hfConfig(spec, { dtype });
  const written = writtenSpec(spec), own = tensorShapes(spec), shapes = tensorShapes(written);
  const fused = [...fusedTensors(written, fusionsOf(written)).values()];
  const parts = new Map(fused.map((whole) => [fusedModuleName(whole), whole.parts.map(({ name }) => name)]));
  const packed = new Map(packedTensors(family, written).map((tensor) => [tensor.name, tensor]));
  const experts = new Map(expertTensors(family, written).map((tensor) => [tensor.name, tensor]));
  const headNorms = new Map(headNormTensors(family, written).map((tensor) => [tensor.name, tensor]));
  const read = async (name: string): Promise<Float32Array<ArrayBuffer>> =>
    own.has(name) ? finite(name, await source.read(name)) : new Float32Array(elementCount(shapes.get(name) ?? []));
  const items = weightItems(spec, dtype).map((item): SafetensorsItem => ({
    ...item,
    name: storedName(family, item.name),
    data: async () => {
      signal?.throwIfAborted();
      const stack = experts.get(item.name);
      if (stack) {
        return joined(
          await Promise.all(stack.parts.map(async ({ name, rows }) => finite(name, await source.read(name, rows)))),
        );
      }
      const tensor = packed.get(item.name);
      if (tensor) return pack(tensor, await Promise.all(tensor.parts.map(({ name }) => read(name))));
      const norm = headNorms.get(item.name);
      if (norm) return (await read(norm.canonical)).subarray(norm.first, norm.first + written.headDim);
      const names = parts.get(item.name), plus = storedPlus(family, item.name);
      const values = names ? joined(await Promise.all(names.map(read))) : await read(item.name);
      if (item.name === EMBEDDING && family.tensors?.plainNorms) return beforeNorm(values, spec);
      return plus === 0 ? values : values.map((value) => value - plus);
    },
  }));
  const staged = await files.stageFolder(folder, async (path) => {
    const text = (name: string, content: string): Promise<void> => writeFile(files, `${path}/${name}`, content);
    const json = (name: string, value: unknown): Promise<void> => text(name, `${JSON.stringify(value, null, 2)}\n`);
    await text("config.json", withFloats(`${JSON.stringify(config, null, 2)}\n`));
    await json("generation_config.json", { ...tokenIds(spec, { nulls: false }), ...options.generation });
    if (family.remoteCode) {
      const { configurationText, modelingText } = await import("./remote_code.ts");
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
  return { ...staged, family };
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
  const family = familyFor(spec);
  return shardedSafetensorsBytes(
    weightItems(spec, dtype).map((item) => ({ ...item, name: storedName(family, item.name) })),
  );
}

/** The tensors of a folder under their canonical names, but for packed ones. */
function weightItems(spec: DecoderSpec, dtype: HfDtype): Omit<SafetensorsItem, "data">[] {
  const family = familyFor(spec), written = writtenSpec(spec), shapes = hfShapes(written);
  // A packed tensor takes the place of its first part.
  const packed = packedTensors(family, written), first = new Map(packed.map((own) => [own.parts[0]?.name, own]));
  const others = new Set(packed.flatMap(({ parts }) => parts.slice(1).map(({ name }) => name)));
  const headNorms = Map.groupBy(headNormTensors(family, written), ({ canonical }) => canonical);
  const experts = expertTensors(family, written);
  const ofExperts = new Set(experts.flatMap(({ parts }) => parts.map(({ name }) => name)));
  const stacks = experts.map(({ name, shape, isExact }) => ({
    name,
    shape,
    dtype: FILE_DTYPES[isExact ? "f32" : dtype],
  }));
  return [
    ...stacks,
    ...[...shapes].filter(([name]) => !others.has(name) && !ofExperts.has(name) && !isPlainNorm(family, name)).flatMap(
      ([name, shape]) => {
        const own = first.get(name), norms = headNorms.get(name);
        if (norms) return norms.map((norm) => ({ name: norm.name, shape: [spec.headDim], dtype: FILE_DTYPES[dtype] }));
        return [{
          name: own?.name ?? name,
          shape: own?.shape ?? shapeInFolder(name, shape),
          dtype: FILE_DTYPES[dtype],
        }];
      },
    ),
  ];
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
  refuse("numeric", `cannot write '${name}'`, {
    rule: "weights are finite",
    value: `${values[bad]} at value ${bad}`,
    fix: "check the weight file",
  });
}

/** The model as a folder holds it: with the biases that its configuration implies, and with the matrices and rows of its class. */
export function writtenSpec(spec: DecoderSpec): DecoderSpec {
  const { fused, neighbours: _, plainNorms: __, ...plain } = spec;
  const { keepsFused, neighbours, plainNorms } = familyFor(spec).tensors ?? {};
  const written = {
    ...plain,
    ...keepsFused && fused ? { fused } : {},
    ...neighbours ? { neighbours: true as const } : {},
    ...plainNorms ? { plainNorms } : {},
  };
  return withBiases(written, writtenBiases(spec));
}

/** The biases that a folder must hold. Most configs can announce only all biases or no bias of attention or the FFN. */
export function writtenBiases(spec: DecoderSpec): readonly Projection[] {
  const own = familyFor(spec).stock.biases?.(spec);
  if (own) return own;
  const { attention_bias: attention, mlp_bias: ffn } = biasKeys(spec);
  return PROJECTIONS.filter((one) => hasProjection(spec, one) && (ATTENTION.includes(one) ? attention : ffn));
}

/** Content of config.json, for transformers 5 and 4. */
export function hfConfig(spec: DecoderSpec, { dtype }: { readonly dtype: HfDtype }): Json {
  const family = familyFor(spec), { stock } = family;
  return {
    architectures: [family.architecture],
    model_type: family.type,
    ...stock.config?.(spec, { rope: ropeConfig(spec) }) ?? llamaConfig(family, spec),
    tie_word_embeddings: spec.tied,
    use_cache: true,
    vocab_size: spec.vocab,
    ...tokenIds(spec, { nulls: true }),
    // transformers 5 reads the first, 4 the second.
    dtype: TORCH_DTYPES[dtype],
    torch_dtype: TORCH_DTYPES[dtype],
    // transformers 5.0.0 is the first to read these files unchanged. Without the field it warns that Mistral tokenizers split text wrongly.
    transformers_version: "5.0.0",
  };
}

/** The keys of LLaMA and its relatives, under the names of the family. */
function llamaConfig(family: Family, spec: DecoderSpec): Json {
  const most = (key: "heads" | "kvHeads" | "ffn"): number => Math.max(1, ...spec.layers.map((layer) => layer[key]));
  // Counts of all layers in one are only there to be read by tools where layers differ.
  const kvHeads = most("kvHeads"), heads = Math.ceil(most("heads") / kvHeads) * kvHeads;
  const own = family.stock.keys?.(spec);
  const keys = {
    ...own,
    attention_dropout: 0,
    hidden_act: activationName(spec),
    hidden_size: spec.hidden,
    head_dim: spec.headDim,
    initializer_range: 0.02,
    intermediate_size: own?.["intermediate_size"] ?? most("ffn"),
    max_position_embeddings: spec.maxPosition,
    num_attention_heads: heads,
    num_hidden_layers: spec.layers.length,
    num_key_value_heads: own?.["num_key_value_heads"] ?? kvHeads,
    rms_norm_eps: spec.normEps,
    ...family.stock.ropeKeys?.(ropeConfig(spec)) ?? ropeConfig(spec, family.rope),
  };
  return Object.fromEntries(Object.entries(keys).map(([key, value]) => [ownKey(family, key), value]));
}

/** Writes 8 as 8.0 where transformers expects a float: 4 warns of an integer, 5 refuses some. */
function withFloats(json: string): string {
  return json.replace(
    /"(factor|routed_scaling_factor|low_freq_factor|high_freq_factor|rope_theta|\w+_softcapping)": (\d+)(?=[,\n])/g,
    '"$1": $2.0',
  );
}

function tokenIds({ bosId, eosIds, padId }: DecoderSpec, { nulls }: { readonly nulls: boolean }): Json {
  const ids: Json = {
    bos_token_id: bosId,
    eos_token_id: eosIds.length > 1 ? [...eosIds] : eosIds[0] ?? null,
    pad_token_id: padId,
  };
  return nulls ? ids : Object.fromEntries(Object.entries(ids).filter(([, value]) => value !== null));
}
