// Where the JavaScript tokenizer library does otherwise than the Rust one. The values are those of the Rust library (tokenizers 0.23.3).
import assert from "node:assert/strict";
import { createStreamDecoder, createTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";
import type { Json } from "../../lib/core/guards.ts";
import { tokenizerOf } from "./fixtures.ts";

const PLAIN = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };

/** A tokenizer of these tokens, for decoding. */
function decoding(tokens: readonly string[], decoder: Json, added: readonly string[] = []): Tokenizer {
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const added_tokens = added.map((content) => ({ id: tokens.indexOf(content), content, ...PLAIN }));
  return createTokenizer({ added_tokens, decoder, model: { type: "WordLevel", unk_token: null, vocab } }, {});
}

Deno.test("a Unigram tokenizer encodes one long stretch without spaces, with and without byte_fallback", () => {
  const bytes = Array.from(
    { length: 256 },
    (_, byte) => [`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`, 0],
  );
  const vocab = [["<unk>", 0], ["▁", -2], ["日", -4], ["a", -3], ...bytes];
  const pre_tokenizer = { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true };
  // Either length is more than a function takes arguments; the library is slow with such words.
  for (const [byte_fallback, length] of [[true, 150_000], [false, 300_000]] as const) {
    const model = { type: "Unigram", unk_id: 0, byte_fallback, vocab };
    const tokenizer = createTokenizer({ pre_tokenizer, model }, {});
    const ids = tokenizer.encode("日".repeat(length));
    assert.equal(ids.length, length + 1, `byte_fallback ${byte_fallback}`);
    assert.deepEqual([ids[0], ids[1], ids.at(-1)], [1, 2, 2]);
    // Unknown characters of a word are one token without byte_fallback, as before.
    const unknown = byte_fallback ? [1, 4 + 0xc3, 4 + 0xa9, 4 + 0xc3, 4 + 0xa9, 3] : [1, 0, 3];
    assert.deepEqual(tokenizer.encode("ééa"), unknown);
  }
});

Deno.test("a Metaspace decoder takes all marks of the first token, or none where none was put before a text", () => {
  const tokens = ["▁▁a", "▁b", "▁", "a", "▁a▁b", "a▁"];
  const cases: readonly (readonly [ids: readonly number[], put: string, never: string])[] = [
    [[0, 1], "a b", "  a b"],
    [[2, 2, 0], "   a", "    a"],
    [[4], "ab", " a b"],
    [[3, 0], "a  a", "a  a"],
    [[5, 3], "aa", "a a"],
    [[2], "", " "],
  ];
  const schemes = [{}, { prepend_scheme: "always" }, { prepend_scheme: "first" }, { prepend_scheme: "never" }];
  // Those before tokenizers 0.15 have add_prefix_space alone.
  for (const scheme of [...schemes, { add_prefix_space: true }, { add_prefix_space: false }]) {
    const node = { type: "Metaspace", replacement: "▁", ...scheme };
    const isNever = "prepend_scheme" in scheme
      ? scheme.prepend_scheme === "never"
      : "add_prefix_space" in scheme && !scheme.add_prefix_space;
    for (const decoder of [node, { type: "Sequence", decoders: [node] }]) {
      const tokenizer = decoding(tokens, decoder);
      for (const [ids, put, never] of cases) {
        const expected = isNever ? never : put, stream = createStreamDecoder(tokenizer);
        assert.equal(tokenizer.decode(ids), expected, JSON.stringify([decoder, ids]));
        assert.equal(
          ids.map((id) => stream.push(id)).join("") + stream.end(),
          expected,
          JSON.stringify([decoder, ids]),
        );
      }
    }
  }
  assert.equal(decoding(["__a", "_b"], { type: "Metaspace", replacement: "_" }).decode([0, 1]), "a b");
});

Deno.test("a ByteLevel decoder gives a token with a character that stands for no byte as it is, within a sequence too", () => {
  const tokens = ["a", "<|日|>", "Ġb", "Ã", "©", "é", "a b", "Ġ日", "ï»¿"], added = ["<|日|>", "a b", "é"];
  const cases: readonly (readonly [ids: readonly number[], text: string])[] = [
    [[0, 1, 2], "a<|日|> b"],
    [[3, 4, 1, 3, 4], "é<|日|>é"],
    [[3, 1, 4], "\uFFFD<|日|>\uFFFD"],
    [[0, 6, 2], "aa b b"],
    // All of its characters stand for bytes, of which the one is no UTF-8.
    [[0, 5], "a\uFFFD"],
    [[0, 7], "aĠ日"],
    [[8, 0], "\uFEFFa"],
  ];
  const node = { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true };
  for (const decoder of [node, { type: "Sequence", decoders: [node] }]) {
    const tokenizer = decoding(tokens, decoder, added);
    for (const [ids, text] of cases) assert.equal(tokenizer.decode(ids), text, JSON.stringify([decoder["type"], ids]));
  }
});

Deno.test("a byte-level tokenizer whose decoder is a sequence decodes and streams its added tokens", async () => {
  const { json } = await tokenizerOf("byte_level"), added = json["added_tokens"];
  assert(Array.isArray(added));
  const tokenizer = createTokenizer({
    ...json,
    added_tokens: [...added, { id: 480, content: "<｜end▁of▁turn｜>", ...PLAIN }],
    decoder: { type: "Sequence", decoders: [json["decoder"]] },
  }, {});
  const text = "Hi 👍<｜end▁of▁turn｜>né", ids = tokenizer.encode(text), stream = createStreamDecoder(tokenizer);
  assert.ok(ids.includes(480));
  assert.equal(tokenizer.decode(ids), text);
  assert.equal(ids.map((id) => stream.push(id)).join("") + stream.end(), text);
});
