import assert from "node:assert/strict";
import { tokenizerFromGguf } from "../../lib/formats/gguf/tokenizer.ts";
import { mergesByScore } from "../../lib/formats/gguf/tokenizer_parts.ts";
import { ggufTokenizerMetadata } from "../../lib/formats/gguf/tokenizer_export.ts";
import { familyByName } from "../../lib/text/pre_tokenizers.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { promptStyle } from "../../lib/data/prompts/format.ts";
import { isObject } from "../../lib/core/guards.ts";
import { createTokenizer, surroundingTokens, type Tokenizer } from "../../lib/text/tokenizer.ts";
import { exportModel } from "../../lib/local/export_model.ts";
import { checkRefusal, refuses, rejects } from "../refuses.ts";
import { randomSource, SPEC } from "../formats/models.ts";
import { golden, inFolder, tokenizerOf, withConfig } from "./fixtures.ts";

/** The metadata of the SentencePiece model, as a converter writes it. */
async function sentencePieceMetadata(): Promise<Map<string, unknown>> {
  const { tokens, scores, types } = await golden("sentencepiece");
  return new Map<string, unknown>([
    ["general.architecture", "llama"],
    ["tokenizer.ggml.model", "llama"],
    ["tokenizer.ggml.tokens", tokens],
    ["tokenizer.ggml.scores", Float32Array.from(scores)],
    ["tokenizer.ggml.token_type", Int32Array.from(types)],
    ["tokenizer.ggml.bos_token_id", 1],
    ["tokenizer.ggml.eos_token_id", 2n],
    ["tokenizer.ggml.unknown_token_id", 0],
    ["tokenizer.ggml.padding_token_id", 4294967295],
  ]);
}

/** Metadata as it is read back: without anything but the entries. */
function written(tokenizer: Tokenizer, vocab?: number): Map<string, unknown> {
  return new Map<string, unknown>(ggufTokenizerMetadata(tokenizer, vocab === undefined ? {} : { vocab }));
}

Deno.test("a GGUF's SentencePiece vocabulary encodes as SentencePiece itself", async () => {
  const tokenizer = tokenizerFromGguf(await sentencePieceMetadata());
  const { sentencepiece, cases } = await golden("sentencepiece");
  assert(sentencepiece.length > 100);
  for (const { text, ids } of sentencepiece) assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
  for (const { ids, decoded } of cases) assert.equal(tokenizer.decode(ids), decoded);
  assert.deepEqual([tokenizer.bosId, tokenizer.eosId, tokenizer.padId], [1, 2, null]);
  assert.deepEqual([tokenizer.leading, tokenizer.trailing], [[1], []]);
});

Deno.test("add_space_prefix = false encodes without the space before a text", async () => {
  const metadata = await sentencePieceMetadata();
  const prefixed = tokenizerFromGguf(metadata);
  const bare = tokenizerFromGguf(metadata.set("tokenizer.ggml.add_space_prefix", false));
  assert.deepEqual(bare.encode(" stone"), prefixed.encode("stone"));
  assert.equal(bare.decode(bare.encode(" stone")), " stone");
  assert.notDeepEqual(bare.encode("stone"), prefixed.encode("stone"));
});

Deno.test("a byte-level tokenizer survives the way into a GGUF and back", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const metadata = written(tokenizer);
  assert.equal(metadata.get("tokenizer.ggml.model"), "gpt2");
  assert.equal(metadata.get("tokenizer.ggml.pre"), "smollm");
  assert.equal(metadata.get("tokenizer.ggml.eos_token_id"), 2);
  assert.equal(metadata.get("tokenizer.ggml.bos_token_id"), undefined);
  assert.equal(metadata.get("tokenizer.ggml.add_bos_token"), false);
  const back = tokenizerFromGguf(metadata);
  for (const { text, ids, decoded } of (await golden("byte_level")).cases) {
    assert.deepEqual(back.encode(text, { addSpecial: true }), ids, JSON.stringify(text));
    assert.equal(back.decode(ids), decoded);
  }
  assert.equal(back.chatTemplate, tokenizer.chatTemplate);
  assert.deepEqual([back.bosId, back.eosId, back.padId], [null, 2, 0]);
  assert.deepEqual([0, 1, 2, 3].map(back.isSpecial), [true, true, true, false]);
});

