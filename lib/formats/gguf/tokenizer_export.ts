// A tokenizer as `tokenizer.*` metadata of a GGUF, the inverse of tokenizer.ts.
import { type CompressoError, refusal } from "../../core/errors.ts";
import { sampleChat } from "../../text/sample_chat.ts";
import { mergesByScore, STYLE_KEY, TOKEN_TYPE } from "./tokenizer_parts.ts";
import { familyByNode, PRE_TOKENIZER_FAMILIES } from "../../text/pre_tokenizers.ts";
import { isObject, type Json } from "../../core/guards.ts";
import { tokenText } from "../../text/tokenizer_json.ts";
import { type Tokenizer, UNCUT_KEY } from "../../text/tokenizer.ts";

/** A value of the metadata. Numbers are u32 in the file, the arrays i32, f32 and strings. */
export type GgufTokenizerValue = number | boolean | string | readonly string[] | Int32Array | Float32Array;

/**
 * The `tokenizer.*` metadata for a model with `vocab` embedding rows (default: as many as the tokenizer has tokens);
 * missing tokens are filled as unused, and those without a row are left out, with the merges that give them and the ids that name them.
 * A tokenizer that came from a GGUF gives back its entries untouched.
 *
 * @throws CompressoError("input") if GGUF has no way to say what the tokenizer does.
 */
export function ggufTokenizerMetadata(
  tokenizer: Tokenizer,
  options: { readonly vocab?: number } = {},
): Map<string, GgufTokenizerValue> {
  if (tokenizer.ggufMetadata) {
    return untouched(tokenizer.ggufMetadata as ReadonlyMap<string, GgufTokenizerValue>, options);
  }
  const model = isObject(tokenizer.json["model"]) ? tokenizer.json["model"] : {};
  if (model["type"] !== "BPE") {
    throw refused("the model is BPE", String(model["type"]));
  }
  const bytes = isByteLevel(model);
  refuseInChats(tokenizer);
  const rows = options.vocab ?? tokenizer.vocabSize;
  const tokens = Array.from({ length: rows }, (_, id) => tokenizer.idToToken(id) ?? `[PAD${id}]`);
  const hasRow = (token: string): boolean => (tokenizer.tokenToId(token) ?? -1) < rows;
  const merges = mergesOf(model).filter((pair) => hasRow(pair.join("")));
  if (!bytes) refuseSplit(tokenizer.json, merges);
  const metadata = new Map<string, GgufTokenizerValue>();
  metadata.set("tokenizer.ggml.model", bytes ? "gpt2" : "llama");
  metadata.set("tokenizer.ggml.pre", bytes ? preOf(tokenizer.json, model) : "default");
  metadata.set("tokenizer.ggml.tokens", tokens);
  if (!bytes) metadata.set("tokenizer.ggml.scores", scoresOf(tokenizer, merges, tokens));
  metadata.set("tokenizer.ggml.token_type", typesOf(tokenizer, model, tokens));
  if (bytes) metadata.set("tokenizer.ggml.merges", merges.map((pair) => pair.join(" ")));
  const unk = tokenText(tokenizer.config["unk_token"]) ?? tokenText(model["unk_token"]);
  const withRow = (id: number | null): number | null => id !== null && id < rows ? id : null;
  const ids = {
    bos: withRow(tokenizer.bosId),
    eos: withRow(tokenizer.eosId),
    unknown: withRow(unk === null ? null : tokenizer.tokenToId(unk)),
    padding: withRow(tokenizer.padId),
  };
  for (const [name, id] of Object.entries(ids)) if (id !== null) metadata.set(`tokenizer.ggml.${name}_token_id`, id);
  // A token that was left out is around no text: llama.cpp would take another in its place.
  const addBos = surrounds(tokenizer.leading, tokenizer.bosId, "before") && ids.bos !== null;
  const addEos = surrounds(tokenizer.trailing, tokenizer.eosId, "after") && ids.eos !== null;
  metadata.set("tokenizer.ggml.add_bos_token", addBos);
  metadata.set("tokenizer.ggml.add_eos_token", addEos);
  metadata.set("tokenizer.ggml.add_space_prefix", bytes ? false : spacePlace(tokenizer.json) !== "none");
  if (tokenizer.chatTemplate !== null) metadata.set("tokenizer.chat_template", tokenizer.chatTemplate);
  const style = tokenizer.config[STYLE_KEY];
  if (typeof style === "string") metadata.set(`tokenizer.${STYLE_KEY}`, style);
  const uncut = tokenizer.config[UNCUT_KEY];
  if (typeof uncut === "number") metadata.set(`tokenizer.${UNCUT_KEY}`, uncut);
  return metadata;
}

