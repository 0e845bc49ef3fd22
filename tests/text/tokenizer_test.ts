import assert from "node:assert/strict";
import { tokenizerFromGguf } from "../../lib/formats/gguf/tokenizer.ts";
import { ggufTokenizerMetadata } from "../../lib/formats/gguf/tokenizer_export.ts";
import { isObject } from "../../lib/core/guards.ts";
import { createStreamDecoder, createTokenizer } from "../../lib/text/tokenizer.ts";
import { refuses, rejects } from "../refuses.ts";
import { loadHfTokenizer } from "../disk.ts";
import { fixture } from "../formats/files.ts";
import { type FixtureName, golden, inFolder, tokenizerOf, withConfig } from "./fixtures.ts";

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

// transformers 5 drops both flags where there is a tokenizer.json (version 4 made a post-processor of them), so that
// one flag alone takes no BOS away.
Deno.test("add_bos_token and add_eos_token of the config change nothing about what tokenizer.json puts around a text", async () => {
  const flags = [undefined, true, false];
  for (const [name, leading] of [["byte_level", []], ["sentencepiece", [1]]] as const) {
    const tokenizer = await tokenizerOf(name);
    for (const [bos, eos] of flags.flatMap((bos) => flags.map((eos) => [bos, eos] as const))) {
      const config = { bos_token: "<s>", add_bos_token: bos, add_eos_token: eos };
      const flagged = withConfig(tokenizer, config, null);
      assert.deepEqual([flagged.leading, flagged.trailing], [leading, []], `${name} ${bos} ${eos}`);
      assert.deepEqual(flagged.encode("a", { addSpecial: true }), [...leading, ...tokenizer.encode("a")]);
    }
  }
});

Deno.test("add_bos_token and add_eos_token of a GGUF say what stands around a text", async () => {
  const metadata = new Map<string, unknown>(ggufTokenizerMetadata(await tokenizerOf("sentencepiece")));
  for (const [bos, eos] of [[true, true], [true, false], [false, true], [false, false]]) {
    metadata.set("tokenizer.ggml.add_bos_token", bos).set("tokenizer.ggml.add_eos_token", eos);
    const { leading, trailing } = tokenizerFromGguf(metadata);
    assert.deepEqual([leading, trailing], [bos ? [1] : [], eos ? [2] : []]);
  }
});

Deno.test("clean_up_tokenization_spaces of the config takes no spaces out of a text, whole or streamed", async () => {
  const tokenizer = withConfig(await tokenizerOf("byte_level"), { clean_up_tokenization_spaces: true }, null);
  for (const text of ["Use the 'map' function , or 'sort' .", "x ? y : z ; do n't ! 's"]) {
    const ids = tokenizer.encode(text);
    assert.equal(tokenizer.decode(ids), text);
    const decoder = createStreamDecoder(tokenizer);
    assert.equal(ids.map((id) => decoder.push(id)).join("") + decoder.end(), text);
  }
});

Deno.test("decode() refuses an id outside the vocabulary and takes no ids at all", async () => {
  const tokenizer = await tokenizerOf("byte_level");
  assert.equal(tokenizer.decode([]), "");
  refuses(() => tokenizer.decode([3, 480]), "input", { value: 480, names: [0, 479] });
  // A model with more rows than there are tokens may generate one of them.
  assert.equal(tokenizer.decode([40, 480, 41], { skipSpecial: true }), tokenizer.decode([40, 41]));
  const stream = createStreamDecoder(tokenizer, { skipSpecial: true });
  assert.equal([40, 480, 41].map((id) => stream.push(id)).join("") + stream.end(), tokenizer.decode([40, 41]));
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
  refuses(() => bare.encode("cat"), "input", { value: '"cat"' });
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
    assert.deepEqual(named?.config["chat_template"], chat_template, "kept to be written again");
    await Deno.writeTextFile(`${folder}/chat_template.jinja`, "J");
    assert.equal((await loadHfTokenizer(folder))?.chatTemplate, "J");
    // As newer versions of transformers write what is not the default.
    await Deno.writeTextFile(`${folder}/tokenizer_config.json`, "{}");
    await Deno.mkdir(`${folder}/additional_chat_templates`);
    await Deno.writeTextFile(`${folder}/additional_chat_templates/tool_use.jinja`, "U");
    const beside = await loadHfTokenizer(folder);
    assert.equal(beside?.chatTemplate, "J");
    assert.deepEqual(beside.config["chat_template"], [{ name: "tool_use", template: "U" }]);
  });
});

