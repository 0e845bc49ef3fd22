// Text to token ids and back, with a tokenizer of a Hugging Face folder.
import { LibraryTokenizer } from "../core/packages.ts";
import { CompressoError, refusal, refuse } from "../core/errors.ts";
import { withAddedTokens } from "./added_tokens.ts";
import { type FileSystem } from "../files/system.ts";
import { gpt2TokenizerJson } from "./gpt2_files.ts";
import { isObject, type Json } from "../core/guards.ts";
import { shownJson, withoutMark } from "../core/text.ts";
import { checkPatterns } from "./slow_patterns.ts";
import { forJavaScript, repairDecoder, repairModel, tokenText } from "./tokenizer_json.ts";

/** What a decoder takes of a tokenizer, as `model_input_names` of tokenizer_config.json says. */
export const INPUT_NAMES: readonly string[] = ["input_ids", "attention_mask"];

/**
 * Number of tokens before the vocabulary was cut: our key in tokenizer_config.json, and in a GGUF after "tokenizer.".
 * Other programs ignore it.
 */
export const UNCUT_KEY = "compresso_uncut_vocab_size";

/** A tokenizer with the files it came from. */
export interface Tokenizer {
  /**
   * Token ids of a text; with `addSpecial` (default false) also the tokens that the tokenizer puts around a text, such
   * as BOS.
   */
  encode(text: string, options?: { readonly addSpecial?: boolean }): number[];
  /**
   * Text of token ids; `skipSpecial` (default false) leaves out special tokens, and ids that no token has. Without it
   * throws `CompressoError("input")` for such an id.
   */
  decode(ids: readonly number[], options?: { readonly skipSpecial?: boolean }): string;
  /** Id of a token by its text in the vocabulary, or null. */
  tokenToId(token: string): number | null;
  /** Text of a token in the vocabulary, or null. */
  idToToken(id: number): string | null;
  /** Whether it is a special token, which decoding with `skipSpecial` leaves out. */
  isSpecial(id: number): boolean;
  /** Highest id + 1. A model's embedding may have more rows. */
  readonly vocabSize: number;
  /** Token that begins a text; null if the config names none. */
  readonly bosId: number | null;
  /** Token that ends a text; null if the config names none. */
  readonly eosId: number | null;
  /** Token that fills batches; null if the config names none. */
  readonly padId: number | null;
  /** Ids that `addSpecial` puts before a text. */
  readonly leading: readonly number[];
  /** Ids that `addSpecial` puts after a text. */
  readonly trailing: readonly number[];
  /** Content of tokenizer.json, with the tokens that other files of the folder add. */
  readonly json: Json;
  /** Content of tokenizer_config.json, without the chat template. */
  readonly config: Json;
  /** Jinja source of the chat template. */
  readonly chatTemplate: string | null;
  /** The `tokenizer.*` entries of the GGUF that the tokenizer came from, else null. */
  readonly ggufMetadata: ReadonlyMap<string, unknown> | null;
}

/** What a tokenizer is made of. */
export interface TokenizerParts {
  /** Content of tokenizer_config.json. */
  readonly config?: Json;
  /** Jinja source of the chat template. */
  readonly chatTemplate?: string | null;
  /** The `tokenizer.*` entries of a GGUF. */
  readonly ggufMetadata?: ReadonlyMap<string, unknown> | null;
}

/** Turns ids into text one by one, for streaming. */
export interface StreamDecoder {
  /** The text that this token completes; empty while a character is still incomplete. */
  push(id: number): string;
  /** The rest, where the stream stops within a character. */
  end(): string;
}

/**
 * Makes a tokenizer from the content of tokenizer.json. Throws `CompressoError("input")` if it is broken or of an
 * unknown kind.
 * As in transformers 5, which tokens stand around a text is for the post-processor of tokenizer.json alone to say:
 * `add_bos_token` and `add_eos_token` in the config count for nothing. Nor does `clean_up_tokenization_spaces`, which it
 * passes over for BPE only.
 */