/**
 * How llama.cpp will tokenize otherwise than this tokenizer, each difference as a part of a sentence; usually empty.
 *
 * Spaces: llama.cpp adds one at the start of a text and after each added token. Metaspace adds none to a text that
 * begins with a space. With "first" (Llama 2 as saved by transformers 5) it adds none after tokens either.
 *
 * Added tokens: llama.cpp searches the raw text. `normalized` tokens are searched after spaces have become ▁.
 *
 * Throws as {@link ggufTokenizerMetadata}.
 */
export function ggufDifferences(tokenizer: Tokenizer): string[] {
  const { json, ggufMetadata } = tokenizer, model = isObject(json["model"]) ? json["model"] : {};
  if (ggufMetadata !== null || isByteLevel(model)) return [];
  const place = spacePlace(json), [token, ...more] = normalizedTokens(json).map((content) => JSON.stringify(content));
  const others = more.length > 0 ? ` and ${more.length} more` : "";
  return [
    ...place === "start" && addedTokens(json).length > 0 ? ["begins a text after a special token with a space"] : [],
    ...place !== "none" && !normalizers(json).some(isPrepend)
      ? ["puts a space before a text that begins with one"]
      : [],
    ...token === undefined ? [] : [`looks for ${token}${others} before spaces are written as ▁`],
  ];
}

function isByteLevel(model: Json): boolean {
  return model["byte_fallback"] !== true;
}

function addedTokens(json: Json): Json[] {
  return Array.isArray(json["added_tokens"]) ? json["added_tokens"].filter(isObject) : [];
}

/** Refuses tokens of the chat template that llama.cpp reads otherwise: where they take away white space, or see spaces as ▁. Other prompts hold no such tokens. */
function refuseInChats(tokenizer: Tokenizer): void {
  const taking = addedTokens(tokenizer.json).filter(({ lstrip, rstrip }) => lstrip === true || rstrip === true);
  const normalized = normalizedTokens(tokenizer.json);
  if (taking.length + normalized.length === 0 || tokenizer.chatTemplate === null) return;
  const text = sampleChat(tokenizer);
  for (const { content, lstrip, rstrip } of taking) {
    const pieces = typeof content === "string" && content !== "" ? text.split(content) : [];
    const isLeft = lstrip === true && pieces.slice(0, -1).some((piece) => /\s$/.test(piece));
    const isRight = rstrip === true && pieces.slice(1).some((piece) => /^\s/.test(piece));
    if (!isLeft && !isRight) continue;
    throw refused(
      "no added token strips white space of the chat template (lstrip, rstrip)",
      `${JSON.stringify(content)} does, ${isLeft ? "before" : "after"} it`,
    );
  }
  const found = normalized.find((content) => text.includes(content));
  if (found === undefined) return;
  throw refused(
    "no added token of the chat template is sought after spaces are written as ▁ (normalized)",
    `${JSON.stringify(found)} is`,
  );
}

/** Added tokens that a tokenizer seeks in a text whose spaces are ▁ already, which changes them, or makes their ▁ of spaces. */
function normalizedTokens(json: Json): string[] {
  const parts = normalizers(json), prepends = parts.some(isPrepend), writes = parts.some(writesSpaces);
  return addedTokens(json).flatMap(({ content, normalized, special }) => {
    const isNormalized = typeof normalized === "boolean" ? normalized : special !== true;
    if (typeof content !== "string" || content === "" || !isNormalized) return [];
    return prepends || (writes && /[ ▁]/.test(content)) ? [content] : [];
  });
}

