// Tokenizers and models with a part of their vocabulary.
import assert from "node:assert/strict";
import { tokenizerFromGguf } from "../../../lib/formats/gguf/tokenizer.ts";
import { ggufTokenizerMetadata } from "../../../lib/formats/gguf/tokenizer_export.ts";
import { chooseVocabulary, countTokens } from "../../../lib/slice/vocabulary/choose.ts";
import { cutVocabulary } from "../../../lib/slice/vocabulary/cut.ts";
import { cutTokenizer } from "../../../lib/slice/vocabulary/cut_tokenizer.ts";
import { familyByName } from "../../../lib/text/pre_tokenizers.ts";
import { createTokenizer, type Tokenizer, UNCUT_KEY } from "../../../lib/text/tokenizer.ts";
import { isObject } from "../../../lib/core/guards.ts";
import { loadModelFrom } from "../../../lib/model/model.ts";
import { EMBEDDING } from "../../../lib/spec/decoder.ts";
import { sharedDevice } from "../../device.ts";
import { randomSource, SPEC } from "../../formats/models.ts";
import { golden, tokenizerOf } from "../../text/fixtures.ts";

/** The byte-level tokenizer with another family's splits. */
async function byteLevel(pre: string): Promise<Tokenizer> {
  const { json, config, chatTemplate } = await tokenizerOf("byte_level"), family = familyByName(pre);
  assert(family && isObject(json["model"]));
  const model = { ...json["model"], ignore_merges: family.ignoreMerges };
  return createTokenizer({ ...json, pre_tokenizer: family.node, model }, { config, chatTemplate });
}

/** Unigram with byte fallback, of the SentencePiece tokenizer's tokens. */
async function unigram(): Promise<Tokenizer> {
  const { json, config, chatTemplate } = await tokenizerOf("sentencepiece"), { tokens } = await golden("sentencepiece");
  const vocab = tokens.map((token, id) => [token, -Math.log(id + 2)]);
  return createTokenizer({ ...json, model: { type: "Unigram", unk_id: 0, byte_fallback: true, vocab } }, {
    config,
    chatTemplate,
  });
}

/** One text for each byte of UTF-8 and each block of Unicode, and the texts of the golden values. */
async function texts(): Promise<string[]> {
  const { cases } = await golden("byte_level");
  const ascii = Array.from({ length: 0x80 }, (_, code) => `a${String.fromCharCode(code)}b`);
  const blocks = Array.from({ length: 0x1100 }, (_, block) => String.fromCodePoint(0x80 + 0x100 * block))
    .filter((char) => char.isWellFormed());
  return [...cases.map(({ text }) => text), ...ascii, ...blocks];
}

const TOKENIZERS: Readonly<Record<string, () => Promise<Tokenizer>>> = {
  "GPT-2": () => byteLevel("gpt-2"),
  "SmolLM": () => byteLevel("smollm"),
  "LLaMA 3": () => byteLevel("llama-bpe"),
  "Qwen 2": () => byteLevel("qwen2"),
  "SentencePiece BPE": () => tokenizerOf("sentencepiece"),
  "Unigram": unigram,
};

for (const [name, open] of Object.entries(TOKENIZERS)) {
  Deno.test(`${name}: a cut tokenizer says the same of kept tokens, and decodes every text alike`, async () => {
    const dense = await open(), source = randomSource({ ...SPEC, vocab: dense.vocabSize });
    const counts = countTokens({ tokenizer: dense }, ["the stone and the river, 12 of them", "a house of the river"]);
    const choice = chooseVocabulary({ source, tokenizer: dense }, counts);
    const size = Math.round((choice.least + choice.tokens) / 2), kept = choice.kept(size);
    const cut = cutTokenizer(dense, kept), places = new Map(Array.from(kept, (id, place) => [id, place]));
    assert.equal(cut.vocabSize, size);
    let same = 0, others = 0;
    for (const text of await texts()) {
      const before = dense.encode(text), after = cut.encode(text);
      assert.equal(cut.decode(after), dense.decode(before), JSON.stringify(text));
      if (before.every((id) => places.has(id))) {
        same++;
        assert.deepEqual(after, before.map((id) => places.get(id)), JSON.stringify(text));
      } else others++;
    }
    assert.ok(same > 20 && others > 20, `${same} and ${others} texts`);
    for (const key of ["bosId", "eosId", "padId"] as const) {
      const id = dense[key];
      assert.equal(cut[key], id === null ? null : places.get(id), key);
    }
    assert.deepEqual(cut.leading, dense.leading.map((id) => places.get(id)));
    for (const [id, place] of places) assert.equal(cut.idToToken(place), dense.idToToken(id));
  });
}

