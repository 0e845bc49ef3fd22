// config.json of a Hugging Face folder as a DecoderSpec.
import { z } from "../../core/packages.ts";
import { type DecoderSpec, type LayerSpec, withBiases, withWindow } from "../../spec/decoder.ts";
import { withoutUndefined } from "../../core/check_options.ts";
import { shownJson } from "../../core/text.ts";
import { isObject, type Json } from "../../core/guards.ts";
import { FOREIGN_KEYS } from "../../families/all.ts";
import { CONFIG, type Config, type Family, type LayerParts, TOKEN_KEYS } from "../../families/family.ts";
import { keyError, valueAt } from "./key_error.ts";
import { ropeOf } from "./rope.ts";
import { textConfig } from "./text_config.ts";

/** Most heads and FFN columns of all layers: planning takes time and memory for each, and no tensor checks these sizes then. */
const MOST_UNITS = 2 ** 23;

const GENERATION = z.looseObject(TOKEN_KEYS);

/** What the two files say, as parsed JSON; `path` is named in errors. */
export interface HfConfigFiles {
  readonly path: string;
  /** generation_config.json, where there is one: its end tokens are added to those of config.json; its other tokens are used where config.json names none. */
  readonly generation?: unknown;
}

type Fail = (key: string, rule: string) => never;

/** What this file says of one configuration. */
interface Context {
  readonly path: string;
  readonly config: Config;
  readonly family: Family;
  /** Refuses a key, by its name in LLaMA. */
  readonly fail: Fail;
}

/**
 * Reads a parsed config.json of a family of `MODEL_TYPES`.
 *
 * @throws CompressoError("input") naming the key, its value and the rule, if a {@link DecoderSpec} cannot describe the model.
 */
export function parseHfConfig(whole: unknown, files: HfConfigFiles): DecoderSpec {
  const { path } = files;
  if (!isObject(whole)) {
    throw keyError(path, { key: "the file", rule: "expected object", value: shownJson(whole) });
  }
  const { family, json } = textConfig(whole, path),
    { defaults = {} } = family,
    given = withoutIdleWindow({ ...defaults, ...underLlamaKeys(family, family.inOneForm?.(json) ?? json) });
  checkOwnNames(family, json, path);
  const check = <T>(schema: z.ZodType<T>, value: unknown, where = path): T =>
    validated(schema, value, { path: where, family });
  const config = check(CONFIG, given);
  const fail: Fail = (llamaKey, rule) => {
    const key = ownKey(family, llamaKey);
    throw keyError(path, { key, rule, value: shownJson(valueAt(given, [llamaKey])) });
  };
  const context: Context = { path, config, family, fail };
  for (const key of FOREIGN_KEYS) {
    const value = given[key];
    if (value && value !== 1 && !family.keys.includes(key)) {
      fail(key, `a ${family.type} does not have it: it would be ignored`);
    }
  }
  // transformers' own defaults, for keys that old files leave out.
  const maxPosition = config.max_position_embeddings ?? 2048, headDim = config.head_dim ?? impliedHeadDim(context);
  const { counts, layer, biases = [], localBase, ...parts } = family.read(config, {
    headDim,
    fail,
    own: (schema) => check(schema, given),
  });
  if (headDim % 2 !== 0) fail("head_dim", "it is even");
  const ropeContext = { maxPosition, headDim, path, rules: family.rope };
  return withBiases({
    vocab: config.vocab_size,
    hidden: config.hidden_size,
    headDim,
    layers: layersOf(context, counts, { layer, maxPosition }),
    normEps: config.rms_norm_eps ?? 1e-6,
    ...activationOf(context),
    ...withoutUndefined(parts),
    ...family.tensors?.neighbours ? { neighbours: true as const } : {},
    rope: parts.positions
      ? NO_ROPE
      : { ...ropeOf(given, ropeContext), ...localBase === undefined ? {} : { localBase } },
    tied: config.tie_word_embeddings ?? false,
    maxPosition,
    ...tokensOf(context, given, check(GENERATION, files.generation ?? {}, `${path} (generation_config.json)`)),
  }, biases);
}

