// Rewrites a tokenizer for a part of its vocabulary.
import { isObject, type Json } from "../../core/guards.ts";
import { createTokenizer, type Tokenizer, UNCUT_KEY } from "../../text/tokenizer.ts";
import { mergeTexts } from "./pieces.ts";

/** New ids of the tokens that are kept: their places in the list. */
export type NewIds = ReadonlyMap<number, number>;

/** New ids of the kept ids: their positions, in ascending order. */
export function newIds(kept: ArrayLike<number>): NewIds {
  return new Map(Array.from(kept, (id, place) => [id, place]));
}

/**
 * The same tokenizer with only the kept tokens. A merge stays if its two tokens and its result stay. Ids are new in
 * vocabulary, added tokens, post-processor, padding, config and GGUF metadata. A text whose tokens are all kept gets
 * the same tokens as before. Config and metadata state the number of tokens before the first cut.
 *
 * @param kept - Ids that stay, ascending.
 */
export function cutTokenizer(tokenizer: Tokenizer, kept: Int32Array): Tokenizer {
  const ids = newIds(kept), { json, config, chatTemplate, ggufMetadata } = tokenizer;
  const uncut = config[UNCUT_KEY] ?? tokenizer.vocabSize;
  const model = isObject(json["model"]) ? json["model"] : {}, { added_tokens, post_processor, padding } = json;
  const added: readonly unknown[] = Array.isArray(added_tokens) ? added_tokens : [];
  const cut: Json = {
    ...json,
    added_tokens: added.filter(isObject).flatMap((entry) => withId(entry, ids)),
    ...(post_processor === undefined ? {} : { post_processor: cutProcessor(post_processor, ids) }),
    ...(isObject(padding) ? { padding: cutPadding(padding, ids) } : {}),
    model: Array.isArray(model["vocab"]) ? cutUnigram(model, ids) : cutBpe(model, ids),
  };
  return createTokenizer(cut, {
    config: { ...cutConfig(config, ids), [UNCUT_KEY]: uncut },
    chatTemplate,
    ggufMetadata: ggufMetadata && cutMetadata(ggufMetadata, kept).set(`tokenizer.${UNCUT_KEY}`, uncut),
  });
}

/** An object with its `id` renumbered, in a list; empty if it is cut. */
function withId(entry: Json, ids: NewIds): Json[] {
  const id = ids.get(Number(entry["id"]));
  return id === undefined ? [] : [{ ...entry, id }];
}

function cutBpe(model: Json, ids: NewIds): Json {
  const entries = Object.entries(isObject(model["vocab"]) ? model["vocab"] : {});
  const vocab = new Map(entries.flatMap(([text, old]) => {
    const id = ids.get(Number(old));
    return id === undefined ? [] : [[text, id] as const];
  }));
  const merges: readonly unknown[] = Array.isArray(model["merges"]) ? model["merges"] : [];
  return {
    ...model,
    vocab: Object.fromEntries(vocab),
    merges: merges.filter((merge) => {
      const [left, right] = mergeTexts(merge);
      return vocab.has(left) && vocab.has(right) && vocab.has(left + right);
    }),
  };
}

/** Ids of a Unigram model are the places in its list, so the new ids follow from the shorter list. */
function cutUnigram(model: Json, ids: NewIds): Json {
  const vocab: readonly unknown[] = Array.isArray(model["vocab"]) ? model["vocab"] : [], unknown = model["unk_id"];
  return {
    ...model,
    vocab: vocab.filter((_, id) => ids.has(id)),
    ...(typeof unknown === "number" ? { unk_id: ids.get(unknown) ?? null } : {}),
  };
}