Deno.test("tokens that a post-processor names by id are kept", async () => {
  const { json, config, chatTemplate } = await byteLevel("gpt-2"),
    vocab = isObject(json["model"]) && json["model"]["vocab"];
  assert.ok(isObject(vocab));
  const [text, id] = Object.entries(vocab).findLast(([text]) => text.length > 2) ?? ["", 0];
  const own = { [text]: { id: "around", ids: [id], tokens: ["another text"] } };
  const post_processor = {
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id: text, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
    pair: [],
    special_tokens: own,
  };
  const dense = createTokenizer({ ...json, post_processor }, { config, chatTemplate });
  const source = randomSource({ ...SPEC, vocab: dense.vocabSize });
  const choice = chooseVocabulary({ source, tokenizer: dense }, countTokens({ tokenizer: dense }, ["a house"]));
  const kept = choice.kept(choice.least), cut = cutTokenizer(dense, kept);
  assert.ok(kept.includes(Number(id)));
  assert.deepEqual(cut.leading, dense.leading.map((one) => kept.indexOf(one)));
});

Deno.test("a GGUF of a vocabulary without merges is read again", async () => {
  const { json, config } = await byteLevel("gpt-2");
  assert.ok(isObject(json["model"]));
  const own = createTokenizer({ ...json, model: { ...json["model"], merges: [] } }, { config, chatTemplate: null });
  const again = tokenizerFromGguf(ggufTokenizerMetadata(own));
  assert.deepEqual(again.encode("a house"), own.encode("a house"));
});

Deno.test("a GGUF's entries are cut as tokenizer.json is", async () => {
  for (const name of ["byte_level", "sentencepiece"] as const) {
    const own = await tokenizerOf(name), first = tokenizerFromGguf(ggufTokenizerMetadata(own));
    const kept = Int32Array.from(
      Array.from({ length: own.vocabSize }, (_, id) => id).filter((id) => id < 300 || id % 3 > 0),
    );
    const cut = cutTokenizer(first, kept),
      again = tokenizerFromGguf(ggufTokenizerMetadata(cut, { vocab: kept.length }));
    for (const text of await texts()) assert.deepEqual(again.encode(text), cut.encode(text), JSON.stringify(text));
    assert.deepEqual([again.bosId, again.eosId, again.padId], [cut.bosId, cut.eosId, cut.padId]);
    assert.equal(again.vocabSize, kept.length);
    const once = cutTokenizer(own, kept), twice = cutTokenizer(again, kept.subarray(0, 310).map((_, id) => id));
    for (const one of [once, again, twice]) assert.equal(one.config[UNCUT_KEY], own.vocabSize);
    assert.equal(tokenizerFromGguf(ggufTokenizerMetadata(once)).config[UNCUT_KEY], own.vocabSize);
  }
});