/** Refuses splits before each ▁ where a token goes beyond one: llama.cpp would merge it all the same. */
function refuseSplit({ pre_tokenizer: pre }: Json, merges: readonly (readonly [string, string])[]): void {
  if (!isMetaspace(pre) || pre["split"] === false) return;
  const token = merges.map((pair) => pair.join("")).find((token) => token.includes("▁", 1));
  if (token === undefined) return;
  throw refused(
    "no token holds ▁ beyond its first character, or Metaspace leaves texts whole (split: false)",
    `${JSON.stringify(token)} does, and split is ${pre["split"] === undefined ? "not given" : String(pre["split"])}`,
  );
}

function typesOf(tokenizer: Tokenizer, model: Json, tokens: readonly string[]): Int32Array {
  const added = new Map<number, boolean>();
  for (const { id, special } of addedTokens(tokenizer.json)) {
    if (typeof id === "number") added.set(id, special === true);
  }
  const sentencePiece = !isByteLevel(model);
  const unknown = tokenText(model["unk_token"]);
  return Int32Array.from(tokens, (token, id) => {
    if (tokenizer.idToToken(id) === null) return TOKEN_TYPE.unused;
    if (sentencePiece && token === unknown) return TOKEN_TYPE.unknown;
    if (added.has(id)) return added.get(id) ? TOKEN_TYPE.control : TOKEN_TYPE.userDefined;
    return sentencePiece && /^<0x[0-9A-F]{2}>$/.test(token) ? TOKEN_TYPE.byte : TOKEN_TYPE.normal;
  });
}

function preOf(json: Json, model: Json): string {
  const normalizer = json["normalizer"];
  if (isObject(normalizer) && normalizer["type"] !== "NFC") {
    throw refused("the normalizer of a byte-level tokenizer is none or NFC", JSON.stringify(normalizer));
  }
  const family = familyByNode(json["pre_tokenizer"], model["ignore_merges"] === true);
  if (family !== null && family.names[0] !== undefined) return family.names[0];
  throw refused(
    `the pre-tokenizer is that of ${PRE_TOKENIZER_FAMILIES.map(({ names }) => names[0]).join(", ")}`,
    JSON.stringify(json["pre_tokenizer"]),
  );
}

/**
 * Scores that make SentencePiece's algorithm merge in the order of the merges. It merges any two neighbours whose text
 * is a token, so the merges must hold every cut of a token into two, and all cuts of a token must be together. Tokens
 * whose cuts are mixed have one score, as Gemma's runs of spaces and line feeds have, where that gives their order again.
 */
function scoresOf(
  tokenizer: Tokenizer,
  merges: readonly (readonly [string, string])[],
  tokens: readonly string[],
): Float32Array {
  const scores = new Float32Array(tokens.length), made = merges.map(([left, right]) => left + right);
  const lastOf = new Map(made.map((token, index) => [token, index]));
  let ranks = 0, end = -1, mixed: string | undefined;
  made.forEach((token, index) => {
    if (index > end) ranks++;
    else if (token !== made[index - 1]) mixed ??= token;
    end = Math.max(end, lastOf.get(token) ?? index);
    const id = tokenizer.tokenToId(token);
    if (id !== null) scores[id] = -ranks;
  });
  const present = new Set(merges.map((pair) => JSON.stringify(pair)));
  const added = new Set(addedTokens(tokenizer.json).map(({ content }) => content));
  const implied = mergesByScore(tokens, scores).filter((pair) => {
    if (present.has(JSON.stringify(pair))) return true;
    if ([pair.join(""), ...pair].some((piece) => added.has(piece))) return false;
    throw refused("every two tokens that together are a token have a merge", `none for ${JSON.stringify(pair)}`);
  });
  const differs = (pair: readonly string[], index: number): boolean => pair.join("\0") !== merges[index]?.join("\0");
  if (mixed !== undefined && implied.some(differs)) {
    throw refused("all merges that give a token are together", `those of ${JSON.stringify(mixed)} do not`);
  }
  for (let id = 0; id < scores.length; id++) {
    // Tokens that no merge gives (single characters) are never compared; they rank last.
    if (scores[id] === 0 && /^.$/u.test(tokens[id] ?? "")) scores[id] = -(ranks + 1);
  }
  return scores;
}