/** A post-processor, which names special tokens with their ids. */
function cutProcessor(node: unknown, ids: NewIds): unknown {
  if (!isObject(node)) return node;
  const { processors, special_tokens: special, sep, cls } = node;
  const pair = (value: unknown): unknown =>
    Array.isArray(value) && typeof value[1] === "number" ? [value[0], ids.get(value[1]) ?? value[1]] : value;
  return {
    ...node,
    ...(Array.isArray(processors) ? { processors: processors.map((inner) => cutProcessor(inner, ids)) } : {}),
    ...(isObject(special)
      ? {
        special_tokens: Object.fromEntries(
          Object.entries(special).map(([text, entry]) => [
            text,
            isObject(entry) && Array.isArray(entry["ids"])
              ? { ...entry, ids: entry["ids"].map((id: unknown) => ids.get(Number(id)) ?? id) }
              : entry,
          ]),
        ),
      }
      : {}),
    ...(sep === undefined ? {} : { sep: pair(sep) }),
    ...(cls === undefined ? {} : { cls: pair(cls) }),
  };
}

function cutPadding(padding: Json, ids: NewIds): Json {
  const id = ids.get(Number(padding["pad_id"]));
  return id === undefined ? padding : { ...padding, pad_id: id };
}

/** tokenizer_config.json lists added tokens by their ids; keys of other ids end with `_token_id`. */
function cutConfig(config: Json, ids: NewIds): Json {
  const listed = config["added_tokens_decoder"];
  const named = Object.entries(config).flatMap(([key, value]): [string, unknown][] => {
    if (!key.endsWith("_token_id") || typeof value !== "number") return [[key, value]];
    const id = ids.get(value);
    return id === undefined ? [] : [[key, id]];
  });
  if (!isObject(listed)) return Object.fromEntries(named);
  const decoder = Object.entries(listed).flatMap(([old, entry]) => {
    const id = ids.get(Number(old));
    return id === undefined ? [] : [[String(id), entry] as const];
  });
  return { ...Object.fromEntries(named), added_tokens_decoder: Object.fromEntries(decoder) };
}

const PER_TOKEN = ["tokenizer.ggml.scores", "tokenizer.ggml.token_type"];

/** The `tokenizer.*` entries of a GGUF. A tokenizer.json within them is left out, since the other entries repeat it. */
function cutMetadata(metadata: ReadonlyMap<string, unknown>, kept: Int32Array): Map<string, unknown> {
  const ids = newIds(kept), cut = new Map<string, unknown>(), list = metadata.get("tokenizer.ggml.tokens");
  const tokens: readonly unknown[] = Array.isArray(list) ? list : [];
  const texts = new Set(Array.from(kept, (id) => tokens[id]));
  for (const [key, value] of metadata) {
    if (key === "tokenizer.huggingface.json") continue;
    if (key === "tokenizer.ggml.tokens") cut.set(key, Array.from(kept, (id) => tokens[id]));
    else if (key === "tokenizer.ggml.merges" && Array.isArray(value)) {
      cut.set(key, value.filter((merge: unknown) => mergedTexts(merge).every((text) => texts.has(text))));
    } else if (PER_TOKEN.includes(key)) cut.set(key, cutList(value, kept));
    else if (/_ids?$/.test(key)) cutIds(value, ids).forEach((id) => cut.set(key, id));
    else cut.set(key, value);
  }
  return cut;
}

function mergedTexts(merge: unknown): readonly string[] {
  const [left, right] = mergeTexts(merge);
  return [left, right, left + right];
}

/** A list with an entry for each token, of the type that it has. */
function cutList(list: unknown, kept: Int32Array): unknown {
  if (list instanceof Int32Array || list instanceof Uint32Array || list instanceof Float32Array) {
    const from = list, to = list.slice(0, kept.length);
    kept.forEach((id, place) => to[place] = from[id] ?? 0);
    return to;
  }
  return Array.isArray(list) ? Array.from(kept, (id) => list[id]) : list;
}

/** One id or a list of ids, renumbered, in a list; empty if it is cut, or is the id of no token. */
function cutIds(value: unknown, ids: NewIds): unknown[] {
  if (value instanceof Int32Array || value instanceof Uint32Array) {
    return [value.filter((old) => ids.has(old)).map((old) => ids.get(old) ?? old)];
  }
  if (typeof value !== "number" && typeof value !== "bigint") return [value];
  const id = ids.get(Number(value));
  return id === undefined ? [] : [id];
}