Deno.test("ids are new in added tokens, post-processors, padding, config and generation", async () => {
  const tokenizer = await tokenizerOf("sentencepiece");
  const json = {
    ...tokenizer.json,
    padding: { pad_id: 2, pad_token: "</s>" },
    post_processor: {
      type: "Sequence",
      processors: [tokenizer.json["post_processor"], { sep: ["</s>", 2], cls: ["<s>", 1] }],
    },
  };
  const config = { ...tokenizer.config, added_tokens_decoder: { 0: { content: "<unk>" }, 2: { content: "</s>" } } };
  const kept = Int32Array.from([1, 2, ...Array.from({ length: 300 }, (_, place) => 3 + place)]);
  const generation = {
    suppress_tokens: [0, 2],
    bad_words_ids: [[1, 2], [2, 0]],
    forced_bos_token_id: 1,
    sequence_bias: [[[2], 1.5], [[0], 2]],
    top_k: 50,
  };
  const source = Object.assign(randomSource({ ...SPEC, vocab: 560, bosId: 1, eosIds: [2, 0], padId: 2 }), {
    generation,
  });
  // The library reads no sequence of these processors; only their ids are of interest.
  const cut = cutVocabulary({ source, tokenizer: null }, kept);
  assert.deepEqual([cut.source.spec.vocab, cut.source.spec.bosId, cut.source.spec.eosIds, cut.source.spec.padId], [
    302,
    0,
    [1],
    1,
  ]);
  assert.deepEqual("generation" in cut.source && cut.source.generation, {
    suppress_tokens: [1],
    bad_words_ids: [[0, 1]],
    forced_bos_token_id: 0,
    sequence_bias: [[[1], 1.5]],
    top_k: 50,
  });
  const { json: written, config: settings } = cutTokenizer({
    ...tokenizer,
    json: { ...json, post_processor: null },
    config,
  }, kept);
  assert.deepEqual(written["padding"], { pad_id: 1, pad_token: "</s>" });
  assert.deepEqual(settings["added_tokens_decoder"], { 1: { content: "</s>" } });
  assert.deepEqual((written["added_tokens"] as { id: number }[]).map(({ id }) => id), [0, 1]);
});

for (const baseDtype of ["f32", "f16", "q8", "q4"] as const) {
  Deno.test(`logits of kept tokens are the dense model's, bit by bit, with weights in ${baseDtype}`, async () => {
    const device = await sharedDevice();
    for (const tied of [true, false]) {
      const source = randomSource({ ...SPEC, vocab: 200, tied });
      const kept = Int32Array.from(Array.from({ length: 200 }, (_, id) => id).filter((id) => id % 7 !== 3));
      const cut = cutVocabulary({ source, tokenizer: null }, kept);
      using dense = await loadModelFrom(source, { device, baseDtype });
      using small = await loadModelFrom(cut.source, { device, baseDtype });
      const ids = [0, 5, 9, 40, 41, 42], before = await dense.logits(ids.map((id) => kept[id] ?? 0));
      const after = await small.logits(ids);
      const expected = ids.flatMap((_, row) => Array.from(kept, (id) => before[row * 200 + id]));
      assert.deepEqual([...after], expected, `tied ${tied}`);
    }
  });
}

Deno.test("rows that a file stores as blocks stay those blocks", async () => {
  const { spec } = randomSource({ ...SPEC, vocab: 40, hidden: 32 });
  const blocks = (row: number): { codes: Uint8Array; scale: number } => ({
    codes: new Uint8Array(32).fill(row),
    scale: row,
  });
  const source = {
    ...randomSource(spec),
    readBlocks: (_: string, { rows = { start: 0, count: 40 } }: { readonly rows?: { start: number; count: number } }) =>
      Promise.resolve({
        codes: Uint8Array.from(
          { length: rows.count * 32 },
          (_, i) => blocks(rows.start + Math.floor(i / 32)).codes[0] ?? 0,
        ),
        scales: Uint32Array.from({ length: rows.count }, (_, i) => blocks(rows.start + i).scale),
      }),
  };
  const kept = Int32Array.of(1, 2, 7, 30, 39), cut = cutVocabulary({ source, tokenizer: null }, kept).source;
  const found = await cut.readBlocks?.(EMBEDDING, { bits: 8, rows: { start: 1, count: 3 } });
  assert.deepEqual([...found?.scales ?? []], [2, 7, 30]);
  assert.deepEqual([found?.codes[0], found?.codes[32], found?.codes[95]], [2, 7, 30]);
});