Deno.test("loadHfTokenizer() takes special tokens from special_tokens_map.json where transformers does", async () => {
  const { json } = await tokenizerOf("byte_level");
  await inFolder(async (folder) => {
    const write = (name: string, value: unknown): Promise<void> =>
      Deno.writeTextFile(`${folder}/${name}.json`, JSON.stringify(value));
    const eos = async (): Promise<number | null | undefined> => (await loadHfTokenizer(folder))?.eosId;
    const [first, last] = ["<|end|>", "a"];
    await write("tokenizer", json);
    await write("special_tokens_map", { eos_token: { content: first }, additional_special_tokens: [last] });
    const tokenizer = await loadHfTokenizer(folder);
    assert.equal(tokenizer?.eosId, tokenizer?.tokenToId(first));
    assert.notEqual(tokenizer?.eosId, null);
    // As transformers takes it in a config: objects would want a type there.
    assert.deepEqual(tokenizer?.config, { eos_token: first });
    await write("tokenizer_config", { eos_token: last });
    assert.equal(await eos(), tokenizer?.tokenToId(first), "the map goes first");
    await write("tokenizer_config", { eos_token: last, added_tokens_decoder: {} });
    assert.equal(await eos(), tokenizer?.tokenToId(last));
    await write("tokenizer_config", { added_tokens_decoder: {} });
    assert.equal(await eos(), null);
  });
});

Deno.test("loadHfTokenizer() reads vocab.json and merges.txt, as OPT has them, like the tokenizer.json of the same tokens", async () => {
  const whole = await loadHfTokenizer(fixture("demo")), { cases } = await golden("byte_level");
  const model = whole?.json["model"];
  assert.ok(whole && isObject(model) && isObject(model["vocab"]) && Array.isArray(model["merges"]));
  const { vocab, merges } = model, [bos = "", id = NaN] = Object.entries(vocab).at(-1) ?? [];
  await inFolder(async (folder) => {
    const write = (name: string, text: string): Promise<void> => Deno.writeTextFile(`${folder}/${name}`, text);
    const lines = merges.map((merge) => Array.isArray(merge) ? merge.join(" ") : String(merge));
    await write("vocab.json", JSON.stringify(vocab));
    assert.equal(await loadHfTokenizer(folder), null, "merges.txt is missing");
    await write("merges.txt", ["#version: 0.2", ...lines, ""].join("\r\n"));
    await write("tokenizer_config.json", JSON.stringify({ add_bos_token: true }));
    await write("special_tokens_map.json", JSON.stringify({ bos_token: bos, eos_token: bos }));
    const read = await loadHfTokenizer(folder);
    assert.deepEqual([read?.bosId, read?.eosId, read?.leading], [id, id, [id]]);
    for (const { text } of cases.filter(({ text }) => !text.includes("<|") && !text.includes(bos))) {
      const ids = whole.encode(text);
      assert.deepEqual(read?.encode(text), ids, JSON.stringify(text));
      assert.deepEqual(read?.encode(text, { addSpecial: true }), [id, ...ids], JSON.stringify(text));
      assert.equal(read?.decode(ids), whole.decode(ids));
    }
  });
});

