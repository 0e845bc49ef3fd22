import assert from "node:assert/strict";
import { createStreamDecoder, createTokenizer, loadHfTokenizer } from "../../lib/io/tokenizer.ts";
import { failure, type FixtureName, golden, inFolder, tokenizerOf, withConfig } from "./fixtures.ts";

const NAMES: readonly FixtureName[] = ["byte_level", "sentencepiece"];

for (const name of NAMES) {
  Deno.test(`a ${name} tokenizer encodes and decodes every golden string as the reference library`, async () => {
    const tokenizer = await tokenizerOf(name);
    const { cases } = await golden(name);
    assert(cases.length > 100);
    for (const { text, ids, withSpecial, decoded, skipped } of cases) {
      assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
      assert.deepEqual(tokenizer.encode(text, { addSpecial: true }), withSpecial, JSON.stringify(text));
      assert.equal(tokenizer.decode(ids), decoded, JSON.stringify(text));
      assert.equal(tokenizer.decode(ids, { skipSpecial: true }), skipped, JSON.stringify(text));
    }
  });

  Deno.test(`the stream decoder of a ${name} tokenizer gives the whole text and never half a character`, async () => {
    const tokenizer = await tokenizerOf(name);
    for (const { ids, decoded } of (await golden(name)).cases) {
      const decoder = createStreamDecoder(tokenizer);
      const pieces = ids.map((id) => decoder.push(id));
      for (const piece of pieces) assert(!piece.endsWith("\uFFFD"), JSON.stringify(pieces));
      assert.equal(pieces.join("") + decoder.end(), decoded);
    }
  });
}

Deno.test("the stream decoder holds an emoji back until its last byte and gives up a broken one at the end", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const ids = tokenizer.encode("👍");
  assert.equal(ids.length, 4);
  const decoder = createStreamDecoder(tokenizer);
  assert.deepEqual(ids.map((id) => decoder.push(id)), ["", "", "", "👍"]);
  assert.equal(decoder.push(ids[0] ?? -1), "");
  assert.equal(decoder.end(), "\uFFFD");
  assert.equal(decoder.end(), "");
});

Deno.test("the stream decoder leaves special tokens out where asked to", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  const decoder = createStreamDecoder(tokenizer, { skipSpecial: true });
  const pieces = tokenizer.encode("a<|end|>b").map((id) => decoder.push(id));
  assert.deepEqual(pieces, ["a", "", "b"]);
});

Deno.test("a tokenizer tells its special tokens and what it puts around a text", async () => {
  const bytes = await tokenizerOf("byte_level");
  assert.deepEqual([bytes.bosId, bytes.eosId, bytes.padId, bytes.vocabSize], [null, 2, 0, 480]);
  assert.deepEqual([bytes.leading, bytes.trailing], [[], []]);
  assert.deepEqual([bytes.isSpecial(2), bytes.isSpecial(3)], [true, false]);
  const pieces = await tokenizerOf("sentencepiece");
  assert.deepEqual([pieces.bosId, pieces.eosId, pieces.padId, pieces.vocabSize], [1, 2, null, 560]);
  assert.deepEqual([pieces.leading, pieces.trailing], [[1], []]);
  assert.equal(pieces.tokenToId("</s>"), 2);
  assert.equal(pieces.tokenToId("no such token"), null);
  assert.equal(pieces.idToToken(2), "</s>");
  assert.equal(pieces.idToToken(560), null);
});

Deno.test("add_bos_token and add_eos_token of the config replace the post-processor", async () => {
  const tokenizer = await tokenizerOf("sentencepiece");
  const both = withConfig(tokenizer, { add_bos_token: true, add_eos_token: true }, null);
  assert.deepEqual([both.leading, both.trailing], [[1], [2]]);
  assert.deepEqual(both.encode("a", { addSpecial: true }), [1, ...tokenizer.encode("a"), 2]);
  const none = withConfig(tokenizer, { add_bos_token: false }, null);
  assert.deepEqual([none.leading, none.trailing], [[], []]);
});

Deno.test("decode() refuses an id outside the vocabulary and takes no ids at all", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  assert.equal(tokenizer.decode([]), "");
  assert.throws(() => tokenizer.decode([3, 480]), failure("input", /0 to 479; now: 480/));
});

Deno.test("a word-level tokenizer splits words in any script and needs its unknown token", () => {
  const json = {
    added_tokens: [{ id: 0, content: "<unk>", special: true }],
    pre_tokenizer: { type: "Whitespace" },
    model: { type: "WordLevel", unk_token: "<unk>", vocab: { "<unk>": 0, "дом": 1, "house": 2, "!": 3 } },
  };
  const tokenizer = createTokenizer(json, {});
  assert.deepEqual(tokenizer.encode("house дом! cat"), [2, 1, 3, 0]);
  assert.equal(tokenizer.decode([2, 1]), "house дом");
  const model = { ...json.model, unk_token: null, vocab: { house: 2 } };
  const bare = createTokenizer({ ...json, added_tokens: [], model }, {});
  assert.throws(() => bare.encode("cat"), failure("input", /cannot encode a text.*"cat"/));
});

Deno.test("loadHfTokenizer() prefers chat_template.jinja and takes the default of named templates", async () => {
  const { json } = await tokenizerOf("byte_level");
  await inFolder(async (folder) => {
    assert.equal(await loadHfTokenizer(folder), null);
    await Deno.writeTextFile(`${folder}/tokenizer.json`, JSON.stringify(json));
    assert.equal((await loadHfTokenizer(folder))?.chatTemplate, null);
    const chat_template = [{ name: "tool", template: "T" }, { name: "default", template: "D" }];
    const config = { eos_token: { content: "<|end|>" }, chat_template };
    await Deno.writeTextFile(`${folder}/tokenizer_config.json`, JSON.stringify(config));
    const named = await loadHfTokenizer(folder);
    assert.deepEqual([named?.chatTemplate, named?.eosId], ["D", 2]);
    await Deno.writeTextFile(`${folder}/chat_template.jinja`, "J");
    assert.equal((await loadHfTokenizer(folder))?.chatTemplate, "J");
  });
});

Deno.test("loadHfTokenizer() says which file is broken", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/tokenizer.json`, '{"model": ');
    await assert.rejects(loadHfTokenizer(folder), failure("input", /tokenizer\.json.*JSON/));
    await Deno.writeTextFile(`${folder}/tokenizer.json`, '{"model": {"type": "Magic"}}');
    await assert.rejects(loadHfTokenizer(folder), failure("input", /Magic/));
  });
});