Deno.test("a SentencePiece-like tokenizer survives the way into a GGUF and back", async () => {
  const tokenizer = await tokenizerOf("sentencepiece");
  const metadata = written(tokenizer);
  const { types, cases } = await golden("sentencepiece");
  assert.equal(metadata.get("tokenizer.ggml.model"), "llama");
  assert.deepEqual([...metadata.get("tokenizer.ggml.token_type") as Int32Array], types);
  assert.equal(metadata.get("tokenizer.ggml.add_bos_token"), true);
  assert.equal(metadata.get("tokenizer.ggml.add_space_prefix"), true);
  const back = tokenizerFromGguf(metadata);
  for (const { text, withSpecial } of cases) {
    assert.deepEqual(back.encode(text, { addSpecial: true }), withSpecial, JSON.stringify(text));
  }
});

Deno.test("a tokenizer with byte fallback whose normalizer does more than write spaces is refused", async () => {
  const { json, config } = await tokenizerOf("sentencepiece");
  const own = isObject(json["normalizer"]) ? json["normalizer"]["normalizers"] : [];
  const parts = Array.isArray(own) ? own : [];
  for (const other of [{ type: "NFKC" }, { type: "Replace", pattern: { String: "a" }, content: "▁" }]) {
    const normalizer = { type: "Sequence", normalizers: [other, ...parts] };
    const changed = createTokenizer({ ...json, normalizer }, { config });
    refuses(() => written(changed), "input", { value: '"type"' });
  }
  const pre_tokenizer = { type: "Metaspace", replacement: "_", prepend_scheme: "first", split: false };
  const metaspace = createTokenizer({ ...json, normalizer: null, pre_tokenizer }, { config });
  refuses(() => written(metaspace), "input", { value: ['"normalizer"', '"pre_tokenizer"'] });
});

Deno.test("the layout of prompts survives the way into a GGUF and back", async () => {
  const tokenizer = withConfig(await tokenizerOf("byte_level"), { compresso_style: "plain" }, null);
  assert.equal(promptStyle(tokenizerFromGguf(written(tokenizer))), "plain");
});

Deno.test("metadata that came from a GGUF is given back untouched", async () => {
  const metadata = (await sentencePieceMetadata()).set("tokenizer.ggml.some_new_entry", "kept");
  const found = ggufTokenizerMetadata(tokenizerFromGguf(metadata));
  metadata.delete("general.architecture");
  assert.deepEqual([...found], [...metadata]);
  assert.equal(found.get("tokenizer.ggml.scores"), metadata.get("tokenizer.ggml.scores"));
});

Deno.test("a GGUF gets a token for each embedding row", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const metadata = written(tokenizer, 483);
  const tokens = metadata.get("tokenizer.ggml.tokens") as string[];
  assert.deepEqual(tokens.slice(480), ["[PAD480]", "[PAD481]", "[PAD482]"]);
  assert.deepEqual([...(metadata.get("tokenizer.ggml.token_type") as Int32Array).slice(479)], [1, 5, 5, 5]);
  // Read back, a row without a token stands for no text, as in the folder that it came from.
  const back = tokenizerFromGguf(metadata);
  assert.deepEqual([back.vocabSize, back.idToToken(479), back.idToToken(480)], [480, tokenizer.idToToken(479), null]);
  assert.equal(back.decode([480, 5], { skipSpecial: true }), tokenizer.decode([5]));
  assert.deepEqual(written(back).get("tokenizer.ggml.tokens"), tokens);
  // One that merges would make goes with them.
  const types = Int32Array.from(metadata.get("tokenizer.ggml.token_type") as Int32Array).fill(5, 479, 480);
  const fewer = tokenizerFromGguf(new Map(metadata).set("tokenizer.ggml.token_type", types));
  const made = tokenizer.decode([479]);
  assert.deepEqual([fewer.idToToken(479), fewer.decode(fewer.encode(made))], [null, made]);
  const padded = new Map(metadata).set("tokenizer.ggml.padding_token_id", 482);
  assert.deepEqual([tokenizerFromGguf(padded).padId, tokenizerFromGguf(padded).isSpecial(482)], [482, true]);
});