function mergesOf(model: Json): [string, string][] {
  const merges = Array.isArray(model["merges"]) ? model["merges"] : [];
  return merges.map((merge: unknown): [string, string] => {
    const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge;
    const [left, right] = Array.isArray(pair) ? pair : [];
    if (typeof left === "string" && typeof right === "string") return [left, right];
    throw refused("each merge names two tokens", JSON.stringify(merge));
  });
}

/** Where a tokenizer with byte fallback puts a space that the text has not: nowhere, at its start alone, or after each added token too. */
function spacePlace(json: Json): "none" | "start" | "each" {
  const parts = normalizers(json), prepends = parts.some(isPrepend), pre = json["pre_tokenizer"];
  // What else a normalizer does to a text, llama.cpp does not.
  const other = parts.find((part) => !isPrepend(part) && !writesSpaces(part));
  if (other !== undefined) {
    throw refused(
      "the normalizer of a tokenizer with byte fallback writes spaces as ▁ and does nothing else",
      JSON.stringify(other),
    );
  }
  if (isMetaspace(pre)) {
    if (!prepends && pre["prepend_scheme"] === "first") return "start";
    return prepends || pre["prepend_scheme"] !== "never" ? "each" : "none";
  }
  if (parts.some(writesSpaces) && (!isObject(pre) || splitsAtSpaces(pre))) return prepends ? "each" : "none";
  throw refused(
    "a tokenizer with byte fallback writes spaces as ▁, by its normalizer or by Metaspace",
    JSON.stringify({ normalizer: json["normalizer"], pre_tokenizer: pre }),
  );
}

/** The normalizers of a tokenizer in order. */
function normalizers({ normalizer }: Json): Json[] {
  if (!isObject(normalizer)) return [];
  return Array.isArray(normalizer["normalizers"]) ? normalizer["normalizers"].filter(isObject) : [normalizer];
}

function isPrepend(part: Json): boolean {
  return part["type"] === "Prepend" && part["prepend"] === "▁";
}

function isMetaspace(pre: unknown): pre is Json {
  return isObject(pre) && pre["type"] === "Metaspace" && (pre["replacement"] ?? "▁") === "▁";
}

/** A split at spaces, as Gemma has it, which finds none where the normalizer has written them as ▁. */
function splitsAtSpaces({ type, pattern }: Json): boolean {
  return type === "Split" && isObject(pattern) && pattern["String"] === " ";
}

function writesSpaces({ type, pattern, content }: Json): boolean {
  return type === "Replace" && content === "▁" && isObject(pattern) && pattern["String"] === " ";
}

function surrounds(found: readonly number[], id: number | null, where: string): boolean {
  if (found.length === 0) return false;
  if (found.length === 1 && found[0] === id) return true;
  throw refused("a text has only BOS before it and EOS after it", `${found.join(", ")} ${where} a text`);
}

/** The entries unchanged. Refused if the embedding has another size. */
function untouched(
  metadata: ReadonlyMap<string, GgufTokenizerValue>,
  { vocab }: { readonly vocab?: number },
): Map<string, GgufTokenizerValue> {
  const tokens = metadata.get("tokenizer.ggml.tokens");
  if (Array.isArray(tokens) && vocab !== undefined && tokens.length !== vocab) {
    throw refused(`it has a token for each of the ${vocab} rows of the embedding`, `${tokens.length} tokens`);
  }
  return new Map(metadata);
}

function refused(rule: string, value: string): CompressoError {
  return refusal("input", "cannot write this tokenizer into a GGUF", {
    rule,
    value: value.length > 300 ? `${value.slice(0, 300)}…` : value,
    fix: "export as a Hugging Face folder",
  });
}
