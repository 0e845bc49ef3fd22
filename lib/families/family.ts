// The record of a family of models: what its files say, hold and take for granted where that is not what LLaMA's do.
import { z } from "../core/packages.ts";
import type { Json } from "../core/guards.ts";
import type { Activation, DecoderSpec, ExpertMatrix, LayerSpec, Projection } from "../spec/decoder.ts";
import type { Fit } from "./fit.ts";
import type { GgufArch } from "./gguf_arch.ts";

const count = z.int().positive();
/**
 * Far more than any model has: planning takes time and memory for each layer, and no tensor checks these sizes then.
 * Llama 3.1 405B has 126 layers of 128 heads and 53,248 columns.
 */
const MOST_LAYERS = 1024, MOST_TOKENS = 2 ** 24;
/** Most heads and columns. */
export const MOST_WIDTH = 2 ** 20;
/** Schema of a width. */
export const width: z.ZodInt = count.max(MOST_WIDTH);
const tokenId = z.int().nullish();
const tokenIds = z.union([z.int(), z.array(z.int())], { error: "expected a token id or a list of them" }).nullish();

/** Keys of the special tokens, in config.json and generation_config.json. */
export const TOKEN_KEYS = { bos_token_id: tokenId, eos_token_id: tokenIds, pad_token_id: tokenId };

/** Keys that every family has, under LLaMA's names. */
export const CONFIG = z.looseObject({
  vocab_size: count.max(MOST_TOKENS),
  hidden_size: width,
  num_hidden_layers: count.max(MOST_LAYERS),
  intermediate_size: width.nullish(),
  num_attention_heads: width.nullish(),
  num_key_value_heads: width.nullish(),
  head_dim: width.nullish(),
  hidden_act: z.string().nullish(),
  max_position_embeddings: count.nullish(),
  rms_norm_eps: z.number().positive().nullish(),
  tie_word_embeddings: z.boolean().nullish(),
  // Windows.
  sliding_window: count.nullish(),
  use_sliding_window: z.boolean().nullish(),
  max_window_layers: z.int().nonnegative().nullish(),
  layer_types: z.array(z.enum(["full_attention", "sliding_attention"])).nullish(),
  quantization_config: z.null().optional(),
  // Of transformers 5: layers that differ, which its stock classes do not load.
  per_layer_config: z.null().optional(),
  ...TOKEN_KEYS,
});

/** A parsed config.json under LLaMA's names, without the keys of one family. */
export type Config = z.infer<typeof CONFIG>;

/** What a layer has beyond its counts. */
export interface LayerParts {
  /** Window in tokens, null or absent for none. */
  readonly window?: number | null | undefined;
  readonly rope?: LayerSpec["rope"] | undefined;
  /** FFN columns, where they are not those of the configuration: those of a shared expert, or 0. */
  readonly ffn?: number | undefined;
  readonly experts?: LayerSpec["experts"] | undefined;
  /** A short convolution in place of attention. */
  readonly conv?: LayerSpec["conv"] | undefined;
}

/** What a family computes where that is not what LLaMA does, and its projections with biases. */
export type Parts =
  & {
    readonly [
      Key in
        | "norm"
        | "normPlaces"
        | "normEps"
        | "parallel"
        | "router"
        | "convolution"
        | "ungated"
        | "positions"
        | "headBias"
        | "embeddingWidth"
        | "qkNorm"
        | "qkNormAfter"
        | "valueNorm"
        | "layerScale"
        | "localHeadDim"
        | "plainNorms"
        | "scales"
        | "softCaps"
        | "fused"
        | "biases"
    ]?: DecoderSpec[Key] | undefined;
  }
  & { readonly localBase?: number | undefined };

/** What {@link Family.read} gives. */
export interface FamilyParts extends Parts {
  /** The counts of each layer, where they differ. */
  readonly counts?: readonly LayerSpec[] | undefined;
  /** What each layer has beyond its counts. */
  readonly layer?: (index: number) => LayerParts;
}