export function createTokenizer(json: Json, parts: TokenizerParts): Tokenizer {
  const { config = {}, chatTemplate = null, ggufMetadata = null } = parts;
  const model = isObject(json["model"]) ? json["model"] : {};
  const unknown = tokenText(config["unk_token"]) ?? tokenText(model["unk_token"]);
  const library = build(json, {
    ...(unknown === null ? {} : { unk_token: unknown }),
    // Llama 3 sets it, though it takes spaces out of code and quotations, and changes pieces that a stream has given.
    clean_up_tokenization_spaces: false,
  });
  const special = new Set<number>();
  for (const [id, token] of library.get_added_tokens_decoder()) if (token.special) special.add(id);
  // As in transformers, EOS is special even if its entry says otherwise.
  const eos = tokenText(config["eos_token"]), eosId = eos === null ? null : library.token_to_id(eos) ?? null;
  if (eosId !== null) special.add(eosId);
  let vocabSize = 0;
  for (const id of library.get_vocab().values()) vocabSize = Math.max(vocabSize, id + 1);

  const tokenToId = (token: string): number | null => library.token_to_id(token) ?? null;
  const idToToken = (id: number): string | null => library.id_to_token(id) ?? null;
  const encode: Tokenizer["encode"] = (text, options) => {
    const { ids } = guarded(
      "encode a text",
      () => library.encode(text, { add_special_tokens: options?.addSpecial ?? false }),
    );
    if (ids.some((id) => id === undefined)) throw unencodable(text);
    return ids;
  };
  const decode: Tokenizer["decode"] = (ids, options) => {
    // A model may have more rows than there are tokens, and generate one of them: it has no text.
    const isText = (id: number): boolean => idToToken(id) !== null && !special.has(id);
    const kept = options?.skipSpecial ? ids.filter(isText) : [...ids];
    for (const id of kept) if (idToToken(id) === null) throw unknownId(id, vocabSize);
    return kept.length === 0 ? "" : guarded("decode tokens", () => library.decode(kept));
  };
  const named = (key: string): number | null => {
    const text = tokenText(config[key]);
    return text === null ? null : tokenToId(text);
  };
  const around = encode("", { addSpecial: true });
  const bosId = named("bos_token");
  // Around the empty text are BOS-like tokens and then EOS-like ones; a real text shows where they meet.
  const leading = leadingCount(encode, around);
  return {
    encode,
    decode,
    tokenToId,
    idToToken,
    isSpecial: (id) => special.has(id),
    vocabSize,
    bosId,
    eosId,
    padId: named("pad_token"),
    leading: around.slice(0, leading),
    trailing: around.slice(leading),
    json,
    config,
    chatTemplate,
    ggufMetadata,
  };
}

/**
 * Reads the tokenizer of a Hugging Face folder: tokenizer.json, tokenizer_config.json, special_tokens_map.json, added_tokens.json,
 * chat_template.jinja and additional_chat_templates. As in transformers the map goes before the config, unless that has `added_tokens_decoder`, as
 * newer ones do; added_tokens.json counts only without it, too. Tokens that tokenizer.json lacks are in the tokenizer's `json`.
 * Without a tokenizer.json, vocab.json and merges.txt are read as GPT-2's. Gives null if there are neither.
 *
 * @throws CompressoError("input") if a file is broken, or a merge is of unknown tokens, and as {@link withAddedTokens}.
 */
export async function loadHfTokenizer(files: FileSystem, folder: string): Promise<Tokenizer | null> {
  const whole = await readJson(files, `${folder}/tokenizer.json`);
  const vocab = whole ? null : await readJson(files, `${folder}/vocab.json`);
  const merges = vocab ? await files.text(`${folder}/merges.txt`) : null;
  if (!whole && (!vocab || merges === null)) return null;
  const { chat_template: inConfig, ...own } = await readJson(files, `${folder}/tokenizer_config.json`) ?? {};
  const older = (name: string): Promise<Json | null> =>
    "added_tokens_decoder" in own ? Promise.resolve(null) : readJson(files, `${folder}/${name}`);
  const map = await older("special_tokens_map.json"), added = await older("added_tokens.json");
  // Texts only: objects would need a type for transformers, and tokenizer.json has the other fields.
  const special = Object.entries(map ?? {}).flatMap(([key, value]) => {
    const text = tokenText(value);
    return text === null ? [] : [[key, text] as const];
  });
  const others = { ...own, ...Object.fromEntries(special) };
  const json = whole ?? gpt2TokenizerJson({ vocab: vocab ?? {}, merges: merges ?? "", config: others });
  checkMerges(json);
  // Named templates are kept to be written again; the default one is used.
  const named = [...Array.isArray(inConfig) ? inConfig : [], ...await namedTemplates(files, folder)];
  const config = named.length > 0 ? { ...others, chat_template: named } : others;
  const chatTemplate = await files.text(`${folder}/chat_template.jinja`) ?? templateText(inConfig);
  return createTokenizer(withAddedTokens(json, { config: own, map, added }), { config, chatTemplate });
}

/**
 * Refuses a merge of tokens, or into one, that the vocabulary lacks, as Hugging Face's own library does: what is cut or
 * written from it could be read by no program.
 */