Deno.test("loadHfTokenizer() says which file is broken", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/tokenizer.json`, '{"model": ');
    await rejects(loadHfTokenizer(folder), "input", { value: "JSON", names: "tokenizer.json" });
    await Deno.writeTextFile(`${folder}/tokenizer.json`, '{"model": {"type": "Magic"}}');
    await rejects(loadHfTokenizer(folder), "input", { value: "TokenizerModel" });
    const { json } = await tokenizerOf("byte_level"),
      broken = (change: object): Promise<void> =>
        Deno.writeTextFile(`${folder}/tokenizer.json`, JSON.stringify({ ...json, ...change }));
    await broken({ post_processor: { type: "TemplateProcessing", special_tokens: {} } });
    await rejects(loadHfTokenizer(folder), "input", { names: "tokenizer.json" });
    await broken({ added_tokens: [{ id: 4e9, content: "<far>", special: true }] });
    await rejects(loadHfTokenizer(folder), "input", { value: [4000000000, 16777216] });
    // Latin-1, which a reader that is not strict takes for texts with a sign of replacement.
    const latin = (text: string): Uint8Array => Uint8Array.from(text, (sign) => sign.charCodeAt(0));
    await broken({});
    await Deno.writeFile(`${folder}/chat_template.jinja`, latin("Frage f\xfcr"));
    await rejects(loadHfTokenizer(folder), "input", { value: "UTF-8", names: "chat_template.jinja" });
    await Deno.writeFile(`${folder}/tokenizer.json`, latin(JSON.stringify({ ...json, name: "f\xfcr" })));
    await rejects(loadHfTokenizer(folder), "input", { value: "UTF-8", names: "tokenizer.json" });
  });
});

// The values of the tests below are those of the Rust library (tokenizers 0.23.3).

Deno.test("a Unigram tokenizer with byte_fallback spells what it does not know in bytes", () => {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  const pieces: [string, number][] = [["▁", -2], ["a", -3], ["▁a", -2.5], ["日", -4]];
  const vocab = [["<unk>", 0], ...bytes.map((byte) => [byte, 0]), ...pieces];
  const json = {
    added_tokens: [{ id: 0, content: "<unk>", special: true, normalized: false }],
    pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: { type: "Unigram", unk_id: 0, byte_fallback: true, vocab },
  };
  const tokenizer = createTokenizer(json, {});
  const ids = [259, 257, 231, 157, 173, 260, 258, 241, 160, 154, 131, 196, 170];
  assert.deepEqual(tokenizer.encode("a 本日a🙂é"), ids);
  assert.equal(tokenizer.decode(ids), "a 本日a🙂é");
  assert.deepEqual(tokenizer.encode("<unk>é"), [0, 257, 196, 170]);
  // Without one of the bytes the unknown characters of a word are one unknown token.
  const fewer = vocab.filter(([token]) => token !== "<0xA9>");
  const partial = createTokenizer({ ...json, model: { ...json.model, vocab: fewer } }, {});
  assert.deepEqual(partial.encode("aéñ ñ é é"), [258, 0, 256, 195, 177, 256, 0, 256, 0]);
  const without = createTokenizer({ ...json, model: { ...json.model, byte_fallback: false } }, {});
  assert.deepEqual(without.encode("aé"), [259, 0]);
});

Deno.test("Punctuation splits as its behavior says, each mark by itself where it says nothing", () => {
  const expected: [string | undefined, string[]][] = [
    [undefined, ["a", "$", "+", "…", "b", "!", "?"]],
    ["Isolated", ["a", "$", "+", "…", "b", "!", "?"]],
    ["Removed", ["a", "b"]],
    ["Contiguous", ["a", "$+…", "b", "!?"]],
    ["MergedWithPrevious", ["a$", "+", "…", "b!", "?"]],
    ["MergedWithNext", ["a", "$", "+", "…b", "!", "?"]],
  ];
  const pieces = [...new Set(expected.flatMap(([, tokens]) => tokens))];
  const vocab = Object.fromEntries(pieces.map((piece, id) => [piece, id]));
  for (const [behavior, tokens] of expected) {
    const pre_tokenizer = { type: "Punctuation", ...(behavior === undefined ? {} : { behavior }) };
    const model = { type: "WordLevel", unk_token: "a", vocab };
    const tokenizer = createTokenizer({ pre_tokenizer, model }, {});
    assert.deepEqual(tokenizer.encode("a$+…b!?").map(tokenizer.idToToken), tokens, behavior);
  }
});

Deno.test("a Split that removes its pattern leaves nothing of it, whether text, groups or a class", () => {
  const vocab = { a: 0, b: 1, " ": 2, "-": 3, "a b-a": 4, "(": 5 };
  const cases: readonly (readonly [pattern: object, text: string, ids: readonly number[]])[] = [
    [{ String: " " }, "a b a", [0, 1, 0]],
    [{ Regex: "( |-)" }, "a b-a", [0, 1, 0]],
    [{ Regex: "(?: )|(?<dash>-)" }, "a b-a", [0, 1, 0]],
    [{ Regex: "[(]| " }, "a b(a", [0, 1, 0]],
    [{ Regex: "\\(|(\\s)" }, "a b(a", [0, 1, 0]],
    [{ Regex: "[[:space:](]" }, "a b(a", [0, 1, 0]],
    [{ Regex: "[](]|( )" }, "a b(a", [0, 1, 0]],
    [{ Regex: "[ [-](]" }, "a b-a(b", [0, 1, 0, 1]],
  ];
  for (const [pattern, text, ids] of cases) {
    const pre_tokenizer = { type: "Split", pattern, behavior: "Removed", invert: false };
    const model = { type: "WordLevel", unk_token: "a", vocab };
    assert.deepEqual(createTokenizer({ pre_tokenizer, model }, {}).encode(text), ids, JSON.stringify(pattern));
  }
});

Deno.test("the token that ends texts is special, whatever its entry says", async () => {
  const { json } = await tokenizerOf("byte_level");
  const added = [{ id: 480, content: "<|done|>", single_word: false, special: false, normalized: false }];
  const tokenizer = createTokenizer({ ...json, added_tokens: added }, { config: { eos_token: "<|done|>" } });
  assert.equal(tokenizer.eosId, 480);
  assert.ok(tokenizer.isSpecial(480));
  const ids = tokenizer.encode("Yes.<|done|>");
  assert.deepEqual([ids.at(-1), tokenizer.decode(ids, { skipSpecial: true })], [480, "Yes."]);
});

Deno.test("createTokenizer() refuses added tokens that match whole words only", async () => {
  const { json } = await tokenizerOf("byte_level");
  const added = { id: 480, content: "cat", single_word: true, special: false, normalized: false };
  refuses(() => createTokenizer({ ...json, added_tokens: [added] }, {}), "input", { value: ["single_word", '"cat"'] });
  assert.ok(createTokenizer({ ...json, added_tokens: [{ ...added, single_word: false }] }, {}));
});