/** What a family's reader is given in addition to the configuration. */
export interface ReadContext {
  readonly headDim: number;
  /** Refuses a key, by its name in LLaMA. */
  fail(key: string, rule: string): never;
  /** The family's own keys, checked. */
  own<T>(schema: z.ZodType<T>): T;
}

/** How a family's configuration says RoPE. */
export interface RopeRules {
  /** Base where the configuration says none. Default: 10000. */
  readonly base?: number;
  /** A part of each head may rotate. */
  readonly isPartial?: true;
  /**
   * Layers with a window have a RoPE without scaling, and this base where the configuration says none; "same" stands for that of the other layers.
   */
  readonly localBase?: number | "same";
  /** The scaling "dynamic" with `alpha` stretches the base. The length of the text does not matter. */
  readonly hasAlpha?: true;
  /** Queries grow with the position: `llama_4_scaling_beta` with YaRN is "needed" or "possible". Other families ignore it. */
  readonly queryGrowth?: "needed" | "possible";
  /** "proportional": the share of the frequencies that the configuration says is as it is, and the other dims do not turn. */
  readonly isProportional?: true;
  /** LongRoPE is the only scaling; the original context where the configuration says none. */
  readonly longRope?: { readonly originalMaxPosition: number };
}

/** Renames parts of canonical names, in turn. */
export type Renames = readonly (readonly [from: RegExp, to: string])[];

/** Projections that a folder holds in one module of the layer, one after another or, with `byHead`, alternating by head. */
export interface Packing {
  readonly module: string;
  readonly parts: readonly Projection[];
  readonly byHead?: true;
}

/** Where a folder holds the experts of a layer, below `model.layers.N.`, without `.weight`; `#` stands for the number of an expert. */
export interface ExpertModules {
  readonly router: string;
  /** A module for each matrix of each expert. */
  readonly each?: Readonly<Record<ExpertMatrix, string>>;
  /** The matrices of all experts as one tensor: [experts, 2 · ffn, hidden], gate before up, and [experts, hidden, ffn]. */
  readonly all?: { readonly gateUp: string; readonly down: string };
  /** The bias of the choice, with its last part; a folder may hold it as one row, [1, experts]. */
  readonly choiceBias?: { readonly name: string; readonly isRow?: true };
  /** The block of the shared expert, where the layer has one. */
  readonly shared?: string;
}

/** How a family's folder stores what the canonical tensors hold. */
export interface TensorRules {
  /** The matrices of a `fused` model are one here too. */
  readonly keepsFused?: true;
  readonly renames?: Renames;
  /** Whether a tensor of a folder belongs to parts that predict further tokens, which are not read. */
  readonly isIdle?: (name: string, spec: DecoderSpec) => boolean;
  /** Of a family with experts. */
  readonly experts?: ExpertModules;
  /** What all names but the head's begin with: files of the model without its head lack it. */
  readonly prefix?: string;
  /** What is added to the stored weights of norms. */
  readonly normPlus?: number;
  readonly packed?: readonly Packing[];
  /** Projections that are stored [in, out], packed ones too. */
  readonly transposed?: readonly Projection[];
  /**
   * RoPE turns neighbours (2i, 2i + 1) of a head of q and k, whose rows are in another order then; "halves" where it turns the halves of a head the
   * other way round, which is the same as with the halves exchanged.
   */
  readonly neighbours?: true | "halves";
  /** Norms have no weights, and the embedding is normalised; see `plainNorms` of the spec. */
  readonly plainNorms?: true;
  /** Whether a layer without v takes its keys, before their norm, for values; they are read as a v of its own. */
  readonly valuesAreKeys?: (config: Json, layer: LayerSpec) => boolean;
  /** Name of the norm of a head, where each has a tensor. */
  readonly headNorm?: (place: { readonly layer: number; readonly of: "q" | "k"; readonly head: number }) => string;
}

/** What the writer of a configuration has made of a spec. */
export interface WriteContext {
  /** The keys of RoPE. */
  readonly rope: Json;
}

