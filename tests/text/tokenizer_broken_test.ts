// Broken tokenizers: each ends in a named error, on loading or in its use, and in bounded time.
import assert from "node:assert/strict";
import { createTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";
import type { Json } from "../../lib/core/guards.ts";
import { failure } from "./fixtures.ts";

const VOCAB = { a: 0, b: 1, x: 2, "<unk>": 3 };

function tokenizer(json: Json, model: Json = {}): Tokenizer {
  const whole = { type: "BPE", vocab: VOCAB, merges: [], unk_token: "<unk>", ...model };
  return createTokenizer({ added_tokens: [], ...json, model: whole }, {});
}

Deno.test("a vocabulary that is a text is refused on loading", () => {
  assert.throws(() => tokenizer({}, { vocab: "ar" }), failure("input", /model\.vocab is "ar"/));
});

Deno.test("an affix that is no text is refused on loading", () => {
  for (const key of ["end_of_word_suffix", "continuing_subword_prefix", "unk_token"]) {
    assert.throws(
      () => tokenizer({}, { [key]: { toString: 1 } }),
      failure("input", new RegExp(`model\\.${key} is .*not a text`)),
    );
  }
});

Deno.test("a normalizer that makes an endless text ends in a named error", () => {
  const grow = { type: "Replace", pattern: { String: "a" }, content: "a".repeat(117) };
  const made = tokenizer({ normalizer: { type: "Sequence", normalizers: Array(8).fill(grow) } });
  assert.throws(() => made.encode("a"), failure("input", /its steps make no endless text; got: Invalid string length/));
});

Deno.test("a pattern that takes exponential time is refused on loading", () => {
  const splitting = (Regex: string): Tokenizer =>
    tokenizer({ pre_tokenizer: { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false } });
  const start = performance.now();
  for (const pattern of ["(?:a|a)*b|x", "(?:a|a|a|a)+b", "(a*)*b", "(?:a?){20}(?:a+)+b", "(?: | )+x"]) {
    assert.throws(() => splitting(pattern), failure("input", /a pattern takes over 50 ms/), pattern);
  }
  assert(performance.now() - start < 30_000);
  // As published models have them.
  for (const pattern of ["(?=(\\d{3})+(?!\\d))", "\\p{N}{1,3}(?:,\\p{N}{3})*|\\s+(?!\\S)|\\s+", "(?:[a-z]|[A-Z])+"]) {
    assert.equal(splitting(pattern).encode("ab").length, 2, pattern);
  }
});

Deno.test("an added token that is no text, whose length would fill the memory, is refused", () => {
  const content = { length: 1e9 }, added = [{ id: 4, content, special: true, normalized: false }];
  assert.throws(() => tokenizer({ added_tokens: added }), failure("input", /an added token's content is \{"length"/));
  const unigram = { type: "Unigram", vocab: [["a", -1], [content, -2]], unk_id: 0 };
  assert.throws(() => tokenizer({}, unigram), failure("input", /model\.vocab\[1\] is \{"length"/));
});

Deno.test("pieces of a length that never come to the end of a text are refused", () => {
  for (const length of [0, -1, 0.5, "1", null]) {
    const step = { type: "FixedLength", length };
    for (const pre_tokenizer of [step, { type: "Sequence", pretokenizers: [step] }]) {
      assert.throws(() => tokenizer({ pre_tokenizer }), failure("input", /pre_tokenizer\.length is .*above 0/));
    }
  }
  assert.deepEqual(tokenizer({ pre_tokenizer: { type: "FixedLength", length: 1 } }).encode("ab"), [0, 1]);
});