Deno.test("a GGUF's tokenizer beside an embedding of another size is written into a folder alone, before any file is", async () => {
  const back = tokenizerFromGguf(written(await tokenizerOf("byte_level")));
  const source = randomSource({ ...SPEC, vocab: back.vocabSize + 1 });
  await inFolder(async (out) => {
    const { gguf, skipped } = await exportModel(source, out, { tokenizer: back, name: "x" });
    assert.equal(gguf, null);
    checkRefusal(skipped[0]?.error, "input", { value: 480 });
    await rejects(exportModel(source, `${out}/b`, { tokenizer: back, name: "x", formats: ["gguf"] }), "input", {
      value: 480,
    });
    await assert.rejects(Deno.stat(`${out}/b`), Deno.errors.NotFound);
  });
});

/** Of the byte_level fixture: ordinary tokens, and a text that is cut otherwise where one is found in it before all else. */
const HE = 259, SPACE_A = 263, HERON = "The heron at a stone";

Deno.test("an ordinary token that a GGUF names for padding or BOS stays text, as its type says", async () => {
  const tokenizer = await tokenizerOf("byte_level"), ids = tokenizer.encode(HERON), metadata = written(tokenizer);
  metadata.set("tokenizer.ggml.padding_token_id", HE).set("tokenizer.ggml.bos_token_id", SPACE_A);
  const back = tokenizerFromGguf(metadata);
  assert.deepEqual([back.encode(HERON), back.decode(ids, { skipSpecial: true })], [ids, HERON]);
  assert.deepEqual([back.isSpecial(HE), back.isSpecial(SPACE_A), back.isSpecial(0)], [false, false, true]);
  assert.deepEqual([back.padId, back.bosId, back.leading], [null, null, []]);
  await inFolder(async (out) => {
    await exportModel(randomSource({ ...SPEC, vocab: 480 }), out, { tokenizer: back, formats: ["hf"], name: "x" });
    assert.deepEqual((await openModelFiles(`${out}/model`)).tokenizer?.encode(HERON), ids, "written as a folder");
  });
  const begun = tokenizerFromGguf(new Map(metadata).set("tokenizer.ggml.add_bos_token", true));
  assert.deepEqual([begun.bosId, begun.encode(HERON, { addSpecial: true })], [SPACE_A, [SPACE_A, ...ids]]);
  // Without types the keys are all there is.
  metadata.delete("tokenizer.ggml.token_type");
  const untyped = tokenizerFromGguf(metadata);
  assert.deepEqual([untyped.padId, untyped.isSpecial(HE), untyped.isSpecial(SPACE_A)], [HE, true, true]);
});

Deno.test("EOS of a GGUF ends texts whatever its type, and is found in one by its type or where llama.cpp goes by its text", async () => {
  const tokenizer = await tokenizerOf("byte_level"), ids = tokenizer.encode(HERON), metadata = written(tokenizer);
  const ordinary = tokenizerFromGguf(new Map(metadata).set("tokenizer.ggml.eos_token_id", HE));
  assert.deepEqual([ordinary.eosId, ordinary.isSpecial(HE), ordinary.encode(HERON)], [HE, true, ids]);
  const types = metadata.get("tokenizer.ggml.token_type");
  assert.ok(types instanceof Int32Array);
  const plain = tokenizerFromGguf(new Map(metadata).set("tokenizer.ggml.token_type", types.with(2, 1)));
  assert.deepEqual([plain.eosId, plain.encode(`${HERON}<|end|>`)], [2, [...ids, 2]]);
});

Deno.test("a folder and a GGUF of a model that pads with an ordinary token read texts alike", async () => {
  const tokenizer = withConfig(await tokenizerOf("byte_level"), { pad_token: null }, null);
  await inFolder(async (out) => {
    const source = randomSource({ ...SPEC, vocab: 480, padId: HE, bosId: SPACE_A });
    await exportModel(source, out, { tokenizer, name: "x" });
    const ids = tokenizer.encode(HERON);
    for (const name of ["model", "model.gguf"]) {
      const { tokenizer: read, source: { spec } } = await openModelFiles(`${out}/${name}`);
      assert.deepEqual(read?.encode(HERON), ids, name);
      assert.equal(read.decode(ids, { skipSpecial: true }), HERON, name);
      assert.deepEqual(spec.eosIds.toSorted(), [2, 5], name);
    }
  });
});

