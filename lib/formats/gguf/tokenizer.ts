// The tokenizer of a GGUF ("gpt2" or "llama") as a tokenizer.json.
import { type CompressoError, refusal, refuse } from "../../core/errors.ts";
import { byteLevel, familyByName, PRE_TOKENIZER_FAMILIES } from "../../text/pre_tokenizers.ts";
import type { Json } from "../../core/guards.ts";
import { mergesByScore, STYLE_KEY, TOKEN_TYPE } from "./tokenizer_parts.ts";
import { createTokenizer, INPUT_NAMES, surroundingTokens, type Tokenizer, UNCUT_KEY } from "../../text/tokenizer.ts";

/** Metadata of a GGUF by key, as its reader decodes it. */
export type GgufMetadata = ReadonlyMap<string, unknown>;

/**
 * Makes the tokenizer of a GGUF. Its `json` and `config` can be written as tokenizer.json and tokenizer_config.json.
 *
 * @throws CompressoError("input") for a tokenizer model other than "gpt2" and "llama", an unknown `tokenizer.ggml.pre`, or broken entries.
 */
export function tokenizerFromGguf(metadata: GgufMetadata): Tokenizer {
  const kind = optionalString(metadata, "tokenizer.ggml.model");
  if (kind !== "gpt2" && kind !== "llama") {
    refuse("input", "cannot read the tokenizer of this GGUF", {
      rule: 'tokenizer.ggml.model is "gpt2" (byte-level BPE) or "llama" (SentencePiece)',
      value: kind === null ? "no such entry" : JSON.stringify(kind),
      fix: "give the Hugging Face folder of the model instead",
    });
  }
  const tokens = strings(metadata, "tokenizer.ggml.tokens");
  const id = (name: string): number | null => tokenId(metadata, `tokenizer.ggml.${name}_token_id`, tokens.length);
  const ids = { bos: id("bos"), eos: id("eos"), unk: id("unknown"), pad: id("padding") };
  const text = (index: number | null): string | null => index === null ? null : tokens[index] ?? null;
  const types = typesOf(metadata, tokens.length);
  // As in llama.cpp, types say which tokens are special: a model may name any token, such as "!", for padding.
  const isPlain = (index: number | null): boolean => {
    const type = index === null ? undefined : types?.[index];
    const isEnd = index === ids.eos && END_TEXTS.test(text(index) ?? "");
    return (type === TOKEN_TYPE.normal || type === TOKEN_TYPE.byte) && !isEnd;
  };
  const special = [ids.bos, ids.eos, ids.pad].filter((index) => !isPlain(index));
  // Rows without a token, which llama.cpp's converter and our export name [PAD<id>]: they have no text.
  const vocabulary = tokens.map((token, index) =>
    types?.[index] === TOKEN_TYPE.unused && !special.includes(index) && index !== ids.unk ? null : token
  );
  const body = kind === "gpt2"
    ? byteLevelBody(metadata, vocabulary)
    : sentencePieceBody(metadata, vocabulary, text(ids.unk));
  const added = addedTokens(types, tokens, special);
  const bare: Json = { version: "1.0", truncation: null, padding: null, added_tokens: added, ...body.nodes };
  const bos = optionalBoolean(metadata, "tokenizer.ggml.add_bos_token") ?? body.addBos ? text(ids.bos) : null;
  const eos = optionalBoolean(metadata, "tokenizer.ggml.add_eos_token") ?? false ? text(ids.eos) : null;
  const json: Json = { ...bare, post_processor: surroundingTokens(bare, { bos, eos }) };
  const config: Json = {
    tokenizer_class: "PreTrainedTokenizerFast",
    // What a config names is special to who reads it.
    ...named("bos_token", isPlain(ids.bos) ? bos : text(ids.bos)),
    ...named("eos_token", text(ids.eos)),
    ...named("unk_token", text(ids.unk)),
    ...named("pad_token", isPlain(ids.pad) ? null : text(ids.pad)),
    add_bos_token: bos !== null,
    add_eos_token: eos !== null,
    clean_up_tokenization_spaces: false,
    model_input_names: INPUT_NAMES,
    ...named(STYLE_KEY, optionalString(metadata, `tokenizer.${STYLE_KEY}`)),
    ...named(UNCUT_KEY, optionalNumber(metadata, `tokenizer.${UNCUT_KEY}`)),
  };
  const own = [...metadata].filter(([key]) => key.startsWith("tokenizer."));
  return createTokenizer(json, {
    config,
    chatTemplate: optionalString(metadata, "tokenizer.chat_template"),
    ggufMetadata: new Map(own),
  });
}

/** Texts that llama.cpp always treats as control tokens. We do so only if the token is EOS. */
const END_TEXTS =
  /^(<\|(eot_id|eom_id|im_end|end|return|call|flush|calls|endoftext|end_of_text)\|>|<\/s>|_?<EOT>|\[EO[ST]\]|<(end_of_turn|end_of_utterance|eos|turn\||｜end▁of▁sentence｜)>)$/;

interface Body {
  readonly nodes: Json;
  readonly addBos: boolean;
}

/** Texts of the ids; null for rows that no token has. */
type Vocabulary = readonly (string | null)[];

