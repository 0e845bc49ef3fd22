// Adds tokens of other files of the folder to tokenizer.json, as transformers does.
import { type CompressoError, refusal, refuse } from "../core/errors.ts";
import { isObject, type Json } from "../core/guards.ts";
import { tokenText } from "./tokenizer_json.ts";

/** Other files of a tokenizer's folder that may add tokens. */
export interface OtherFiles {
  /** Content of tokenizer_config.json. */
  readonly config: Json;
  /** Content of special_tokens_map.json; null if it is not read. */
  readonly map: Json | null;
  /** Content of added_tokens.json; null if it is not read. */
  readonly added: Json | null;
}

/**
 * A tokenizer.json with the tokens that only other files name: tokens of `added_tokens_decoder` or added_tokens.json
 * with their ids, and special tokens of a config that are in the vocabulary.
 *
 * As in transformers 5: an entry of tokenizer.json stays unchanged, an id of the vocabulary takes precedence, and a
 * token is special if a config names it so.
 *
 * transformers assigns a new id if another token has the id already. We do not: for a special token other than padding
 * that is an error, because the model's row would be ambiguous; other tokens are left out. A special token without any
 * id is left out too.
 *
 * @throws CompressoError("input") for an ambiguous id, and for an entry that is not a token.
 */
export function withAddedTokens(json: Json, files: OtherFiles): Json {
  const listed: readonly unknown[] = Array.isArray(json["added_tokens"]) ? json["added_tokens"] : [];
  const isListed = new Set(listed.map(tokenText));
  const named = specialTokens(files);
  const declared = declaredTokens(files).filter(({ content }) => !isListed.has(content));
  const others = [...named.keys()].filter((content) => !isListed.has(content));
  if (declared.length === 0 && others.length === 0) return json;
  const ids = vocabularyIds(json["model"]);
  const holders = new Map([...ids].map(([content, id]) => [id, content]));
  for (const token of listed) {
    const content = tokenText(token);
    if (content !== null && isObject(token) && typeof token["id"] === "number") holders.set(token["id"], content);
  }
  const added = new Map<string, Json>(), padding = tokenText(files.config["pad_token"]);
  for (const { id: said, content, flags } of declared) {
    const id = ids.get(content) ?? said, holder = holders.get(id) ?? content;
    if (holder !== content) {
      // Left out: neither ordinary tokens nor padding occur in texts for the model.
      if (!named.has(content) || content === padding) continue;
      throw taken(content, id, holder);
    }
    holders.set(id, content);
    added.set(content, entry(content, id, { ...flags, ...(named.has(content) ? { special: true } : {}) }));
  }
  for (const content of others) {
    const id = ids.get(content);
    if (id === undefined || added.has(content)) continue;
    added.set(content, entry(content, id, { ...named.get(content), special: true }));
  }
  return added.size === 0 ? json : { ...json, added_tokens: [...listed, ...added.values()] };
}

interface Declared {
  readonly id: number;
  readonly content: string;
  readonly flags: Json;
}

/** Tokens that a file gives an id. */
function declaredTokens({ config, added }: OtherFiles): Declared[] {
  const decoder = config["added_tokens_decoder"];
  const tokens = isObject(decoder)
    ? Object.entries(decoder).map(([id, token]) => declared(Number(id), token, { [id]: token }))
    : Object.entries(added ?? {}).map(([content, id]) => declared(id, { content }, { [content]: id }));
  return tokens.sort((a, b) => a.id - b.id);
}

function declared(id: unknown, flags: unknown, written: Json): Declared {
  const content = isObject(flags) ? tokenText(flags) : null;
  if (isObject(flags) && content !== null && typeof id === "number" && Number.isInteger(id) && id >= 0) {
    return { id, content, flags };
  }
  refuse("input", "cannot read the tokenizer's added tokens", {
    rule:
      "added_tokens_decoder of tokenizer_config.json gives each id a token with its content, and added_tokens.json each token an id",
    value: JSON.stringify(written),
    fix: "fetch the files again",
  });
}

/** Tokens that are called special, with what is said of each: by a name that ends with `_token`, or in a list or table of further ones. */
function specialTokens({ config, map }: OtherFiles): Map<string, Json> {
  const settings: Json = { ...config, ...map };
  const names = Object.keys(settings).filter((key) => key.endsWith("_token")).map((key) => settings[key]);
  const tokens = new Map<string, Json>();
  for (const token of [...names, ...furtherTokens(config) ?? furtherTokens(map ?? {}) ?? []]) {
    const content = tokenText(token);
    if (content !== null && content !== "" && !tokens.has(content)) tokens.set(content, isObject(token) ? token : {});
  }
  return tokens;
}

/** The further special tokens of a file, by the name of transformers 5 or else of 4; null if it names none. */
function furtherTokens(settings: Json): unknown[] | null {
  const lists = ["extra_special_tokens", "additional_special_tokens"].map((key): unknown[] => {
    const value = settings[key];
    return Array.isArray(value) ? value : isObject(value) ? Object.values(value) : [];
  });
  return lists.find((list) => list.length > 0) ?? null;
}

/** Ids of a model's own vocabulary, which is a table, or the list of a Unigram model. */
function vocabularyIds(model: unknown): Map<string, number> {
  const vocab = isObject(model) ? model["vocab"] : null, ids = new Map<string, number>();
  const entries: readonly (readonly [unknown, unknown])[] = Array.isArray(vocab)
    ? vocab.map((token: unknown, id) => [Array.isArray(token) ? token[0] : null, id])
    : Object.entries(isObject(vocab) ? vocab : {});
  for (const [content, id] of entries) if (typeof content === "string" && typeof id === "number") ids.set(content, id);
  return ids;
}

/** An entry of `added_tokens`. Where nothing is said, a special token is found in the text as it is, another in the normalized one. */
function entry(content: string, id: number, flags: Json): Json {
  const is = (key: string): boolean => flags[key] === true, special = is("special");
  const normalized = typeof flags["normalized"] === "boolean" ? flags["normalized"] : !special;
  return {
    id,
    content,
    single_word: is("single_word"),
    lstrip: is("lstrip"),
    rstrip: is("rstrip"),
    normalized,
    special,
  };
}

function taken(content: string, id: number, holder: string): CompressoError {
  return refusal("input", `cannot add the token ${JSON.stringify(content)} of a file other than tokenizer.json`, {
    rule: "each id belongs to one token",
    value: `${id} belongs to ${JSON.stringify(holder)}`,
    fix: "put the token into tokenizer.json, or correct its id in tokenizer_config.json or added_tokens.json",
  });
}