/** The class of transformers: which models it holds, and how config.json says them. */
export interface Stock extends Fit {
  /** Biases that a folder holds. Default: the biases that `attention_bias` and `mlp_bias` can announce. */
  readonly biases?: (spec: DecoderSpec) => readonly Projection[];
  /** Keys beyond LLaMA's. */
  readonly keys?: (spec: DecoderSpec) => Json;
  /** Keys of RoPE from those of LLaMA, where they differ. */
  readonly ropeKeys?: (rope: Json) => Json;
  /** All keys of the shape, where they are not LLaMA's. */
  readonly config?: (spec: DecoderSpec, context: WriteContext) => Json;
}

/** A family of models. */
export interface Family {
  /** `model_type` of config.json. */
  readonly type: string;
  /** Its name in texts. */
  readonly label: string;
  /** What its models have that LLaMA's do not, in a few words of the guide. */
  readonly about?: string;
  /** The class of transformers, as `architectures` names it. */
  readonly architecture: string;
  /** Model types around its `text_config` that are read. */
  readonly wrappers?: readonly string[];
  /** Its names for LLaMA's keys. */
  readonly names?: Readonly<Record<string, string>>;
  /** A configuration in the form that the other fields are about, where files say it in several. */
  readonly inOneForm?: (json: Json) => Json;
  /** Values of keys that a configuration leaves out, under LLaMA's names, where they are not LLaMA's. */
  readonly defaults?: Json;
  /** FFN columns per hidden dim, where the configuration says none. */
  readonly ffnFactor?: number;
  /** Special tokens that a configuration leaves out: 1, 2 and none in LLaMA. */
  readonly ids?: {
    readonly bos?: number | null;
    readonly eos?: number | readonly number[] | null;
    readonly pad?: number;
  };
  /** Activations by their names in the configuration, the default first. Default: silu. */
  readonly activations?: Readonly<Record<string, Activation>>;
  readonly rope?: RopeRules;
  /** Keys that it has and LLaMA's relatives do not all have. */
  readonly keys: readonly string[];
  read(config: Config, context: ReadContext): FamilyParts;
  readonly tensors?: TensorRules;
  readonly stock: Stock;
  /** Whether its head width follows from the number of heads, which is fixed then. */
  readonly derivesHeads?: true;
  /** Whether its folders need Python files that are written into them. */
  readonly remoteCode?: true;
  /**
   * Programs that load its folders: "widely" for others than transformers 4 and 5 too, also by a condition; "transformers 5" for that alone.
   * Default: transformers 4 and 5.
   */
  readonly programs?: "widely" | "transformers 5" | ((spec: DecoderSpec) => boolean);
  /** The architectures of llama.cpp whose models are of this family. */
  readonly gguf?: readonly GgufArch[];
}

/** What {@link family} takes: a record whose reader gets its own keys with their types. */
export type FamilyRecord<Keys extends z.ZodRawShape> = Omit<Family, "keys" | "read"> & {
  /** Schemas of keys beyond {@link CONFIG}. */
  readonly keys?: Keys;
  readonly read?: (config: Config & z.infer<z.ZodObject<Keys>>, context: ReadContext) => FamilyParts;
};

/** A family of models. */
export function family<Keys extends z.ZodRawShape>({ keys, read, ...record }: FamilyRecord<Keys>): Family {
  const schema = keys && z.looseObject(keys) as unknown as z.ZodType<z.infer<z.ZodObject<Keys>>>;
  return {
    ...record,
    keys: Object.keys(keys ?? {}),
    read: (config, context) =>
      read?.({ ...config, ...schema ? context.own(schema) : {} as z.infer<z.ZodObject<Keys>> }, context) ?? {},
  };
}

/** Whether a layer has the window: by `layer_types` where they are given. */
export function slides({ layer_types: types }: Config, index: number, implied = true): boolean {
  return types ? types[index] === "sliding_attention" : implied;
}