function checkMerges({ model }: Json): void {
  if (!isObject(model) || !isObject(model["vocab"]) || !Array.isArray(model["merges"])) return;
  const { vocab, merges, continuing_subword_prefix: prefix } = model, inner = typeof prefix === "string" ? prefix : "";
  for (const [at, merge] of merges.entries()) {
    const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge;
    const [left, right]: readonly unknown[] = Array.isArray(pair) ? pair : [];
    if (typeof left !== "string" || typeof right !== "string") continue; // the library says so
    const missing = [left, right, left + right.slice(inner.length)].find((token) => !Object.hasOwn(vocab, token));
    if (missing === undefined) continue;
    refuse("input", "cannot read tokenizer.json", {
      rule: "each merge is of two tokens into one, all of them in the vocabulary",
      value: `model.merges[${at}] = ${shownJson(merge)}, without ${shownJson(missing)}`,
      fix: "fetch the model's tokenizer again",
    });
  }
}

/** Named templates in addition to the default template, as newer versions of transformers write them. */
async function namedTemplates(files: FileSystem, folder: string): Promise<Json[]> {
  const place = `${folder}/additional_chat_templates`;
  if (await files.info(place) === null) return [];
  const names = (await files.names(place)).filter((name) => name.endsWith(".jinja"));
  return await Promise.all(names.map(async (name) => ({
    name: name.slice(0, -".jinja".length),
    template: withoutMark(await files.text(`${place}/${name}`) ?? ""),
  })));
}

/**
 * A decoder that never emits a part of a character: it holds tokens back until their text no longer ends with U+FFFD.
 */
export function createStreamDecoder(
  tokenizer: Tokenizer,
  options: { readonly skipSpecial?: boolean } = {},
): StreamDecoder {
  // Tokens are decoded together with those of the last piece, because decoders treat the start of a text otherwise (as
  // in HF's DecodeStream).
  let ids: number[] = [];
  let emitted = 0;
  const held = (): string => {
    const before = tokenizer.decode(ids.slice(0, emitted), options);
    return tokenizer.decode(ids, options).slice(before.length);
  };
  return {
    push(id: number): string {
      ids.push(id);
      const text = held();
      if (text === "" || text.endsWith("\uFFFD")) return "";
      ids = ids.slice(emitted);
      emitted = ids.length;
      return text;
    },
    end(): string {
      const text = held();
      ids = [];
      emitted = 0;
      return text;
    },
  };
}

function build(json: Json, config: Json): LibraryTokenizer {
  const absent = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [] };
  try {
    checkModel(json);
    const library = new LibraryTokenizer({ ...absent, ...forJavaScript(json) }, config);
    repairDecoder(library.decoder);
    repairModel(library.model, json["model"]);
    // What is broken in it may show only here.
    library.encode("", { add_special_tokens: true });
    checkPatterns(library, json);
    return library;
  } catch (error) {
    if (error instanceof CompressoError) throw error;
    refuse("input", "cannot read tokenizer.json", {
      rule: "it is a tokenizer of the Hugging Face tokenizers library",
      value: error instanceof Error ? error.message : String(error),
      fix: "fetch the model's tokenizer again",
      cause: error,
    });
  }
}

/** Calls the library: a tokenizer.json that it takes may still hold what it cannot work with. */
function guarded<T>(what: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    refuse("input", `cannot ${what}`, {
      rule: "tokenizer.json is whole, and its steps make no endless text",
      value: error instanceof Error ? error.message : String(error),
      fix: "fetch the model's tokenizer again",
      cause: error,
    });
  }
}

/**
 * Refuses what the library would take as something else: texts and lists of other types, whose `length` it goes by, pieces of a length that is no whole
 * number, and ids that no vocabulary has, since it makes a list as long as the largest.
 */
function checkModel(json: Json): void {
  const { model, added_tokens: added } = json, vocab = isObject(model) ? model["vocab"] : null;
  if (isObject(model)) {
    if (vocab !== undefined && !isObject(vocab) && !Array.isArray(vocab)) {
      throw new Error(`model.vocab is ${shownJson(vocab)}`);
    }
    for (const key of ["unk_token", "continuing_subword_prefix", "end_of_word_suffix"]) {
      const value = model[key] ?? null;
      if (value !== null && typeof value !== "string") {
        throw new Error(`model.${key} is ${shownJson(value)}, not a text`);
      }
    }
  }
  const check = (id: unknown): void => {
    if (typeof id === "number" && Number.isInteger(id) && id >= 0 && id < MOST_TOKENS) return;
    throw new Error(
      `${JSON.stringify(id) ?? "not given"} for a token's id, which is a whole number below ${MOST_TOKENS}`,
    );
  };
  if (isObject(vocab)) { for (const id of Object.values(vocab)) check(id); }
  for (const token of Array.isArray(added) ? added : []) {
    if (!isObject(token)) continue;
    check(token["id"]);
    checkText(token["content"], "an added token's content");
  }
  for (const [at, piece] of (Array.isArray(vocab) ? vocab : []).entries()) {
    checkText(Array.isArray(piece) ? piece[0] : piece, `model.vocab[${at}]`);
  }
  checkLengths(json["pre_tokenizer"]);
}