function byteLevelBody(metadata: GgufMetadata, vocabulary: Vocabulary): Body {
  const pre = optionalString(metadata, "tokenizer.ggml.pre") ?? "default";
  const family = familyByName(pre);
  if (family === null) {
    refuse("input", "cannot read the tokenizer of this GGUF", {
      rule: `tokenizer.ggml.pre is one of ${PRE_TOKENIZER_FAMILIES.flatMap(({ names }) => names).join(", ")}`,
      value: JSON.stringify(pre),
      fix: "give the Hugging Face folder of the model instead",
    });
  }
  const vocab = vocabOf(vocabulary), merges = strings(metadata, "tokenizer.ggml.merges", { least: 0 });
  // A merge is left out if its result or one of its parts is no token of the vocabulary.
  const isWhole = (merge: string): boolean =>
    [...merge.split(" "), merge.replace(" ", "")].every((token) => Object.hasOwn(vocab, token));
  const model = {
    ...BPE,
    ignore_merges: family.ignoreMerges,
    vocab,
    merges: vocabulary.includes(null) ? merges.filter(isWhole) : merges,
  };
  const nodes: Json = { normalizer: null, pre_tokenizer: family.node, decoder: byteLevel(true), model };
  return { nodes, addBos: family.addBos };
}

function sentencePieceBody(metadata: GgufMetadata, vocabulary: Vocabulary, unknown: string | null): Body {
  const scores = numbers(metadata, "tokenizer.ggml.scores"), count = vocabulary.length;
  if (scores === null || scores.length !== count) {
    throw broken("tokenizer.ggml.scores", `one number for each of the ${count} tokens`, String(scores?.length));
  }
  const prefix = optionalBoolean(metadata, "tokenizer.ggml.add_space_prefix") ?? true;
  const space: Json = { type: "Replace", pattern: { String: " " }, content: "▁" };
  const model = {
    ...BPE,
    unk_token: unknown,
    fuse_unk: true,
    byte_fallback: true,
    ignore_merges: false,
    vocab: vocabOf(vocabulary),
    merges: mergesByScore(vocabulary.map((token) => token ?? ""), scores),
  };
  const nodes: Json = {
    // SentencePiece puts one space before a text, whether or not it starts with one; llama.cpp does so after each
    // special token too.
    normalizer: prefix ? { type: "Sequence", normalizers: [{ type: "Prepend", prepend: "▁" }, space] } : space,
    pre_tokenizer: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(prefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
    model,
  };
  return { nodes, addBos: true };
}

const BPE = {
  type: "BPE",
  dropout: null,
  unk_token: null,
  continuing_subword_prefix: null,
  end_of_word_suffix: null,
  fuse_unk: false,
  byte_fallback: false,
} as const;

function vocabOf(vocabulary: Vocabulary): Json {
  return Object.fromEntries(vocabulary.flatMap((token, index) => token === null ? [] : [[token, index]]));
}

/** Types of the tokens; null if the file does not say them. */
function typesOf(metadata: GgufMetadata, count: number): number[] | null {
  const types = numbers(metadata, "tokenizer.ggml.token_type");
  if (types === null || types.length === count) return types;
  throw broken("tokenizer.ggml.token_type", `one number for each of the ${count} tokens`, String(types.length));
}

function addedTokens(
  types: readonly number[] | null,
  tokens: readonly string[],
  named: readonly (number | null)[],
): Json[] {
  return tokens.flatMap((content, id) => {
    const type = types?.[id];
    const special = type === TOKEN_TYPE.control || type === TOKEN_TYPE.unknown || named.includes(id);
    if (!special && type !== TOKEN_TYPE.userDefined) return [];
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }];
  });
}

function named(key: string, value: string | number | null): Json {
  return value === null ? {} : { [key]: value };
}

/** A list of texts. The merges of a vocabulary that was cut to its bytes are none. */
function strings(metadata: GgufMetadata, key: string, { least = 1 }: { readonly least?: number } = {}): string[] {
  const value = metadata.get(key);
  if (Array.isArray(value) && value.length >= least && value.every((entry) => typeof entry === "string")) return value;
  throw broken(key, least === 0 ? "a list of strings" : "a list of strings that is not empty", describe(value));
}

function numbers(metadata: GgufMetadata, key: string): number[] | null {
  const value = metadata.get(key);
  if (value === undefined) return null;
  const list = ArrayBuffer.isView(value) ? Array.from(value as unknown as ArrayLike<unknown>) : value;
  if (Array.isArray(list) && list.every((entry) => typeof entry === "number" && Number.isFinite(entry))) return list;
  throw broken(key, "a list of finite numbers", describe(value));
}

function tokenId(metadata: GgufMetadata, key: string, count: number): number | null {
  const value = metadata.get(key);
  if (value === undefined) return null;
  const id = Number(value);
  // Some writers store 2^32 − 1 for "none", or −1.
  if (id === 4294967295 || id === -1) return null;
  // As llama.cpp does, which only warns: nothing is generated or cut by these.
  if (id >= count && /padding|unknown/.test(key)) return null;
  if (Number.isInteger(id) && id >= 0 && id < count) return id;
  throw broken(key, `an id from 0 to ${count - 1}`, describe(value));
}

function optionalString(metadata: GgufMetadata, key: string): string | null {
  const value = metadata.get(key);
  if (value === undefined || typeof value === "string") return value ?? null;
  throw broken(key, "a string", describe(value));
}

function optionalNumber(metadata: GgufMetadata, key: string): number | null {
  const value = metadata.get(key);
  if (value === undefined || typeof value === "number") return value ?? null;
  throw broken(key, "a number", describe(value));
}

function optionalBoolean(metadata: GgufMetadata, key: string): boolean | null {
  const value = metadata.get(key);
  if (value === undefined || typeof value === "boolean") return value ?? null;
  throw broken(key, "true or false", describe(value));
}

function describe(value: unknown): string {
  if (value === undefined) return "no such entry";
  return typeof value === "object" ? Object.prototype.toString.call(value) : String(value);
}

function broken(key: string, rule: string, value: string): CompressoError {
  return refusal("input", "cannot read the tokenizer of this GGUF", {
    rule: `${key} is ${rule}`,
    value,
    fix: "download the file again, or convert the model again",
  });
}