/** transformers writes a window of 0 for a model whose switch turns windows off. */
function withoutIdleWindow(given: Json): Json {
  return given["use_sliding_window"] === false && given["sliding_window"] === 0
    ? { ...given, sliding_window: null }
    : given;
}

/** Stands in a spec with learned positions. */
const NO_ROPE: DecoderSpec["rope"] = { base: 10000, scaling: { kind: "none" } };

/** A parsed config.json under LLaMA's keys. What a family's own name says goes before what LLaMA's says. */
function underLlamaKeys({ names = {} }: Family, json: Json): Json {
  const llama = new Map(Object.entries(names).map(([key, own]) => [own, key])), entries = Object.entries(json);
  return Object.fromEntries([
    ...entries.filter(([key]) => !llama.has(key)),
    ...entries.flatMap(([key, value]) => llama.has(key) ? [[llama.get(key) ?? key, value]] : []),
  ]);
}

/** Keys that transformers takes by LLaMA's names too where a family has others. */
const SIZE_KEYS = ["hidden_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers"];

/** Keys that other families have with the same meaning, under another name. */
const RENAMED_KEYS = [...SIZE_KEYS, "rms_norm_eps", "hidden_act", "rope_theta", "partial_rotary_factor"];

/**
 * Refuses LLaMA's name of a key that the family names otherwise, where it says something else than the family's own name
 * or default: the family's class ignores it.
 */
function checkOwnNames(family: Family, json: Json, path: string): void {
  const { names = {}, defaults = {}, activations = {}, rope, type } = family;
  const implied: Json = { rope_theta: rope?.base ?? 10000, hidden_act: Object.keys(activations)[0], ...defaults };
  const meant = (key: string, value: unknown): unknown =>
    key === "hidden_act" && typeof value === "string" && Object.hasOwn(activations, value) ? activations[value] : value;
  for (const [key, name] of Object.entries(names)) {
    const value = json[key] ?? null, own = json[name];
    if (value === null || !RENAMED_KEYS.includes(key) || (own === undefined && SIZE_KEYS.includes(key))) continue;
    const said = own === undefined || (own === null && key === "hidden_act") ? implied[key] : own;
    if (said === undefined || meant(key, value) === meant(key, said)) continue;
    const rule = `a ${type} names it ${name}, which is ${shownJson(said)} here: another value would be ignored`;
    throw keyError(path, { key, rule, value: shownJson(value), fix: `remove it, or set ${name}` });
  }
}

/** The name that a family gives to a key of LLaMA. */
export function ownKey({ names }: Family, key: string): string {
  return names?.[key] ?? key;
}

function activationOf({ family, config, fail }: Context): Pick<DecoderSpec, "activation"> {
  const known = family.activations ?? { silu: "silu" }, [first = ""] = Object.keys(known);
  const name = config.hidden_act ?? first, activation = Object.hasOwn(known, name) ? known[name] : undefined;
  if (!activation) return fail("hidden_act", `a supported ${family.type} has ${Object.keys(known).join(" or ")}`);
  return activation === "silu" ? {} : { activation };
}

/** The special tokens: those of generation_config.json where config.json names none, and its end tokens in addition. */
function tokensOf(
  { config, family: { ids = {} }, path, fail }: Context,
  given: Json,
  generation: z.infer<typeof GENERATION>,
): Pick<DecoderSpec, "bosId" | "eosIds" | "padId"> {
  const { bos = 1, eos = 2, pad = null } = ids, { vocab_size: vocab } = config;
  const listOf = (value: number | readonly number[] | null | undefined): number[] =>
    typeof value === "number" ? [value] : [...value ?? []];
  const has = (key: string): boolean => given[key] !== undefined;
  const hasRow = (id: number): boolean => id >= 0 && id < vocab;
  // An id that only generation_config.json has, and that has no row, is ignored.
  const other = (id: number | null | undefined): number | null => hasRow(id ?? -1) ? id ?? null : null;
  const eosIds = new Set([
    ...has("eos_token_id") ? listOf(config.eos_token_id) : listOf(eos),
    ...listOf(generation.eos_token_id),
  ]);
  const bosId = config.bos_token_id ?? other(generation.bos_token_id) ?? (has("bos_token_id") ? null : bos);
  const padId = config.pad_token_id ?? other(generation.pad_token_id) ?? (has("pad_token_id") ? null : pad);
  const rule = `token ids lie from 0 to vocab_size − 1 = ${vocab - 1}`;
  const badEnd = listOf(generation.eos_token_id).find((id) => !hasRow(id));
  if (badEnd !== undefined) {
    const where = `${path} (generation_config.json)`;
    throw keyError(where, { key: "eos_token_id", rule, value: String(badEnd), fix: "remove it there" });
  }
  for (const id of eosIds) if (!hasRow(id)) fail("eos_token_id", rule);
  if (bosId !== null && !hasRow(bosId)) fail("bos_token_id", rule);
  // LLaMA 1 says "no padding" with −1.
  if (padId !== null && padId !== -1 && !hasRow(padId)) fail("pad_token_id", rule);
  return { bosId, eosIds: [...eosIds], padId: padId === -1 ? null : padId };
}