Deno.test("tokens without an embedding row are left out of a GGUF, with their merges, scores and ids", async () => {
  // The sentencepiece tokens from 400 on are merged ones and single characters.
  for (const [name, vocab] of [["byte_level", 450], ["sentencepiece", 400]] as const) {
    const whole = await tokenizerOf(name);
    const added = Array.isArray(whole.json["added_tokens"]) ? whole.json["added_tokens"] : [];
    const beyond = { id: whole.vocabSize, content: "<beyond>", special: true, normalized: false };
    const json = { ...whole.json, added_tokens: [...added, beyond] };
    const post_processor = surroundingTokens(json, { bos: "<beyond>", eos: null });
    const config = { ...whole.config, bos_token: "<beyond>", pad_token: "<beyond>" };
    const metadata = written(createTokenizer({ ...json, post_processor }, { config }), vocab);
    const get = (key: string): unknown => metadata.get(`tokenizer.ggml.${key}`);
    const tokens = Array.from({ length: vocab }, (_, id) => whole.idToToken(id));
    assert.deepEqual(get("tokens"), tokens);
    const ids = ["bos_token_id", "padding_token_id", "add_bos_token", "eos_token_id"];
    assert.deepEqual(ids.map(get), [undefined, undefined, false, 2]);
    const before = written(whole);
    for (const key of ["token_type", "scores"]) {
      const [list, all] = [get(key), before.get(`tokenizer.ggml.${key}`)];
      assert.equal(ArrayBuffer.isView(list), ArrayBuffer.isView(all));
      // Of both tokenizers the merges that come first are left.
      if (all instanceof Int32Array || all instanceof Float32Array) assert.deepEqual(list, all.slice(0, vocab), key);
    }
    const back = tokenizerFromGguf(metadata);
    assert.equal(back.vocabSize, vocab);
    if (name === "sentencepiece") continue;
    const [merges, all] = [get("merges"), before.get("tokenizer.ggml.merges")];
    assert.ok(Array.isArray(merges) && Array.isArray(all));
    const kept = new Set(tokens);
    assert.deepEqual(merges, all.filter((merge) => kept.has(merge.replace(" ", ""))));
    assert.ok(merges.length > 100 && merges.length < all.length);
    // Texts that need none of the others are cut as before.
    const alike = (await golden(name)).cases.filter(({ ids }) => ids.every((id) => id < vocab));
    assert.ok(alike.length > 50, `${alike.length}`);
    for (const { text } of alike) assert.deepEqual(back.encode(text), whole.encode(text), JSON.stringify(text));
  }
});

Deno.test("every pre-tokenizer family is recognised in a tokenizer.json and named alike", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  for (const pre of ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "tekken", "gpt-4o", "default"]) {
    const family = familyByName(pre);
    assert(family, pre);
    const model = { ...tokenizer.json["model"] as object, ignore_merges: family.ignoreMerges };
    const json = { ...tokenizer.json, model, pre_tokenizer: family.node };
    assert.equal(written(createTokenizer(json, {})).get("tokenizer.ggml.pre"), pre);
  }
});

Deno.test("splits of digits and words follow tokenizer.ggml.pre", async () => {
  const metadata = written(await tokenizerOf("byte_level"));
  // A vocabulary with the tokens "12", "123" and "234", so that the splits show.
  const tokens = [...metadata.get("tokenizer.ggml.tokens") as string[], "12", "123", "234", "Ġ1"];
  const merges = ["1 2", "12 3", "2 3", "23 4", "Ġ 1"];
  metadata.set("tokenizer.ggml.tokens", tokens).set("tokenizer.ggml.merges", merges);
  metadata.delete("tokenizer.ggml.token_type");
  const cut = (pre: string, text: string): (string | null)[] => {
    const tokenizer = tokenizerFromGguf(metadata.set("tokenizer.ggml.pre", pre));
    return tokenizer.encode(text).map(tokenizer.idToToken);
  };
  assert.deepEqual(cut("gpt-2", " 1234"), ["Ġ", "123", "4"]);
  assert.deepEqual(cut("smollm", " 1234"), ["Ġ", "1", "2", "3", "4"]);
  assert.deepEqual(cut("qwen2", " 1234"), ["Ġ", "1", "2", "3", "4"]);
  assert.deepEqual(cut("llama-bpe", " 1234"), ["Ġ", "123", "4"]);
  assert.deepEqual(cut("llama-bpe", "4123"), ["4", "12", "3"]);
  assert.deepEqual(cut("gpt-2", "4123"), ["4", "123"]);
});