function checkText(value: unknown, what: string): void {
  if (typeof value !== "string") throw new Error(`${what} is ${shownJson(value)}, not a text`);
}

/** Refuses a pre-tokenizer of pieces whose length never comes to the end of a text. */
function checkLengths(node: unknown): void {
  if (!isObject(node)) return;
  const { type, length, pretokenizers } = node;
  if (type === "FixedLength" && !(typeof length === "number" && Number.isInteger(length) && length > 0)) {
    throw new Error(`pre_tokenizer.length is ${shownJson(length)}, not a whole number above 0`);
  }
  for (const part of Array.isArray(pretokenizers) ? pretokenizers : []) checkLengths(part);
}

const MOST_TOKENS = 2 ** 24;

/** A `TemplateProcessing` node that puts BOS before and EOS after a text. */
export function surroundingTokens(
  json: Json,
  { bos, eos }: { readonly bos: string | null; readonly eos: string | null },
): Json {
  const special = (token: string | null, type_id: number): Json[] =>
    token === null ? [] : [{ SpecialToken: { id: token, type_id } }];
  const around = (id: "A" | "B", type_id: number): Json[] => [
    ...special(bos, type_id),
    { Sequence: { id, type_id } },
    ...special(eos, type_id),
  ];
  const tokens: Record<string, Json> = {};
  for (const token of [bos, eos]) {
    const id = token === null ? null : addedId(json, token);
    if (token !== null && id !== null) tokens[token] = { id: token, ids: [id], tokens: [token] };
  }
  return {
    type: "TemplateProcessing",
    single: around("A", 0),
    pair: [...around("A", 0), ...around("B", 1)],
    special_tokens: tokens,
  };
}

function addedId(json: Json, token: string): number | null {
  const added = Array.isArray(json["added_tokens"]) ? json["added_tokens"] : [];
  const found = added.find((entry) => isObject(entry) && entry["content"] === token);
  if (isObject(found) && typeof found["id"] === "number") return found["id"];
  const vocab = isObject(json["model"]) && isObject(json["model"]["vocab"]) ? json["model"]["vocab"] : {};
  const id = Object.hasOwn(vocab, token) ? vocab[token] : undefined;
  return typeof id === "number" ? id : null;
}

function leadingCount(encode: Tokenizer["encode"], around: readonly number[]): number {
  if (around.length === 0) return 0;
  const bare = encode("a");
  const full = encode("a", { addSpecial: true });
  const first = full.findIndex((_, start) => bare.every((id, offset) => full[start + offset] === id));
  return bare.length === 0 || first < 0 ? around.length : first;
}

function templateText(value: unknown): string | null {
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return null;
  const found = value.find((entry) => isObject(entry) && entry["name"] === "default") ?? value[0];
  return isObject(found) && typeof found["template"] === "string" ? found["template"] : null;
}

async function readJson(files: FileSystem, path: string): Promise<Json | null> {
  const text = await files.text(path);
  if (text === null) return null;
  let value: unknown = null;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw broken(path, error instanceof Error ? error.message : String(error));
  }
  if (!isObject(value)) throw broken(path, "not an object");
  return value;
}

function broken(path: string, value: string): CompressoError {
  return refusal("input", `cannot read ${path}`, {
    rule: "it holds one JSON object",
    value,
    fix: "fetch the file again",
  });
}

function unknownId(id: number, vocabSize: number): CompressoError {
  return refusal("input", "cannot decode a token", {
    rule: `ids of this tokenizer are integers from 0 to ${vocabSize - 1}`,
    value: id,
    fix: "use ids of this tokenizer",
  });
}

function unencodable(text: string): CompressoError {
  return refusal("input", "cannot encode a text", {
    rule: "a tokenizer without unknown token encodes only what its vocabulary holds",
    value: JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text),
    fix: "take the character out of the text, or take a tokenizer with an unknown token",
  });
}