function impliedHeadDim({ config: { num_attention_heads: heads, hidden_size: hidden }, fail }: Context): number {
  if (!heads) return fail("head_dim", "it is given where num_attention_heads is not");
  if (hidden % heads !== 0) {
    fail("num_attention_heads", `it divides hidden_size = ${hidden} where head_dim is not given`);
  }
  return hidden / heads;
}

/** The layers with their windows, which are left out where they are no shorter than the context. */
function layersOf(
  context: Context,
  counts: readonly LayerSpec[] | undefined,
  { layer, maxPosition }: {
    readonly layer: ((index: number) => LayerParts) | undefined;
    readonly maxPosition: number;
  },
): LayerSpec[] {
  const { config: { layer_types: types, num_hidden_layers: length }, fail } = context;
  if (types && types.length !== length) {
    fail("layer_types", `it has an entry for each of num_hidden_layers = ${length} layers`);
  }
  const layers = counts ?? Array<LayerSpec>(length).fill(countsOf(context));
  const own = layers.map((_, index) => layer?.(index) ?? {});
  const units = layers.reduce((sum, { heads, ffn }, index) => sum + heads + ffn + (own[index]?.experts?.count ?? 0), 0);
  if (units > MOST_UNITS) {
    fail("num_hidden_layers", `all layers have at most ${MOST_UNITS} heads and FFN columns, not ${units}`);
  }
  if (types?.includes("sliding_attention") && !own.some(({ window }) => window)) {
    fail("layer_types", "sliding_attention needs sliding_window, and use_sliding_window where the family has it");
  }
  return layers.map((counts, index): LayerSpec => {
    const { window, rope, ffn, experts, conv } = own[index] ?? {};
    return {
      ...withWindow(counts, window && window < maxPosition ? window : undefined),
      ...ffn === undefined ? {} : { ffn },
      ...experts ? { experts } : {},
      ...rope ? { rope } : {},
      ...conv ? { heads: 0, kvHeads: 0, conv } : {},
    };
  });
}

function countsOf({ config, family: { ffnFactor }, fail }: Context): LayerSpec {
  const heads = config.num_attention_heads ?? fail("num_attention_heads", "it is given");
  const implied = ffnFactor === undefined ? null : ffnFactor * config.hidden_size;
  const ffn = config.intermediate_size ?? implied ?? fail("intermediate_size", "it is given");
  // Null means as many KV heads as heads, even if the family has another default.
  const kvHeads = config.num_key_value_heads ?? heads;
  if (heads % kvHeads !== 0) fail("num_key_value_heads", `it divides num_attention_heads = ${heads}`);
  return { heads, kvHeads, ffn };
}

/** Parses with zod; an error names the first key that is wrong. */
function validated<T>(
  schema: z.ZodType<T>,
  json: unknown,
  { path, family }: { readonly path: string; readonly family: Family },
): T {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const [issue] = result.error.issues, keys = issue?.path ?? [];
  const message = issue?.message.replace(/, received undefined$/, "").replace(/^Invalid \w+: /, "") ?? "";
  const key = keys.map((name) => ownKey(family, String(name))).join(".") || "the file";
  const fix = keys[0] === "quantization_config" ? "give the model without quantisation, or a GGUF" : undefined;
  throw keyError(path, { key, rule: `${key}: ${message}`, value: shownJson(valueAt(json, keys)), fix });
}