Deno.test("an unknown tokenizer model, an unknown pre and broken entries are named", async () => {
  const bytes = written(await tokenizerOf("byte_level"));
  const change = (key: string, value: unknown): () => Tokenizer => () =>
    tokenizerFromGguf(new Map(bytes).set(`tokenizer.ggml.${key}`, value));
  refuses(change("model", "rwkv"), "input", { value: '"rwkv"' });
  refuses(change("pre", "mystery-7"), "input", { value: '"mystery-7"', names: "tokenizer.ggml.pre" });
  refuses(change("merges", undefined), "input", { names: "tokenizer.ggml.merges" });
  refuses(change("token_type", [1, 2]), "input", { names: 480 });
  refuses(change("eos_token_id", 480), "input", { value: 480, names: [0, 479] });
  const pieces = await sentencePieceMetadata();
  pieces.delete("tokenizer.ggml.scores");
  refuses(() => tokenizerFromGguf(pieces), "input", { names: "tokenizer.ggml.scores" });
});

Deno.test("tokenizers that a GGUF cannot describe are refused", async () => {
  const bytes = await tokenizerOf("byte_level");
  const pre_tokenizer = { type: "ByteLevel", add_prefix_space: true, use_regex: true };
  const prefixed = createTokenizer({ ...bytes.json, pre_tokenizer }, {});
  refuses(() => ggufTokenizerMetadata(prefixed), "input", { names: "gpt-2" });
  const lower = createTokenizer({ ...bytes.json, normalizer: { type: "Lowercase" } }, {});
  refuses(() => ggufTokenizerMetadata(lower), "input", { value: ['"type"', '"Lowercase"'] });
  const words = createTokenizer(
    { added_tokens: [], model: { type: "WordLevel", vocab: { a: 0 }, unk_token: "a" } },
    {},
  );
  refuses(() => ggufTokenizerMetadata(words), "input", { value: "WordLevel", names: "BPE" });
  const pieces = await tokenizerOf("sentencepiece");
  const post_processor = surroundingTokens(pieces.json, { bos: "</s>", eos: null });
  const twice = createTokenizer({ ...pieces.json, post_processor }, {
    config: { ...pieces.config, bos_token: "</s>" },
  });
  assert.equal(ggufTokenizerMetadata(twice).get("tokenizer.ggml.bos_token_id"), 2);
  // Without one of its cuts a token would be merged by llama.cpp and not by the tokenizer.json.
  const model = pieces.json["model"] as { merges: string[][] };
  const merges = model.merges.filter((pair) => pair.join(" ") !== "s tone");
  const sparse = createTokenizer({ ...pieces.json, model: { ...model, merges: merges.slice(0, -40) } }, {});
  refuses(() => ggufTokenizerMetadata(sparse), "input", { value: ['"Gr"', '"ü"'] });
});

Deno.test("tokens of one score, whose cuts are mixed in the merges, have one score again in a GGUF", async () => {
  const { tokens, scores } = await golden("sentencepiece");
  const tied = Float32Array.from(scores, (score: number) => Math.floor(score / 8) * 8);
  const { json, config } = tokenizerFromGguf((await sentencePieceMetadata()).set("tokenizer.ggml.scores", tied));
  const model = json["model"] as { merges: [string, string][] };
  const made = model.merges.map((pair) => pair.join(""));
  assert.ok(made.some((token, index) => token !== made[index - 1] && made.indexOf(token) < index), "no cuts are mixed");
  const found = written(createTokenizer(json, { config })).get("tokenizer.ggml.scores");
  assert.ok(found instanceof Float32Array);
  const known = new Set(made);
  assert.deepEqual(mergesByScore(tokens, found).filter((pair) => known.has(pair.join(""))), model.merges);
  // In an order that no scores give it is refused.
  const turned = createTokenizer({ ...json, model: { ...model, merges: model.merges.toReversed() } }, { config });
  refuses(() => ggufTokenizerMetadata(turned), "input", { value: '"ange"' });
});

Deno.test("mergesByScore() lists every cut of every token, best score first", () => {
  const merges = mergesByScore(["a", "b", "c", "ab", "bc", "abc"], [0, 0, 0, -2, -3, -1]);
  assert.deepEqual(merges, [["ab", "c"], ["a", "bc"], ["a", "b"], ["b", "c"]]);
});
